"""How a session is written in Redis, and read from the records that the script returns."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from math import isfinite
from typing import Any, Final, NamedTuple, cast, get_args, get_type_hints

from ...log import log
from ...session import Reason
from ...timers import SessionTimer
from ..base import Notice
from ..expiry import SharedSession, Snapshot

_REASONS: Final[dict[Any, Reason]] = {reason: reason for reason in get_args(Reason)}

_NOTICE_KINDS: Final = get_args(get_type_hints(Notice)["kind"])


class SizeLimits(NamedTuple):
    """How large what is stored may be."""

    data: int
    """Bytes of data, as JSON."""
    username: int
    """Characters of a username and of a user id."""

    def encode_data(self, data: Any) -> bytes:
        """Return `data` as JSON, empty for `None`; `TypeError` for what JSON cannot hold, `ValueError` if too large."""
        if data is None:
            return b""
        try:
            _require_str_keys(data)
            encoded = json.dumps(data, allow_nan=False, separators=(",", ":")).encode("ascii")
        except (TypeError, ValueError, RecursionError) as reason:
            raise TypeError(f"data kept in Redis must be what JSON can hold: {reason}") from None
        if len(encoded) > self.data:
            raise ValueError(f"data kept in Redis may have {self.data:,} bytes as JSON, got {len(encoded):,}")
        return encoded

    def encode_user(self, what: str, name: str) -> bytes:
        """Return a username or a user id as Redis has it."""
        if len(name) > self.username:
            raise ValueError(f"{what} may have {self.username:,} characters, got {len(name):,}")
        return encode_text(name)


def _require_str_keys(data: Any) -> None:
    """Raise `TypeError` for a dictionary that JSON would change without a word."""
    if isinstance(data, dict):
        for key, value in data.items():
            if not isinstance(key, str):
                raise TypeError(f"keys must be str, got {type(key).__name__}")
            _require_str_keys(value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            _require_str_keys(value)


def digest_of(key: str) -> bytes:
    """Return the name by which Redis finds the session of a key: it does not tell the key."""
    return urlsafe_b64encode(sha256(key.encode()).digest()).rstrip(b"=")


def _session(
    record: bytes,
    start_timer: Callable[[float], SessionTimer],
    *,
    errors: str = "surrogatepass",
    with_data: bool = True,
) -> SharedSession:
    fields = json.loads(record.decode("utf-8", errors))
    key, name, created, session_id = fields["key"], fields["name"], _number(fields["created"]) / 1e6, fields["id"]
    if digest_of(key) != fields.get("present", session_id.partition(":")[2]).encode():
        raise ValueError("this is not the key of the session")
    authenticated = _number(fields["authenticated"]) / 1e6 if "authenticated" in fields else created
    reason = _REASONS.get(fields.get("reason"), "expired")
    now = int(fields["now"]) + int(fields["now_us"]) / 1e6
    snapshot = Snapshot(session_id, now - authenticated, fields["left"], reason)
    data = json.loads(fields["data"]) if with_data and "data" in fields else None
    timeout = _number(fields["own"]) if "own" in fields else None
    former = tuple(one.split(" ")[2] for one in fields["former"].split(",")) if "former" in fields else ()
    user_id = fields.get("user", name)
    return SharedSession(start_timer, snapshot, name, key, created, authenticated, data, timeout, former, user_id)


def _number(written: str) -> float:
    number = float(written)
    if not isfinite(number):
        raise ValueError("this is no time")
    return number


def live_session(start_timer: Callable[[float], SessionTimer], record: bytes | None) -> SharedSession | None:
    """Return the session of a record, a JSON object; `None` without one, and for one that no RedisStore has written."""
    if record is None:
        return None
    try:
        return _session(record, start_timer)
    except (ValueError, KeyError, IndexError, RecursionError):
        log.warning("Rejected a session that another program has changed in Redis: id %s", id_of(record))
        return None


def ended_session(start_timer: Callable[[float], SessionTimer], record: bytes) -> SharedSession | None:
    """Return the session of a record whose end is to be announced, whatever its data is."""
    session = live_session(start_timer, record)
    if session is None:
        with suppress(ValueError, KeyError, IndexError):
            return _session(record, start_timer, errors="replace", with_data=False)
    return session


def id_of(record: bytes) -> str:
    """Return the id of the session of a record."""
    session_id: str = json.loads(record.decode("utf-8", "replace"))["id"]
    return session_id


def data_of(record: bytes) -> bytes:
    """Return the data of a record as it is stored."""
    data: str = json.loads(record.decode("utf-8", "surrogatepass")).get("data", "")
    return data.encode("utf-8", "surrogatepass")


def notice(message: bytes) -> Notice | None:
    """Return the notice of a message, without a key; `None` for one that no RedisStore has sent."""
    kind, *values = message.decode("ascii", "replace").split(" ")
    if kind not in _NOTICE_KINDS or len(values) != 2 or ":" not in values[0]:
        return None
    session_id, left = values
    try:
        return Notice(cast(Any, kind), session_id, None, float(left) if left else None)
    except ValueError:
        return None


def encode_text(text: str) -> bytes:
    """Return a text as Redis has it; any `str` can be one, halves of surrogate pairs included."""
    return text.encode("utf-8", "surrogatepass")


def _as_text(encoded: bytes) -> str:
    return encoded.decode("utf-8", "surrogatepass")


def as_any_text(user: bytes) -> str:
    """Return a username, readable even if another program has written it."""
    try:
        return _as_text(user)
    except UnicodeDecodeError:
        return user.decode("utf-8", "replace")


def encode_number(value: float | None) -> bytes:
    """Return a number as the script reads it, to the last bit; empty for `None`."""
    return b"" if value is None else b"%.17g" % value
