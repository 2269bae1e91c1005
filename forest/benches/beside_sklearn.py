"""The crate beside scikit-learn's IsolationForest, in one run, on one thread.

    python forest/benches/beside_sklearn.py       # needs numpy, scikit-learn and cargo

8 features, 100 trees of 256 rows, trained on 2,000 rows.
"""

import os
import subprocess
import time

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from sklearn.ensemble import IsolationForest


def ours():
    command = ["cargo", "run", "--quiet", "--release", "-p", "linfa-isolation-forest"]
    said = subprocess.run([*command, "--example", "speed"], capture_output=True, check=True, text=True)
    return [float(number) for number in said.stdout.split()]


def theirs():
    random = np.random.default_rng(1)
    training = random.uniform(-1, 1, (2000, 8)).astype(np.float32)
    begun = time.perf_counter()
    for seed in range(5):
        forest = IsolationForest(random_state=seed, n_jobs=1).fit(training)
    fit_ms = (time.perf_counter() - begun) / 5 * 1e3
    rows = random.uniform(-1, 1, (100_000, 8)).astype(np.float32)
    begun = time.perf_counter()
    for row in rows[:300]:
        forest.score_samples(row[None, :])
    row_us = (time.perf_counter() - begun) / 300 * 1e6
    begun = time.perf_counter()
    forest.score_samples(rows)
    return fit_ms, row_us, len(rows) / (time.perf_counter() - begun)


ours()  # builds
print(f"{'':24} {'scikit-learn':>14} {'this crate':>14} {'times as fast':>14}")
names = ["train, ms", "one row, µs", "100,000 rows, rows/s"]
for name, other, own in zip(names, theirs(), ours()):
    times = own / other if "rows/s" in name else other / own
    print(f"{name:24} {other:>14,.2f} {own:>14,.2f} {times:>14,.1f}")
