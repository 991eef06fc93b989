"""Draws the figures of docs/experiments.md, and prints its tables.

    python figures.py RUNS OUT

RUNS is the folder that holds what the commands of that page wrote (`--out RUNS/step`, ...); OUT gets the SVG files.
What RUNS lacks is left out. Needs matplotlib.
"""

import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.fonttype"] = "none"
matplotlib.rcParams["svg.hashsalt"] = "dkt"
import matplotlib.pyplot as plt

# Okabe and Ito's palette, which people of every colour vision can tell apart.
ON, OFF, THIRD, FOURTH = "#0072b2", "#999999", "#d55e00", "#009e73"
CONTROLS = {"exchange-off", "alone"}
ARMS = ("exchange on", "exchange off")


def rows(path):
    """The rows of a CSV file, values as numbers."""
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            row["value"] = float(row["value"])
            yield row


def of_seeds(path, metric, head, key):
    """{arm: {key: {seed: mean over its agents}}}; `key` makes something of a row, or None to leave it out."""
    found = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows(path):
        if row["metric"] == metric and row["head"] == head and (at := key(row)) is not None:
            found[row["arm"]][at][row["seed"]].append(100 * row["value"])
    return {
        arm: {at: {seed: statistics.fmean(v) for seed, v in seeds.items()} for at, seeds in keys.items()}
        for arm, keys in found.items()
    }


def curve(axes, values, label, color, style="-"):
    """Mean over seeds, with a band of one standard deviation."""
    x = sorted(values)
    mean = [statistics.fmean(values[i].values()) for i in x]
    sd = [statistics.stdev(values[i].values()) if len(values[i]) > 1 else 0 for i in x]
    axes.plot(x, mean, style, color=color, label=label, marker="o", markersize=3)
    low, high = [m - s for m, s in zip(mean, sd)], [m + s for m, s in zip(mean, sd)]
    axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)


def finish(figure, path):
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    print(f"wrote {path}\n")


def spread(values, signed=False):
    """`21.9 ± 1.9`."""
    values = list(values)
    mean = round(statistics.fmean(values), 1) + 0.0  # never -0.0
    text = f"{mean:+.1f}" if signed else f"{mean:.1f}"
    return f"{text} ± {statistics.stdev(values):.1f}" if len(values) > 1 else text


def difference(a, b):
    """`+1.4 ± 1.2`: within the seeds that both have."""
    return spread((a[seed] - b[seed] for seed in a if seed in b), True)


def at_end(path, metric, head):
    """{arm: {seed: value}} of a figure that a run has one of, or of its last experience."""
    by_experience = of_seeds(path, metric, head, lambda row: int(row["experience"] or 0))
    return {arm: values[max(values)] for arm, values in by_experience.items()}


def shapes(runs, out):
    """Accuracy on the whole test stream after each experience, in the three experiments of the thesis."""
    titles = {"joint": "cifar100-training", "continual": "splitcifar100-pretrained", "step": "step-training"}
    there = [name for name in titles if (runs / name / "results.csv").exists()]
    if not there:
        return
    figure, panels = plt.subplots(1, len(there), figsize=(3.6 * len(there), 3.2), sharey=True, squeeze=False)
    for axes, name in zip(panels[0], there):
        compared(runs / name / "results.csv", titles[name])
        for head, colors in (("cl", (FOURTH, OFF)), ("student", (ON, OFF))):
            by_experience = lambda row: int(row["experience"])
            for arm, values in of_seeds(runs / name / "results.csv", "stream_accuracy", head, by_experience).items():
                is_control = arm in CONTROLS
                label = f"{head}, {'control' if is_control else 'with soft targets'}"
                if not (is_control and head == "student"):
                    curve(axes, values, label, colors[is_control], "--" if is_control else "-")
                axes.set_xticks(sorted(values))
        axes.set_title(titles[name], fontsize=10)
        axes.set_xlabel("experience")
    panels[0][0].set_ylabel("accuracy on all test images, %")
    panels[0][0].legend(fontsize=7, frameon=False)
    finish(figure, out / "shapes.svg")


