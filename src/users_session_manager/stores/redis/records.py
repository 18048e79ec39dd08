"""How a session is written in Redis, and read from the records that the script returns."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any, Final, cast, get_args, get_type_hints

from ...keys import label
from ...log import log
from ...session import Reason
from ...timers import SessionTimer
from ..base import Notice
from ..expiry import SharedSession, Snapshot

_REASONS: Final[dict[bytes, Reason]] = {reason.encode(): reason for reason in get_args(Reason)}

_NOTICE_KINDS: Final = get_args(get_type_hints(Notice)["kind"])

# What the script returns of a session, all of it `bytes`; see `record` there.
_Record = namedtuple("_Record", "id key user data former created authenticated now own left reason serial")


def _session(record: _Record, start_timer: Callable[[float], SessionTimer], user: str, data: Any) -> SharedSession:
    created, authenticated = float(record.created), float(record.authenticated)
    age, reason = float(record.now) - authenticated, _REASONS.get(record.reason, "expired")
    snapshot = Snapshot(record.id, age, float(record.left), reason, int(record.serial))
    timeout = float(record.own) if record.own else None
    former = tuple(record.former.decode("ascii").split(",")) if record.former else ()
    key = record.key.decode("ascii")
    return SharedSession(start_timer, snapshot, user, key, created, authenticated, data, timeout, former)


def live_session(start_timer: Callable[[float], SessionTimer], fields: Sequence[bytes] | None) -> SharedSession | None:
    """Return the session of a record; `None` without one, and for one with data that no RedisStore has written."""
    if fields is None:
        return None
    record = _Record(*fields)
    try:
        data = json.loads(record.data) if record.data else None
        return _session(record, start_timer, record.user.decode("utf-8", "surrogatepass"), data)
    except (ValueError, RecursionError):
        log.warning("Rejected a session that another program has changed in Redis: %s", label(record.key.decode()))
        return None


def ended_session(start_timer: Callable[[float], SessionTimer], fields: Sequence[bytes]) -> SharedSession:
    """Return the session of a record whose end is to be announced, whatever its data is."""
    record = _Record(*fields)
    session = live_session(start_timer, fields)
    return session or _session(record, start_timer, as_any_text(record.user), None)


def notice(message: bytes) -> Notice | None:
    """Return the notice of a message; `None` for an empty one, and for one that no RedisStore has sent."""
    kind, *values = message.decode("ascii", "replace").split(" ")
    if kind not in _NOTICE_KINDS or len(values) != 3:
        return None
    session_id, key, left = values
    try:
        return Notice(cast(Any, kind), session_id.encode(), key, float(left) if left else None)
    except ValueError:
        return None


def as_any_text(user: bytes) -> str:
    """Return a username, readable even if another program has written it."""
    try:
        return user.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return user.decode("utf-8", "replace")


def encode(data: Any) -> bytes:
    """Return `data` as JSON, empty for `None`; `TypeError` for what JSON cannot hold."""
    if data is None:
        return b""
    try:
        return json.dumps(data, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as reason:
        raise TypeError(f"data kept in Redis must be what JSON can hold: {reason}") from None


def encode_number(value: float | None) -> bytes:
    """Return a number as the script reads it, to the last bit; empty for `None`."""
    return b"" if value is None else b"%.17g" % value
