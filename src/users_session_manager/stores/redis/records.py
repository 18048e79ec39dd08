"""How a session is written in Redis, and read from the records that the script returns."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeAlias, cast, get_args, get_type_hints

from ...log import log
from ...session import Reason
from ...timers import SessionTimer
from ..base import Notice
from ..expiry import SharedSession, Snapshot

_REASONS: Final[dict[bytes, Reason]] = {reason.encode(): reason for reason in get_args(Reason)}

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


# What the script returns of a session: its id, the present Unix time, the seconds left, and its fields in turn with
# their values, all of it `bytes`; see the head of the script.
Record: TypeAlias = "tuple[bytes, bytes, bytes, Sequence[bytes]]"


def _session(
    record: Record, start_timer: Callable[[float], SessionTimer], *, decode: Callable[[bytes], str], with_data: bool
) -> SharedSession:
    session_id, now, left, values = record
    fields = dict(zip(values[::2], values[1::2], strict=True))
    key, name, created = fields[b"k"].decode("ascii"), decode(fields[b"n"]), int(fields[b"c"])
    if digest_of(key) != fields.get(b"present", session_id.partition(b":")[2]):
        raise ValueError("this is not the key of the session")
    authenticated = int(fields.get(b"authenticated", created)) / 1e6
    reason = _REASONS.get(fields.get(b"reason", b""), "expired")
    snapshot = Snapshot(session_id, float(now) - authenticated, float(left), reason)
    data = json.loads(fields[b"data"]) if with_data and b"data" in fields else None
    timeout = float(fields[b"own"]) if b"own" in fields else None
    former = tuple(one.split(" ")[2] for one in fields[b"former"].decode().split(",")) if b"former" in fields else ()
    user_id = decode(fields[b"user"]) if b"user" in fields else name
    return SharedSession(start_timer, snapshot, name, key, created / 1e6, authenticated, data, timeout, former, user_id)


def live_session(start_timer: Callable[[float], SessionTimer], record: Record | None) -> SharedSession | None:
    """Return the session of a record; `None` without one, and for one that no RedisStore has written."""
    if record is None:
        return None
    try:
        return _session(record, start_timer, decode=_as_text, with_data=True)
    except (ValueError, KeyError, IndexError, RecursionError):
        log.warning("Rejected a session that another program has changed in Redis: id %s", ascii(record[0]))
        return None


def ended_session(start_timer: Callable[[float], SessionTimer], record: Record) -> SharedSession | None:
    """Return the session of a record whose end is to be announced, whatever its data is."""
    session = live_session(start_timer, record)
    if session is None:
        with suppress(ValueError, KeyError, IndexError):
            return _session(record, start_timer, decode=as_any_text, with_data=False)
    return session


def notice(message: bytes) -> Notice | None:
    """Return the notice of a message, without a key; `None` for one that no RedisStore has sent."""
    kind, *values = message.decode("ascii", "replace").split(" ")
    if kind not in _NOTICE_KINDS or len(values) != 2 or ":" not in values[0]:
        return None
    session_id, left = values
    try:
        return Notice(cast(Any, kind), session_id.encode(), None, float(left) if left else None)
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