def compared(path, title):
    """Prints the two arms of a study: accuracies at the end, their difference within seeds, forgetting."""
    print(f"**{title}**\n\n| Head | with soft targets, % | control, % | difference | forgetting, with and control, % |")
    print("| --- | --- | --- | --- | --- |")
    for head in ("cl", "student"):
        final, forgetting = at_end(path, "stream_accuracy", head), at_end(path, "forgetting", head)
        [treated] = set(final) - CONTROLS
        control = next((arm for arm in final if arm in CONTROLS), None)
        if control is None:
            print(f"| {head} | {spread(final[treated].values())} | | | {spread(forgetting[treated].values())} |")
            continue
        arms = [spread(final[arm].values()) for arm in (treated, control)]
        lost = ", ".join(spread(forgetting[arm].values()) for arm in (treated, control))
        print(f"| {head} | {arms[0]} | {arms[1]} | {difference(final[treated], final[control])} | {lost} |")
    print()


def pairs(runs, _):
    """Studies that have a table and no figure."""
    for name in ("weight-1", "weight-0.1", "weight-0.01", "eeil-kept", "eeil-own"):
        if (runs / name / "results.csv").exists():
            compared(runs / name / "results.csv", name)


def strategies(runs, out):
    """Every strategy on the same stream."""
    path = runs / "strategies" / "results.csv"
    if not path.exists():
        return
    final, forgetting = at_end(path, "stream_accuracy", "cl"), at_end(path, "forgetting", "cl")
    order = sorted(final, key=lambda arm: statistics.fmean(final[arm].values()))
    figure, axes = plt.subplots(figsize=(6, 0.32 * len(order) + 1))
    print("| Strategy | stream accuracy, % | forgetting, % |\n| --- | --- | --- |")
    for place, arm in enumerate(order):
        axes.barh(place, statistics.fmean(final[arm].values()), color=ON, alpha=0.6)
        axes.plot(list(final[arm].values()), [place] * len(final[arm]), "k.", markersize=4)
    for arm in reversed(order):
        lost = spread(forgetting[arm].values()) if arm in forgetting else "-"
        print(f"| `{arm}` | {spread(final[arm].values())} | {lost} |")
    axes.set_yticks(range(len(order)), order, fontsize=8)
    axes.set_xlabel("accuracy on all test images after the last experience, % (dots: seeds)")
    finish(figure, out / "strategies.svg")


def fleets(runs, out):
    """Student heads by the number of agents."""
    sizes = [n for n in (2, 4, 8) if (runs / f"agents-{n}" / "results.csv").exists()]
    if not sizes:
        return
    figure, axes = plt.subplots(figsize=(4.2, 3.2))
    colors = dict(zip((2, 4, 8), (ON, THIRD, FOURTH)))
    print("| Agents | head | exchange on, % | exchange off, % | on - off, within seeds |")
    print("| --- | --- | --- | --- | --- |")
    for n in sizes:
        path = runs / f"agents-{n}" / "results.csv"
        for head in ("cl", "student"):
            final = at_end(path, "stream_accuracy", head)
            on, off = final["exchange-on"], final["exchange-off"]
            print(f"| {n} | {head} | {spread(on.values())} | {spread(off.values())} | {difference(on, off)} |")
        values = of_seeds(path, "stream_accuracy", "student", lambda row: int(row["experience"]))["exchange-on"]
        curve(axes, values, f"{n} agents", colors[n])
        axes.set_xticks(sorted(values))
    axes.set_xlabel("experience")
    axes.set_ylabel("student heads on all test images, %")
    axes.legend(fontsize=8, frameon=False)
    finish(figure, out / "fleets.svg")


