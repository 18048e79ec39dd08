"""RedisSession: a session as the script hands it back, and how what is kept with it is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ..keys import label
from ..log import log
from ..session import Reason, Session
from ..timers import SessionTimer


class RedisSession(Session):
    """A `Session` as it was when Redis was asked; what is set here is not stored. Its `timer` is made when asked for.

    That timer runs out when the session does, which it does in Redis: to cancel it keeps nobody logged in.
    """

    __slots__ = ("_age", "_began", "_id", "_left", "_reason", "_start_timer", "_timer")

    def __init__(
        self, start_timer: Callable[[float], SessionTimer], record: Sequence[Any], user: str, data: Any
    ) -> None:
        name, key, _, created, authenticated, age, _, own, former, left, reason, began = record
        self._id: bytes = name
        self.key = key.decode("ascii", "replace")
        self.username = user
        self.createdAt, self.authenticatedAt, self._age = float(created), float(authenticated), float(age)
        self.data = data
        self.timeout = None if own is None else float(own)
        self.formerKeys = tuple(one.decode("ascii", "replace") for one in former)
        self._left = float(left)
        self._reason: Reason = "expired" if reason is None else reason.decode("ascii", "replace")
        self._began = int(began)
        self._start_timer = start_timer
        self._timer: SessionTimer | None = None

    @property
    def authenticationAge(self) -> float:
        return self._age

    @property
    def timer(self) -> SessionTimer:  # type: ignore[override]  # made when it is asked for
        if self._timer is None:
            self._timer = self._start_timer(self._left)
        return self._timer


def live_session(start_timer: Callable[[float], SessionTimer], record: Sequence[Any] | None) -> RedisSession | None:
    """Return the session of a record; `None` without one, and for one with data that no RedisStore has written."""
    if record is None:
        return None
    try:
        return RedisSession(start_timer, record, as_text(record[2]), decode(record[6]))
    except (ValueError, RecursionError):
        log.warning("Rejected, since somebody else has written to it: %s", label(_ascii(record[1])))
        return None


def ended_session(start_timer: Callable[[float], SessionTimer], record: Sequence[Any]) -> RedisSession:
    """Return the session of a record whose end is to be announced, whatever somebody has written into its data."""
    session = live_session(start_timer, record)
    return session or RedisSession(start_timer, record, record[2].decode("utf-8", "replace"), None)


def encode(data: Any) -> bytes:
    """Return `data` as JSON, empty for `None`; `TypeError` for what JSON cannot hold."""
    if data is None:
        return b""
    try:
        return json.dumps(data, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as reason:
        raise TypeError(f"data kept in Redis must be what JSON can hold: {reason}") from None


def decode(data: bytes | None) -> Any:
    return None if data is None else json.loads(data)


def as_bytes(username: str) -> bytes:
    """Return a username as it is written; any `str` can be, halves of surrogate pairs included."""
    return username.encode("utf-8", "surrogatepass")


def as_text(username: bytes) -> str:
    return username.decode("utf-8", "surrogatepass")


def _ascii(key: bytes) -> str:
    return key.decode("ascii", "replace")
