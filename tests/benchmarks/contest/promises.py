"""What the project has promised, held against the cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .lineup import DICTIONARY, LABELS, NPM, OURS, PLAIN
from .operations import IN_ORDER, OF_A_KEY, PAIR
from .results import Cell, Ratio, Results, quartiles
from .tables import Table, spread

# The ratio to the npm package at 100,000 sessions, at most.
OF_NPM = {
    "loadNewSession": 1.0,
    "checkSessionStatus": 1.3,
    "getUsernameFromSessionKey": 3.0,
    "restartSessionTimer": 1.1,
    "setSessionData": 1.3,
    "getSessionDetails": 1.6,
    "deleteSession": 2.5,
}
MEMORY_OF_NPM, LATENESS_OF_NPM = 0.75, 1.0
# How many times a plain port with a thread a session takes, at least.
OF_THE_PORT = {"loadNewSession": 20, "restartSessionTimer": 100}
MEMORY_OF_THE_PORT = 0.05
# The cost of an operation among the most sessions, in parts of that among the fewest, but for what the processor's
# caches explain: a bare dict is shown beside it.
GROWTH = 1.3
IMPORT_MS = 15


@dataclass(frozen=True)
class Promise:
    """One promise and what became of it; `holds` is `None` where the run was not asked for it."""

    text: str
    limit: str
    measured: str = ""
    holds: bool | None = None
    beside: str = ""


def promises(results: Results) -> Iterator[Promise]:
    yield from beside_npm(results)
    yield from growth(results)
    yield from beside_the_port(results)
    yield from by_itself(results)


def beside_npm(results: Results) -> Iterator[Promise]:
    size = size_of_promises(results, "operations")
    for what, limit in OF_NPM.items():
        ratio = versus(results, "operations", (what, IN_ORDER, size, 0), NPM.id)
        yield at_most(f"{what}, {size:,} sessions, of the npm package's", limit, ratio)
    size = size_of_promises(results, "memory")
    yield at_most(
        f"bytes a session, {size:,} sessions, of the npm package's",
        MEMORY_OF_NPM,
        versus(results, "memory", ("resident", size), NPM.id),
    )
    size = next((int(row[1]) for row in results.rows("lateness")), 0)
    yield at_most(
        f"lateness of sessionDeleted, 99th percentile of {size:,} at once, of the npm package's",
        LATENESS_OF_NPM,
        versus(results, "lateness", (99, size), NPM.id),
    )


def growth(results: Results) -> Iterator[Promise]:
    sizes = sorted({int(row[2]) for row in results.rows("operations")})
    for what in (*PAIR, *OF_A_KEY) if len(sizes) > 1 else ():
        rows = [(what, IN_ORDER, size, 0) for size in (sizes[-1], sizes[0])]
        grown = {
            contestant.id: results.ratio(*(results.get("operations", row, contestant.id) for row in rows))
            for contestant in (OURS, NPM, DICTIONARY)
        }
        beside = [f"{LABELS[name]}: {spread(ratio)}" for name, ratio in grown.items() if ratio and name != OURS.id]
        yield at_most(
            f"{what}, {sizes[-1]:,} sessions, of that at {sizes[0]:,}", GROWTH, grown[OURS.id], "; ".join(beside)
        )


def beside_the_port(results: Results) -> Iterator[Promise]:
    size = max((int(cell.row[2]) for cell in of(results, "operations", PLAIN.id)), default=0)
    for what, limit in OF_THE_PORT.items():
        row = (what, IN_ORDER, size, 0)
        ratio = results.ratio(*(results.get("operations", row, name) for name in (PLAIN.id, OURS.id)))
        yield at_least(f"{what}, {size:,} sessions, of the threading.Timer port, times ours", limit, ratio)
    size = max((int(cell.row[1]) for cell in of(results, "memory", PLAIN.id)), default=0)
    yield at_most(
        f"bytes a session, {size:,} sessions, of the threading.Timer port's",
        MEMORY_OF_THE_PORT,
        versus(results, "memory", ("resident", size), PLAIN.id),
    )


def by_itself(results: Results) -> Iterator[Promise]:
    cells = of(results, "start-up", OURS.id)
    for text, limit in (
        ("import users_session_manager after it, ms", IMPORT_MS),
        ("packages of an extra that it imports", 0),
    ):
        yield at_most(
            text.replace("it, ms", "pyee, ms"), limit, alone(next((c for c in cells if c.row == (text,)), None))
        )
    idle = next((cell for cell in of(results, "idle", OURS.id) if str(cell.row[0]).startswith("wake-ups")), None)
    name = "wake-ups of an idle process" if idle is None else f"{idle.row[0]}, {idle.row[1]:,} waiting sessions"
    yield at_most(name, 0, alone(idle))


def of(results: Results, section: str, contestant: str) -> list[Cell]:
    return [cell for cell in results if cell.section == section and cell.contestant == contestant and cell.values]


def size_of_promises(results: Results, section: str) -> int:
    """Return the 100,000 that the promises are about, or the nearest below it in a run that has not so many."""
    place = -1 if section == "memory" else 2
    return max((int(row[place]) for row in results.rows(section) if int(row[place]) <= 100_000), default=0)


def versus(results: Results, section: str, row: tuple[str | int, ...], other: str) -> Ratio | None:
    return results.ratio(results.get(section, row, OURS.id), results.get(section, row, other))


def alone(cell: Cell | None) -> Ratio | None:
    return None if cell is None else Ratio(cell.median, *quartiles(cell.values))


def at_most(text: str, limit: float, found: Ratio | None, beside: str = "") -> Promise:
    if found is None:
        return Promise(text, f"at most {limit:g}")
    return Promise(text, f"at most {limit:g}", spread(found), found.middle <= limit, beside)


def at_least(text: str, limit: float, found: Ratio | None) -> Promise:
    if found is None:
        return Promise(text, f"at least {limit:g}")
    return Promise(text, f"at least {limit:g}", spread(found), found.middle >= limit)


def promises_table(results: Results) -> Table:
    table = Table("Promises", ["", "limit", "measured", "", ""], [])
    for promise in promises(results):
        if promise.holds is None:
            continue
        verdict = "holds" if promise.holds else "does not hold"
        table.lines.append([promise.text, promise.limit, promise.measured, verdict, promise.beside])
    return table
