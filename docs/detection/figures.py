"""Draws the figures of docs/detection.md: what was found against what it costs, and example streams.
Prints how often the rule that is named fits the fault.

    engine backtest DATA/injected --labels DATA/injected/labels.json --out OUT/injected > OUT/injected.txt
    engine backtest DATA/clean --out OUT/clean
    python docs/detection/figures.py DATA OUT docs/detection

Needs numpy, pandas and matplotlib. DATA/injected has CSV files (timestamp, temperature, humidity) and
labels.json; DATA/clean has CSV files of the same form without known faults.
"""

import json
import pathlib
import re
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

HOUR = pd.Timedelta("1h")
GRACE, ECHO, MERGE, WARM = HOUR / 2, 6 * HOUR, 6 * HOUR, 72 * HOUR

# Which rules tell a person what kind of fault it is: a jump is the whole of a spike and the beginning of
# a level shift, but only the end of a drift or the edge of a break.
FITS = {
    "spike": {"rate"},
    "level_shift": {"rate", "season", "level", "novelty", "z"},
    "drift": {"season", "level", "novelty", "z"},
    "stuck": {"stuck"},
    "noise_burst": {"noise"},
    "dropout": {"silence"},
    "sentinel": {"range"},
    "battery_death": {"range", "season", "level", "novelty", "z"},
    "season_break": {"season", "level", "novelty", "z", "forest"},
}


def read(file):
    table = pd.read_csv(file)
    table["timestamp"] = pd.to_datetime(table["timestamp"])
    return table.sort_values("timestamp", kind="stable")


def episodes(times):
    times = np.sort(np.asarray(times, dtype="datetime64[ns]"))
    return 0 if len(times) == 0 else 1 + int((np.diff(times) > MERGE.to_timedelta64()).sum())


def faults_of(labels):
    return [(pd.Timestamp(x["start"]), pd.Timestamp(x["end"]), x["fault"]) for x in labels]


def fitting(data, out):
    """Of the faults found: those whose incident is explained by a rule that fits, as the report of the
    backtest has it, and those whose first alarm alone names one."""
    first = {kind: [0, 0] for kind in FITS}
    labels = json.loads((data / "injected/labels.json").read_text())
    for name in labels:
        table = read(out / "injected" / name)
        warm = table["timestamp"] >= table["timestamp"].iloc[0] + WARM
        alarms = table[(table["score"] >= 0.5) & warm]
        for start, end, kind in faults_of(labels[name]):
            inside = (alarms["timestamp"] >= start) & (alarms["timestamp"] <= end + GRACE)
            if inside.any():
                first[kind][0] += 1
                first[kind][1] += alarms["rule"][inside].iloc[0] in FITS[kind]
    explained = dict.fromkeys(FITS, 0)
    for line in (out / "injected.txt").read_text().splitlines():
        words = line.split()
        if words and words[0] in FITS and "/" in words[1]:
            rules = re.findall(r"([a-z]+) (\d+)(?:,|$)", line)
            explained[words[0]] = sum(int(n) for rule, n in rules if rule in FITS[words[0]])
    print(f"{'fault':<14} {'found':>5} {'explained by a rule that fits':>30} {'at the first alarm':>19}")
    for kind, (found, fits) in sorted(first.items()):
        print(f"{kind:<14} {found:>5} {explained[kind]:>30} {fits:>19}")
    found, fits = (sum(counts[i] for counts in first.values()) for i in (0, 1))
    whole = sum(explained.values())
    print(f"{'all':<14} {found:>5} {whole:>23} = {whole / found:.2f} {fits:>12} = {fits / found:.2f}")


