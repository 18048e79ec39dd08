"""What was measured, as one list of cells; medians, ratios, spreads."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Cell:
    """What one contestant did in one row of a section.

    `values` has a value a round, those of one round being of one moment for all contestants of the row; `words` stand
    in their place where there is nothing to measure.
    """

    section: str
    row: tuple[str | int, ...]
    contestant: str
    unit: str
    values: list[float] = field(default_factory=list)
    words: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Ratio:
    """How a cell compares with another: the medians, and the quartiles of the ratios taken round by round."""

    middle: float
    low: float
    high: float


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


class Results:
    """All cells of a run, and what it ran on."""

    def __init__(self, about: dict[str, Any], cells: Sequence[Cell] = ()) -> None:
        self.about = about
        self._cells = {(cell.section, cell.row, cell.contestant): cell for cell in cells}

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._cells.values())

    def add(self, section: str, row: Sequence[str | int], contestant: str, unit: str, found: float | str) -> None:
        """Note one more value of a cell, or the words that stand in its place."""
        place = section, tuple(row), contestant
        cell = self._cells.setdefault(place, Cell(*place, unit))
        if isinstance(found, str):
            cell.words = found
        else:
            cell.values.append(found)

    def get(self, section: str, row: Sequence[str | int], contestant: str) -> Cell | None:
        return self._cells.get((section, tuple(row), contestant))

    def ratio(self, cell: Cell | None, other: Cell | None) -> Ratio | None:
        """Compare two cells, or nothing where either has no values."""
        if cell is None or other is None or not cell.values or not other.values or not other.median:
            return None
        each = [one / another for one, another in zip(cell.values, other.values, strict=False) if another]
        return Ratio(cell.median / other.median, *quartiles(each))

    def rows(self, section: str) -> list[tuple[str | int, ...]]:
        return list(dict.fromkeys(cell.row for cell in self if cell.section == section))

    def contestants(self, section: str) -> list[str]:
        return list(dict.fromkeys(cell.contestant for cell in self if cell.section == section))

    def to_json(self) -> dict[str, Any]:
        return {"about": self.about, "cells": [asdict(cell) for cell in self]}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Results:
        return cls(kept["about"], [Cell(**{**cell, "row": tuple(cell["row"])}) for cell in kept["cells"]])
