"""Draws docs/scale/fleets.svg from the table of `cargo bench -p dkt-tests --bench fleet_cost -- TABLE.csv`.

Needs matplotlib: python plot.py TABLE.csv
"""

import csv
import pathlib
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "dkt"
import matplotlib.pyplot as plt

rows = list(csv.DictReader(open(sys.argv[1])))
figure, axes = plt.subplots(1, 4, figsize=(13, 3.4))
columns = [("bytes_in", "bytes received"), ("messages_in", "messages received"), ("cpu_ms", "CPU, ms"), ("memory_kib", "memory, KiB")]
for axis, (column, title) in zip(axes, columns):
    for shape, style in (("two teachers", "o-"), ("all teach all", "s--")):
        points = [(int(row["agents"]), float(row[column])) for row in rows if row["shape"] == shape]
        axis.plot(*zip(*points), style, label=shape, markersize=4)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("agents in the fleet")
    axis.set_title(f"{title}, each agent", fontsize=10)
    axis.grid(alpha=0.3)
axes[0].legend(fontsize=8)
figure.tight_layout()
figure.savefig(pathlib.Path(__file__).with_name("fleets.svg"), metadata={"Date": None})
