"""Notices: what has happened to sessions, in a table that each process with clients reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

from ..base import Notice
from .database import Database, Execute
from .records import as_notices, encode_notices

# How often a process looks for notices, in seconds.
_INTERVAL: Final = 0.2
# Seconds that notices are kept.
_REMEMBERED: Final = 60.0
# How many old notices one transaction deletes at most.
_PRUNE_SIZE: Final = 500
GAP_TIMEOUT: Final = 5.0
"""How long a process waits for a notice of a transaction that may not have ended, in seconds."""
_MAX_GAPS: Final = 1000
_PAGE_SIZE: Final = 1000
# How often a process looks whether the numbers have started again, in seconds.
_LOOK_INTERVAL: Final = 1.0


def send(execute: Execute, notices: Sequence[Notice]) -> None:
    """Pass notices on to every process, with the transaction that they are about."""
    if notices:
        insert = "INSERT INTO {notices} (noticed_at, notices) VALUES ({unix}, :notices)"
        execute(insert, notices=encode_notices(notices))


def prune(execute: Execute) -> bool:
    """Delete notices that every process has read; return whether there may be more of them."""
    oldest = "SELECT id, noticed_at < {unix} - :seconds FROM {notices} ORDER BY id LIMIT :most"
    ids = [each for each, is_old in execute(oldest, seconds=_REMEMBERED, most=_PRUNE_SIZE) if is_old]
    if ids:
        execute("DELETE FROM {notices} WHERE id {in_ids}", ids=ids)
    return len(ids) == _PRUNE_SIZE


class NoticeLog:
    """Reads the notices of all transactions, each once.

    A transaction may end after one with a later number. So each number that is missing is asked for again for some
    seconds.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._look_at = time.monotonic() + _LOOK_INTERVAL
        self._gaps: dict[int, float] = {}  # the numbers that are missing, and until when they are asked for
        newest = "SELECT id FROM {notices} ORDER BY id DESC LIMIT :most"
        ((first,),) = database.run("read", f"SELECT coalesce(min(id), 1) FROM ({newest}) AS newest", most=_PAGE_SIZE)
        self._last = first - 1
        self._read()  # what was there before

    def read(self, timeout: float, interrupted: threading.Event) -> Iterator[list[Notice]]:
        """Yield none at once, then what has come after `timeout` seconds at most, or when that is interrupted.

        A `"missed"` is among them if notices may have been deleted before they were read.
        """
        interrupted.clear()
        read_at = time.monotonic()
        yield []
        while True:
            until, found = time.monotonic() + timeout, list[Notice]()
            while not found:
                found = self._read()
                if not found and self._was_replaced():
                    found = [*self._read(), Notice("missed", None, None)]
                if time.monotonic() - read_at > _REMEMBERED / 2:  # the process was suspended
                    found.append(Notice("missed", None, None))
                read_at = time.monotonic()
                left = until - read_at
                if found or left <= 0 or interrupted.is_set():
                    break
                interrupted.wait(min(left, _INTERVAL))
            interrupted.clear()
            yield found

    def _newest(self) -> int:
        return int(self._database.run("read", "SELECT coalesce(max(id), 0) FROM {notices}")[0][0])

    def _was_replaced(self) -> bool:
        """Return whether the tables have been replaced, so that numbers come again; then all are read."""
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_INTERVAL
        if not 0 < self._newest() < self._last:
            return False
        self._last, self._gaps = 0, {}
        return True

    def _read(self) -> list[Notice]:
        select, now = "SELECT id, notices FROM {notices} WHERE id > :last%s ORDER BY id LIMIT :most", time.monotonic()
        self._gaps = {number: until for number, until in self._gaps.items() if until > now}
        if self._gaps:
            gaps = [*self._gaps]
            rows = self._database.run("read", select % " OR id {in_ids}", last=self._last, most=_PAGE_SIZE, ids=gaps)
        else:
            rows = self._database.run("read", select % "", last=self._last, most=_PAGE_SIZE)
        for number, _ in rows:
            self._gaps.pop(number, None)
            missing = range(self._last + 1, number) if self._last else range(0)  # the first is any number
            self._gaps |= dict.fromkeys(missing[-_MAX_GAPS:], now + GAP_TIMEOUT)
            self._last = max(self._last, number)
        return [notice for _, encoded in rows for notice in as_notices(encoded)]
