"""Claimer: what a poll finds that is due, and does with it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Final

from ..base import Notice
from ..expiry import MIN_PAUSE
from .database import Database, Execute
from .notices import GAP_TIMEOUT, prune, send
from .records import ALL_COLUMNS, Row

# How many sessions one transaction takes out: others wait for that a few milliseconds.
BATCH_SIZE: Final = 100
# How long ends are kept for a process with listeners that does not run now, in seconds.
_GRACE: Final = 2 * 86400.0
# How long the key of an ended session is kept at least, for notices that are read late, in seconds.
_KEPT: Final = 2 * GAP_TIMEOUT
# How often a process looks whether the log of the database is long, in seconds.
_TIDY_INTERVAL: Final = 1.0
# How often it deletes old notices, in seconds.
_PRUNE_INTERVAL: Final = 5.0

# A process without listeners for ends leaves those that are to be announced to others, if there are any.
_MINE: Final = (
    "(reason IS NULL OR announced_at IS NOT NULL OR :takes = 1 OR (SELECT listens_until FROM {state}) < {now})"
)
# In an order, so that PostgreSQL takes an index although it has no statistics of the table yet.
_LOOK: Final = f"""
    SELECT
        (SELECT look_at FROM {{sessions}} WHERE {_MINE} ORDER BY look_at LIMIT 1) - {{now}},
        (SELECT expiring FROM {{sessions}} WHERE expiring IS NOT NULL ORDER BY expiring LIMIT 1),
        (SELECT listens_until FROM {{state}}) - {{now}}"""
# The time is asked once: PostgreSQL would compare that of each row with all that are not due yet.
_DUE: Final = f"""
    SELECT {ALL_COLUMNS} FROM {{sessions}} WHERE look_at <= (SELECT {{now}}) AND {_MINE}
    ORDER BY look_at LIMIT :most {{lock_free}}"""
_TAKE: Final = """
    UPDATE {sessions} SET
        reason = coalesce(reason, 'expired'), operation = :operation, look_at = {now} + :seconds,
        announced_at = CASE WHEN :forgets = 1 THEN {now} END
    WHERE id {in_ids}"""
_WARN: Final = """
    UPDATE {sessions} SET
        warned = deadline, operation = :operation, expiring = CASE WHEN :announces = 0 THEN deadline END
    WHERE id {in_ids}"""
_MOVE: Final = """
    UPDATE {sessions} SET look_at = CASE WHEN warned = deadline THEN deadline ELSE deadline - warning END
    WHERE id {in_ids}"""
_KEEP: Final = "UPDATE {sessions} SET look_at = announced_at + :seconds WHERE id {in_ids}"
_EXPIRING: Final = f"""
    SELECT {ALL_COLUMNS} FROM {{sessions}} WHERE expiring IS NOT NULL ORDER BY expiring LIMIT :most {{lock_free}}"""


class Claimer:
    """Lets sessions expire, and claims what is to be announced.

    Args:
        database: The database.

    An instance is used by the poller alone.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._prune_at = self._tidy_at = 0.0
        self._is_expected = False  # whether a process with listeners for ends runs, or has in the last days

    def look(self, *, takes: bool, warnings: bool) -> float:
        """Return in how many seconds a claim has something to do, 0 or less for now; this changes no session.

        Args:
            takes: Whether this process has listeners for ends.
            warnings: Whether it has listeners for warnings.
        """
        ((next_in, expiring, listens_for),) = self._database.run("look", _LOOK, takes=int(takes))
        self._is_expected = listens_for >= 0
        if takes and listens_for < _GRACE / 2:
            update = "UPDATE {state} SET listens_until = {now} + :seconds RETURNING listens_until"
            self._database.run("look", update, seconds=_GRACE)
            self._is_expected = True
        if warnings and expiring is not None:
            next_in = 0.0
        return min(math.inf if next_in is None else next_in, self._tidy())

    def _tidy(self) -> float:
        """Copy a long log, and delete some old notices, if it is time for that.

        Return in how many seconds to look for more notices.
        """
        if self._tidy_at <= time.monotonic():
            self._tidy_at = time.monotonic() + _TIDY_INTERVAL  # whether or not it succeeds: a claim comes first
            self._database.tidy()
        if self._prune_at <= time.monotonic():
            self._prune_at = time.monotonic() + _PRUNE_INTERVAL
            if self._database.transaction("prune", prune):
                self._prune_at = 0.0
                return MIN_PAUSE
        return math.inf

    def claim(
        self, execute: Execute, operation: str, lease: float, *, warnings: bool
    ) -> tuple[Sequence[Row], Sequence[Row], bool]:
        """Do what is due, a batch at most.

        Return the sessions to announce the end of, those to warn of, and whether there was anything to do that no
        other process does at the same time. With a `lease` of 0 no end is claimed, and without `warnings` no warning.
        """
        rows = [Row(*row) for row in execute(_DUE, takes=int(lease > 0), most=BATCH_SIZE)]
        ended = [row for row in rows if row.announced_at is None and (row.reason or row.deadline <= row.now)]
        live = [row for row in rows if row.reason is None and row.deadline > row.now]
        warned = [row for row in live if row.warned != row.deadline and row.deadline - row.warning <= row.now]
        forgets = not lease and not self._is_expected
        seconds = _KEPT if forgets else float(lease)
        _update(execute, _TAKE, ended, operation=operation, seconds=seconds, forgets=int(forgets))
        _update(execute, _WARN, warned, operation=operation, announces=int(warnings))
        _update(execute, _MOVE, live)
        _delete(execute, [row for row in rows if row.announced_at is not None])
        send(
            execute,
            [
                *(Notice("ended", row.id, None, None, "expired") for row in ended if row.reason is None),
                *(Notice("expiring", row.id, None, row.deadline - row.now) for row in warned),
            ],
        )
        claimed = ended if lease else []
        if not warnings:
            return claimed, [], bool(rows)
        left, are_there = self._left_by_others(execute, operation)
        return claimed, [*warned, *left], bool(rows) or are_there

    def _left_by_others(self, execute: Execute, operation: str) -> tuple[list[Row], bool]:
        """Return the sessions whose warning a process without listeners has left, and whether there were any rows."""
        rows = [Row(*row) for row in execute(_EXPIRING, most=BATCH_SIZE)]
        _update(
            execute,
            "UPDATE {sessions} SET expiring = NULL, operation = :operation WHERE id {in_ids}",
            rows,
            operation=operation,
        )
        return [row for row in rows if row.reason is None and row.expiring == row.deadline > row.now], bool(rows)


def _delete(execute: Execute, announced: Sequence[Row]) -> None:
    """Delete the sessions whose end was announced, unless that was a moment ago."""
    over = [row for row in announced if row.announced_at <= row.now - _KEPT]  # type: ignore[operator]
    _update(execute, _KEEP, [row for row in announced if row not in over], seconds=_KEPT)
    _update(execute, "DELETE FROM {former_keys} WHERE session_id {in_ids}", over)
    _update(execute, "DELETE FROM {sessions} WHERE id {in_ids}", over)


def _update(execute: Execute, statement: str, rows: Sequence[Row], **values: object) -> None:
    if rows:
        execute(statement, ids=[row.id for row in rows], **values)