def budget(data, out, into):
    labels = json.loads((data / "injected/labels.json").read_text())
    streams = {name: read(out / "injected" / name) for name in labels}
    lines = np.unique(np.r_[np.linspace(0.35, 0.8, 46), 0.5])
    wrong, recall, precision = [], [], []
    for line in lines:
        weeks = found = total = false = 0
        for name, table in streams.items():
            first = table["timestamp"].iloc[0] + WARM
            weeks += (table["timestamp"].iloc[-1] - first) / (168 * HOUR)
            alarms = table[(table["score"] >= line) & (table["timestamp"] >= first)]["timestamp"]
            stray = np.ones(len(alarms), bool)
            for start, end, _ in faults_of(labels[name]):
                total += 1
                found += bool(((alarms >= start) & (alarms <= end + GRACE)).any())
                stray &= ~((alarms >= start) & (alarms <= end + ECHO)).to_numpy()
            false += episodes(alarms[stray])
        wrong.append(false / weeks)
        recall.append(found / total)
        precision.append(found / max(found + false, 1))
    rooms = []
    tables = [read(file) for file in sorted((out / "clean").glob("*.csv"))]
    for line in lines:
        weeks = false = 0
        for table in tables:
            first = table["timestamp"].iloc[0] + WARM
            weeks += (table["timestamp"].iloc[-1] - first) / (168 * HOUR)
            false += episodes(
                table[(table["score"] >= line) & (table["timestamp"] >= first)]["timestamp"]
            )
        rooms.append(false / weeks)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    left.plot(wrong, recall, label="recall")
    left.plot(wrong, precision, label="precision")
    own = int(np.flatnonzero(lines == 0.5)[0])
    left.plot([wrong[own]], [recall[own]], "ko", label="the engine's own line")
    left.set(xscale="log", xlabel="false alarms per sensor and week", ylim=(0, 1))
    left.set_title("200 injected faults, 25 streams")
    left.legend()
    left.grid(alpha=0.3)
    right.plot(lines / (1 - lines), rooms, label="rooms without known faults")
    right.plot(lines / (1 - lines), wrong, label="between injected faults")
    right.set(yscale="log", xlabel="lines, times as far away", ylabel="alarms per sensor and week")
    right.set_title("what higher lines save")
    right.axvline(1, color="k", lw=0.5)
    right.legend()
    right.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(into / "budget.png", dpi=110)


def examples(data, out, into):
    labels = json.loads((data / "injected/labels.json").read_text())
    wanted = ["spike", "level_shift", "drift", "stuck", "noise_burst", "dropout", "battery_death",
              "season_break"]
    figure, axes = plt.subplots(4, 2, figsize=(11, 13))
    for kind, axis in zip(wanted, axes.flat):
        name, label = next(
            (name, label)
            for name in sorted(labels)
            for label in labels[name]
            if label["fault"] == kind and "node5" not in name
        )
        start, end = pd.Timestamp(label["start"]), pd.Timestamp(label["end"])
        values, scores = read(data / "injected" / name), read(out / "injected" / name)
        quantity = "temperature" if label["channel"] == "both" else label["channel"]
        around = lambda t: (t >= start - 36 * HOUR) & (t <= end + 18 * HOUR)
        shown = values[around(values["timestamp"])]
        axis.plot(shown["timestamp"], shown[quantity], lw=0.8)
        axis.axvspan(start, end, color="tab:orange", alpha=0.25)
        alarms = scores[around(scores["timestamp"]) & (scores["score"] >= 0.5)]
        last = None
        for _, alarm in alarms.iterrows():
            if last is None or alarm["timestamp"] - last > MERGE:
                axis.axvline(alarm["timestamp"], color="tab:red", lw=1)
                axis.text(alarm["timestamp"], axis.get_ylim()[1], f" {alarm['rule']}", color="tab:red",
                          va="top", fontsize=8)
            last = alarm["timestamp"]
        axis.set_title(f"{kind}: {name}, {quantity}", fontsize=9)
        axis.tick_params(labelsize=7, axis="x", rotation=20)
    figure.suptitle("Injected faults (shaded), and the first alarm of each episode with its rule (red)")
    figure.tight_layout()
    figure.savefig(into / "examples.png", dpi=90)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    data, out, into = map(pathlib.Path, sys.argv[1:])
    fitting(data, out)
    budget(data, out, into)
    examples(data, out, into)
