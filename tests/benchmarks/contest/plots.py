"""The pictures of `docs/performance.md`. The same figures make the same files, to the byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .lineup import LABELS, NPM, OURS
from .operations import IN_ORDER, OF_A_KEY, PAIR
from .results import Results, quartiles

DRAWN = (*PAIR, *OF_A_KEY)
# Okabe and Ito's, which people who see fewer colours tell apart as well.
COLOURS = {
    "ours": "#0072B2",
    "npm": "#D55E00",
    "plain": "#999999",
    "cachetools": "#009E73",
    "cacheout": "#E69F00",
}
MARKERS = {OURS.id: "o", NPM.id: "s"}
SETTINGS = {
    "svg.hashsalt": "users-session-manager",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def write_plots(results: Results, folder: Path, kind: str = "svg") -> None:
    plots: dict[str, Callable[[Results], Figure]] = {
        "operations": of_operations,
        "sizes": of_sizes,
        "lateness": of_lateness,
        "memory": of_memory,
    }
    for name, make in plots.items():
        with mpl.rc_context(SETTINGS):
            metadata = {"Date": None, "Creator": None} if kind == "svg" else {}
            make(results).savefig(folder / f"performance_{name}.{kind}", dpi=100, metadata=metadata)


def size_shown(results: Results, contestant: str) -> int:
    """Return 100,000, or the most below it for which the contestant has figures."""
    sizes = {
        int(cell.row[2])
        for cell in results
        if cell.section == "operations" and cell.contestant == contestant and cell.values
    }
    return max((size for size in sizes if size <= 100_000), default=0)


def bars(
    axes: Any, groups: list[str], series: Iterable[tuple[str, str, list[tuple[float, float, float] | None]]]
) -> None:
    """Draw a group of bars for each of `groups`: a label, a colour, and a median with its quartiles for each group."""
    listed = list(series)
    width = 0.8 / len(listed)
    for index, (label, colour, found) in enumerate(listed):
        there = [(place + (index - (len(listed) - 1) / 2) * width, each) for place, each in enumerate(found) if each]
        middles = [middle for _, (middle, _, _) in there]
        errors = [[middle - low for _, (middle, low, _) in there], [high - middle for _, (middle, _, high) in there]]
        places = [place for place, _ in there]
        axes.bar(places, middles, width * 0.92, color=colour, label=label)
        axes.errorbar(places, middles, errors, fmt="none", ecolor="#333333", elinewidth=0.8)
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(axis="y")


def found_in(
    results: Results, section: str, row: tuple[str | int, ...], name: str
) -> tuple[float, float, float] | None:
    cell = results.get(section, row, name)
    return None if cell is None or not cell.values else (cell.median, *quartiles(cell.values))


def of_operations(results: Results) -> Figure:
    figure = Figure(figsize=(10, 4.6))
    axes = figure.subplots()
    series = []
    for name, colour in COLOURS.items():
        size = size_shown(results, name)
        found = [found_in(results, "operations", (what, IN_ORDER, size, 0), name) for what in DRAWN]
        series.append((f"{LABELS[name]}, {size:,} sessions", colour, found))
    bars(axes, [two_lines(what) for what in DRAWN], series)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.05)
    axes.set_ylabel("µs an operation (logarithmic)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def two_lines(name: str) -> str:
    for part in ("Session", "Status", "From", "Details", "Data", "Timer"):
        at = name.find(part)
        if at > 6:
            return f"{name[:at]}\n{name[at:]}"
    return name


def of_sizes(results: Results) -> Figure:
    figure = Figure(figsize=(10, 4.8))
    sizes = sorted({int(row[2]) for row in results.rows("operations")})
    for what, axes in zip(DRAWN, figure.subplots(2, 4, sharex=True).flat, strict=True):
        for contestant in (OURS, NPM):
            found = {size: found_in(results, "operations", (what, IN_ORDER, size, 0), contestant.id) for size in sizes}
            there = {size: each for size, each in found.items() if each}
            colour, marker = COLOURS[contestant.id], MARKERS[contestant.id]
            axes.plot(list(there), [each[0] for each in there.values()], color=colour, marker=marker, markersize=4)
            low, high = [each[1] for each in there.values()], [each[2] for each in there.values()]
            axes.fill_between(list(there), low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(what, fontsize=9)
        axes.grid()
    figure.supxlabel("sessions (logarithmic)", fontsize=9)
    figure.supylabel("µs an operation", fontsize=9)
    lines = figure.axes[0].get_lines()
    figure.legend(lines, [one.label for one in (OURS, NPM)], loc="outside upper center", ncols=2)
    return figure


def of_lateness(results: Results) -> Figure:
    figure = Figure(figsize=(10, 3.8))
    axes = figure.subplots()
    rows = results.rows("lateness")
    for contestant in (OURS, NPM):
        cells = [(int(row[0]), results.get("lateness", row, contestant.id)) for row in rows]
        there = {percent: cell for percent, cell in cells if cell is not None and cell.values}
        colour = COLOURS[contestant.id]
        axes.plot(list(there), [cell.median for cell in there.values()], color=colour, label=contestant.label)
        low, high = [min(cell.values) for cell in there.values()], [max(cell.values) for cell in there.values()]
        axes.fill_between(list(there), low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("percentile of the sessions")
    axes.set_ylabel("ms late")
    axes.set_xlim(0, 100)
    axes.grid()
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def of_memory(results: Results) -> Figure:
    figure = Figure(figsize=(10, 3.8))
    axes = figure.subplots()
    sizes = sorted({int(row[1]) for row in results.rows("memory")})
    series = [
        (LABELS[name], colour, [found_in(results, "memory", ("resident", size), name) for size in sizes])
        for name, colour in COLOURS.items()
    ]
    bars(axes, [f"{size:,} sessions" for size in sizes], series)
    axes.set_yscale("log")
    axes.set_ylim(bottom=100)
    axes.set_ylabel("bytes a session (logarithmic)")
    figure.legend(loc="outside upper center", ncols=6)
    return figure