def proxy(runs, out):
    """Student heads on classes that their agents have not had yet, with a proxy set and without."""
    paths = {"proxy set": runs / "proxy" / "results.csv", "no proxy set": runs / "proxy-none" / "results.csv"}
    if not all(path.exists() for path in paths.values()):
        return
    figure, panels = plt.subplots(1, 2, figsize=(7.4, 3.2), sharey=True)
    print("| | head | on classes not yet seen, % (after experience 1, 2, 3, 4) | on all test images at the end, % |")
    print("| --- | --- | --- | --- |")
    unseen = lambda row: int(row["experience"]) if int(row["on_experience"]) > int(row["experience"]) else None
    for (label, path), color in zip(paths.items(), (ON, THIRD)):
        for head in ("cl", "student"):
            ahead = of_seeds(path, "accuracy", head, unseen)["exchange-on"]
            final = at_end(path, "stream_accuracy", head)["exchange-on"]
            means = ", ".join(f"{statistics.fmean(ahead[i].values()):.1f}" for i in sorted(ahead))
            print(f"| {label} | {head} | {means} | {spread(final.values())} |")
            if head == "student":
                curve(panels[0], ahead, label, color)
                all_of_them = of_seeds(path, "stream_accuracy", head, lambda row: int(row["experience"]))
                curve(panels[1], all_of_them["exchange-on"], label, color)
    panels[0].set_title("classes not yet seen", fontsize=10)
    panels[1].set_title("all test images", fontsize=10)
    panels[0].set_ylabel("student heads, %")
    for axes in panels:
        axes.set_xlabel("experience")
    panels[0].set_xticks(range(1, 5))
    panels[1].set_xticks(range(1, 6))
    panels[0].legend(fontsize=8, frameon=False)
    finish(figure, out / "proxy.svg")


def labs(runs, out):
    """Labs that were run several times: final accuracy of each agent's heads, with the exchange and without."""
    for name in ("heterogeneous", "resnets", "pace", "churn"):
        paths = sorted((runs / "labs").glob(f"{name}-[0-9]*/metrics.csv"))
        if not paths:
            continue
        final = defaultdict(list)
        for path in paths:
            last = {}
            for row in rows(path):
                if row["metric"] == "stream_accuracy":
                    last[row["agent"], row["head"], row["arm"]] = 100 * row["value"]
            for key, value in last.items():
                final[key].append(value)
        agents = list(dict.fromkeys(agent for agent, _, _ in final))
        figure, axes = plt.subplots(figsize=(1.1 * len(agents) + 2, 3))
        print(f"**{name}**, {len(paths)} runs\n")
        print("| Agent | cl, on | cl, off | cl, on - off | student, on | student, off |")
        print("| --- | --- | --- | --- | --- | --- |")
        bars = (("cl", "exchange on", FOURTH), ("cl", "exchange off", OFF), ("student", "exchange on", ON))
        for place, agent in enumerate(agents):
            columns = [spread(final[agent, head, arm]) for head in ("cl", "student") for arm in ARMS]
            on, off = (final[agent, "cl", arm] for arm in ARMS)
            columns.insert(2, spread((a - b for a, b in zip(on, off)), True))
            print(f"| {agent} | " + " | ".join(columns) + " |")
            for i, (head, arm, color) in enumerate(bars):
                values = final[agent, head, arm]
                x = place + 0.27 * (i - 1)
                label = f"{head}, {arm}" if place == 0 else None
                axes.bar(x, statistics.fmean(values), 0.25, color=color, alpha=0.6, label=label)
                axes.plot([x] * len(values), values, "k.", markersize=3)
        axes.set_xticks(range(len(agents)), agents)
        axes.set_ylabel("all test images, %")
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        finish(figure, out / f"{name}.svg")


if __name__ == "__main__":
    runs, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    for draw in (shapes, pairs, strategies, fleets, proxy, labs):
        draw(runs, out)
