"""RedisSession: a session as the script hands it back, and how what is kept with it is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple, get_args

from ..keys import label
from ..log import log
from ..session import Reason, Session
from ..timers import SessionTimer

_REASONS: Final[dict[bytes, Reason]] = {reason.encode(): reason for reason in get_args(Reason)}


class _Record(NamedTuple):
    """What the script tells of a session, in its words; see `record` there."""

    id: bytes
    key: bytes
    former: bytes
    created: bytes
    authenticated: bytes
    now: bytes
    own: bytes
    left: bytes
    reason: bytes
    began: bytes


class RedisSession(Session):
    """A `Session` as it was when Redis was asked; what is set here is not stored. Its `timer` is made when asked for.

    That timer runs out when the session does, which it does in Redis: to cancel it keeps nobody logged in.
    """

    __slots__ = (
        *("username", "key", "createdAt", "authenticatedAt", "data", "timeout", "formerKeys"),
        *("_age", "_began", "_id", "_left", "_reason", "_start_timer", "_timer"),
    )

    def __init__(self, start_timer: Callable[[float], SessionTimer], record: _Record, user: str, data: Any) -> None:
        self._id = record.id
        self.key = record.key.decode("ascii")
        self.username = user
        self.createdAt, self.authenticatedAt = float(record.created), float(record.authenticated)
        self._age = float(record.now) - self.authenticatedAt
        self.data = data
        self.timeout = float(record.own) if record.own else None
        self.formerKeys = tuple(record.former.decode("ascii").split(",")) if record.former else ()
        self._left = float(record.left)
        self._reason: Reason = _REASONS.get(record.reason, "expired")
        self._began = int(record.began)
        self._start_timer = start_timer
        self._timer: SessionTimer | None = None

    @property
    def authenticationAge(self) -> float:
        return self._age

    @property
    def timer(self) -> SessionTimer:
        if self._timer is None:
            self._timer = self._start_timer(self._left)
        return self._timer


def live_session(start_timer: Callable[[float], SessionTimer], text: bytes | None) -> RedisSession | None:
    """Return the session of a record; `None` without one, and for one with data that no RedisStore has written."""
    if text is None:
        return None
    record, user, data = _parts(text)
    try:
        return RedisSession(start_timer, record, as_text(user), json.loads(data) if data else None)
    except (ValueError, RecursionError):
        log.warning("Rejected, since somebody else has written to it: %s", label(record.key.decode("ascii")))
        return None


def ended_session(start_timer: Callable[[float], SessionTimer], text: bytes) -> RedisSession:
    """Return the session of a record whose end is to be announced, whatever somebody has written into its data."""
    session = live_session(start_timer, text)
    if session is None:
        record, user, _ = _parts(text)
        session = RedisSession(start_timer, record, as_any_text(user), None)
    return session


def _parts(text: bytes) -> tuple[_Record, bytes, bytes]:
    """Return what the script has written down of a session, its username and its data."""
    head, _, rest = text.partition(b"\n")
    *fields, length = head.split(b" ")
    return _Record(*fields), rest[: int(length)], rest[int(length) :]


def encode(data: Any) -> bytes:
    """Return `data` as JSON, empty for `None`; `TypeError` for what JSON cannot hold."""
    if data is None:
        return b""
    try:
        return json.dumps(data, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as reason:
        raise TypeError(f"data kept in Redis must be what JSON can hold: {reason}") from None


def as_bytes(username: str) -> bytes:
    """Return a username as it is written; any `str` can be, halves of surrogate pairs included."""
    return username.encode("utf-8", "surrogatepass")


def as_text(username: bytes) -> str:
    return username.decode("utf-8", "surrogatepass")


def as_any_text(username: bytes) -> str:
    """Return a username, readable even where somebody else has written one that is none."""
    try:
        return as_text(username)
    except UnicodeDecodeError:
        return username.decode("utf-8", "replace")
