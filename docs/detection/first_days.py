"""What the first days of a sensor are like: alarms without a known fault, and faults that come early.

    python docs/detection/first_days.py DATA OUT ENGINE

DATA/clean and DATA/injected are cut into pieces that begin as if the sensors had just been put up: the rooms
together, every 55 hours anew, for six days; and each fault with 10, 30 and 60 hours before it, if no other is
in between. ENGINE (the program) runs over both. OUT gets the pieces.
"""

import collections
import datetime
import json
import pathlib
import subprocess
import sys

NODES = (1, 3, 5, 7, 9)
DAY, EVERY, DAYS = 144, 331, 6
HOURS = (10, 30, 60)
MERGED = datetime.timedelta(hours=6)
LATE = datetime.timedelta(minutes=30)
when = datetime.datetime.fromisoformat


def rows_of(file):
    head, *rows = file.read_text().split("\n")
    return head, [(when(row.split(",")[0]), row) for row in rows if row]


def write(file, head, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([head, *rows]) + "\n")


def backtest(engine, pieces):
    """Runs the engine over a directory; gives name → (beginning, [(time, sensor)] of what was told)."""
    out = pieces.with_name(pieces.name + "-scores")
    command = [engine, "backtest", pieces, "--out", out, "--data-dir", out / "data"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    told = {}
    for file in sorted(out.glob("*.csv")):
        head, rows = rows_of(file)
        names = head.split(",")
        at, rule = names.index("episode_score"), names.index("rule")
        fields = [(time, row.split(",")) for time, row in rows]
        alarms = [(time, row[3], row[rule]) for time, row in fields if float(row[at]) >= 0.5 and row[rule]]
        told[file.name] = (fields[0][0], alarms)
    return told


def rooms(data, out, engine):
    series = {node: rows_of(data / "clean" / f"node{node}.csv")[1] for node in NODES}
    starts = range(0, len(series[NODES[0]]) - DAYS * DAY, EVERY)
    for number, start in enumerate(starts):
        rows = []
        for at in range(start, start + DAYS * DAY):
            for node in NODES:
                for _, row in series[node][at:at + 1]:
                    time, *values = row.split(",")
                    rows.append(",".join([time, f"room{node}", *values[:2]]))
        write(out / "rooms" / f"{number:03}.csv", "timestamp,sensor,temperature,humidity", rows)
    counts, lasting = collections.defaultdict(collections.Counter), {}
    for name, (begun, alarms) in backtest(engine, out / "rooms").items():
        for time, sensor, rule in alarms:
            before = lasting.get((name, sensor))
            lasting[name, sensor] = time
            if before is None or time - before >= MERGED:
                counts[(time - begun).days][rule] += 1
    sensors = len(starts) * len(NODES)
    print(f"alarms per sensor and week, {sensors} sensors:")
    for day in range(DAYS):
        rules = ", ".join(f"{rule} {count}" for rule, count in counts[day].most_common())
        print(f"  day {day + 1}: {7 * sum(counts[day].values()) / sensors:.2f} ({rules})")


def faults(data, out, engine, hours):
    pieces, labels = out / f"faults{hours}", {}
    for name, there in json.loads((data / "injected" / "labels.json").read_text()).items():
        head, rows = rows_of(data / "injected" / name)
        spans = [(when(fault["start"]), when(fault["end"])) for fault in there]
        for number, (start, end) in enumerate(spans):
            first = start - datetime.timedelta(hours=hours)
            others = spans[:number] + spans[number + 1:]
            if any(begin <= end and stop >= first for begin, stop in others):
                continue
            last = min([end + MERGED, *(begin for begin, _ in others if begin > end)])
            piece = f"{pathlib.Path(name).stem}_{number}.csv"
            write(pieces / piece, head, [row for time, row in rows if first <= time <= last])
            labels[piece] = (start, end, there[number]["fault"])
    found, all_of = collections.Counter(), collections.Counter()
    for piece, (_, alarms) in backtest(engine, pieces).items():
        start, end, fault = labels[piece]
        all_of[fault] += 1
        found[fault] += any(start <= time <= end + LATE for time, *_ in alarms)
    kinds = ", ".join(f"{kind} {found[kind]}/{count}" for kind, count in sorted(all_of.items()))
    print(f"faults after {hours} hours: {sum(found.values())} of {sum(all_of.values())} ({kinds})")


def main():
    data, out = map(pathlib.Path, sys.argv[1:3])
    rooms(data, out, sys.argv[3])
    for hours in HOURS:
        faults(data, out, sys.argv[3], hours)


main()
