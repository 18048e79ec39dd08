"""The cells as tables, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from .lineup import FLASK_SESSION, LABELS, NPM
from .operations import AS_REQUESTS_COME, OPERATIONS
from .results import Cell, Ratio, Results

# What stands in a section in place of the npm package, which has nothing to be compared with there.
BASELINES = {"redis": FLASK_SESSION.id}
# Percentiles that the table shows; the plot shows all.
SHOWN_PERCENTILES = (50, 99, 100)


@dataclass
class Table:
    title: str
    head: list[str]
    lines: list[list[str]]
    notes: list[str] = field(default_factory=list)


def baseline_of(section: str) -> str:
    return BASELINES.get(section, NPM.id)


def number(value: float) -> str:
    """Show three digits that say something."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def spread(ratio: Ratio) -> str:
    return f"{number(ratio.middle)} ({number(ratio.low)} to {number(ratio.high)})"


def shown(results: Results, cell: Cell | None) -> str:
    """Show the median, and beside it the ratio to that of the baseline with its quartiles."""
    if cell is None:
        return ""
    if not cell.values:
        return cell.words
    text = number(cell.median)
    base = baseline_of(cell.section)
    ratio = results.ratio(cell, results.get(cell.section, cell.row, base)) if cell.contestant != base else None
    return text if ratio is None else f"{text}; ×{spread(ratio)}"


def table(results: Results, section: str, title: str, rows: Sequence[tuple], names: Sequence[str]) -> Table:
    """Make the table of some rows. Who has the same words in each of them is named below it instead."""
    made = Table(title, [""], [[name] for name in names])
    there = results.contestants(section)
    for contestant in (name for name in LABELS if name in there):
        cells = [results.get(section, row, contestant) for row in rows]
        said = {cell.words for cell in cells if cell is not None}
        if any(cell is not None and cell.values for cell in cells):
            made.head.append(LABELS[contestant])
            for line, cell in zip(made.lines, cells, strict=True):
                line.append(shown(results, cell))
        elif len(said) == 1:
            made.notes.append(f"{LABELS[contestant]}: {said.pop()}")
    return made


def operations_tables(results: Results, section: str, *, everything: bool) -> Iterator[Table]:
    def changes(row: tuple) -> bool:
        """Tell whether a listener has anything to hear of it."""
        return row[0] in ("loadNewSession", "deleteSession", "deleteAllSessions", "sendLogoutMessage")

    def group(row: tuple) -> tuple:
        return row[2], row[1] == AS_REQUESTS_COME

    rows = [row for row in results.rows(section) if everything or not row[3] or changes(row)]
    rows.sort(key=lambda row: (*group(row), OPERATIONS.index(row[0]), row[3]))
    for (size, _), some in groupby(rows, group):
        here = list(some)
        names = [f"{row[0]}, 1 listener" if row[3] else str(row[0]) for row in here]
        yield table(results, section, f"{size:,} sessions, {here[0][1]}, µs an operation", here, names)


def rest_table(
    results: Results, section: str, title: str, name: Callable[[tuple], str] | None = None
) -> Iterator[Table]:
    rows = results.rows(section)
    if section == "lateness":
        rows = [row for row in rows if row[0] in SHOWN_PERCENTILES]
    if rows:
        yield table(results, section, title, rows, [(name or named)(row) for row in rows])


def named(row: tuple) -> str:
    return ", ".join(f"{part:,} sessions" if isinstance(part, int) else part for part in row)


def percentile(row: tuple) -> str:
    return "the latest" if row[0] == 100 else f"{row[0]}th percentile"


def all_tables(results: Results, *, everything: bool) -> dict[str, list[Table]]:
    """Return the tables of each section."""
    of_operations = {
        section: list(operations_tables(results, section, everything=everything)) for section in ("operations", "redis")
    }
    late = next((row[1] for row in results.rows("lateness")), 0)
    rest = {
        "pieces": rest_table(results, "pieces", "The least that Python takes, in order"),
        "memory": rest_table(results, "memory", "Bytes a session"),
        "lateness": rest_table(results, "lateness", f"{late:,} sessions run out together, ms late", percentile),
        "threads": rest_table(results, "threads", "Calls a second"),
        "start-up": rest_table(results, "start-up", "From the start of a process"),
        "idle": rest_table(results, "idle", "While nothing is asked of them"),
    }
    return of_operations | {section: list(tables) for section, tables in rest.items()}


def as_text(made: Table) -> str:
    lines = [made.head, *made.lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(made.head))]
    aligned = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join([made.title, "", *aligned, *made.notes])


def as_markdown(made: Table) -> str:
    marks = ["---"] + ["---:"] * (len(made.head) - 1)
    lines = [made.head, marks, *made.lines]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([f"{made.title}:", body, " ".join(f"{note}." for note in made.notes)][not made.title :]).strip()
