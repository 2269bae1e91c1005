"""Puts faults of nine kinds into streams without known faults, and writes where they are.

    python docs/detection/faults.py DATA/clean OUT SEED

DATA/clean has CSV files (timestamp, temperature, humidity) of one reading every ten minutes. Of each, five
pieces of 27 days get seven or eight faults, from the eighth day on. OUT gets them, and labels.json. Needs
numpy and pandas.
"""

import json
import pathlib
import sys

import numpy as np
import pandas as pd

KINDS = ["spike", "level_shift", "drift", "stuck", "noise_burst", "dropout", "sentinel", "season_break"]
ROWS, PIECES, FIRST, DAY = 3880, 5, 1050, 144
# Temperature in °C, humidity in %.
SIZES = {
    "spike": {"temperature": 2.0, "humidity": 6.0},
    "level_shift": {"temperature": 2.0, "humidity": 6.0},
    "drift": {"temperature": 3.0, "humidity": 8.0},
}
CODES = {"temperature": [-127, 85, -40], "humidity": [0, 99.9]}
QUANTITIES = ("temperature", "humidity")


def put(kind, at, values, before, keep, rng):
    """Changes `values` (or `keep`) from row `at` on; gives rows, quantity and magnitude."""
    rows = len(keep)
    quantity = QUANTITIES[rng.integers(2)]
    of, size = values[quantity], 0.0
    sign = rng.choice([-1, 1])
    usual = np.std(before[quantity][max(0, at - 7 * DAY):at])
    if kind == "spike":
        length = int(rng.integers(1, 3))
        size = sign * SIZES[kind][quantity]
        of[at:at + length] += size
    elif kind == "level_shift":
        length = int(rng.integers(12, 49))
        size = sign * max(SIZES[kind][quantity], 2.5 * usual * rng.uniform(0.8, 1.2) * 0.8)
        of[at:at + length] += size
    elif kind == "drift":
        length = int(rng.integers(36, 60))
        size = sign * max(SIZES[kind][quantity], 3.0 * usual * 0.8)
        of[at:at + length] += np.linspace(0, size, length)
    elif kind == "stuck":
        length = int(rng.integers(24, 58))
        of[at:at + length] = of[at]
    elif kind == "noise_burst":
        length = int(rng.integers(12, 48))
        size = 0.7 * rng.uniform(1, 1.2) if quantity == "temperature" else rng.uniform(2.1, 3.9)
        of[at:at + length] += rng.normal(0, size, length)
    elif kind == "dropout":
        length = int(rng.integers(8, 47))
        keep[at:at + length] = False
        quantity = "both"
    elif kind == "sentinel":
        length = int(rng.integers(1, 5))
        size = float(rng.choice(CODES[quantity]))
        of[at:at + length] = size
    elif kind == "season_break":
        length = int(rng.integers(36, 60))
        for name in QUANTITIES:
            values[name][at:at + length] = before[name][at - DAY // 2:at - DAY // 2 + length]
        quantity = "both"
    else:  # A battery dies: temperature climbs, humidity sinks.
        length = min(int(rng.integers(73, 131)), rows - at - 2)
        way = np.linspace(0, 1, length) ** 2.2
        for name, end in (("temperature", 122), ("humidity", -5)):
            values[name][at:at + length] += (end - values[name][at:at + length]) * way
        quantity, size = "both", 122.0
    return length, quantity, float(size)


def main(clean, out, seed):
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    labels = {}
    for file in sorted(clean.glob("*.csv")):
        whole = pd.read_csv(file, parse_dates=["timestamp"])
        shift = int(rng.integers(0, 900))
        for piece in range(PIECES):
            first = piece * 3860 + (shift if piece < PIECES - 1 else 0)
            first = min(first, len(whole) - ROWS)
            table = whole.iloc[first:first + ROWS].reset_index(drop=True)
            values = {name: table[name].to_numpy().copy() for name in QUANTITIES}
            before = {name: values[name].copy() for name in QUANTITIES}
            keep = np.ones(len(table), bool)
            kinds = list(rng.permutation(KINDS))
            if rng.random() < 0.32:
                kinds = kinds[:7] + ["battery_death"]
            places = np.linspace(FIRST, len(table) - 200, len(kinds) + 1)
            faults = []
            for kind, low, high in zip(kinds, places, places[1:]):
                at = int(rng.integers(int(low), max(int(low) + 1, int(high) - 150)))
                length, quantity, size = put(kind, at, values, before, keep, rng)
                start, end = (str(table["timestamp"][row]) for row in (at, at + length - 1))
                faults.append({"start": start, "end": end, "rows": length, "fault": str(kind),
                               "channel": quantity, "magnitude": size})
            name = f"{file.stem}_part{piece}.csv"
            labels[name] = faults
            for quantity in QUANTITIES:
                table[quantity] = values[quantity].round(2)
            table[keep].to_csv(out / name, index=False)
    (out / "labels.json").write_text(json.dumps(labels))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]))
