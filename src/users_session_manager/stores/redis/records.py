"""How a session is written in Redis, and read from the records that the script returns."""

from __future__ import annotations

import json
import re
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

_SESSION_ID: Final = re.compile(r"(\d|1[0-5]):[\w-]{43}")

_NOTICE_KINDS: Final = get_args(get_type_hints(Notice)["kind"])


class SizeLimits(NamedTuple):
    """How large what is stored may be."""

    data: int
    """Bytes of data, as JSON."""
    username: int
    """Characters of a username, of a user id and of a security stamp."""

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

    def encode_stamp(self, stamp: str | None) -> bytes:
        """Return a security stamp as Redis has it: in quotes, since one may be empty; empty for `None`."""
        return b"" if stamp is None else b'"%b"' % self.encode_user("a security stamp", stamp)


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
    """Return the name by which Redis finds the session of a key: it does not show the key."""
    return urlsafe_b64encode(sha256(key.encode()).digest()).rstrip(b"=")


def _session(
    record: bytes,
    start_timer: Callable[[float], SessionTimer],
    *,
    errors: str = "surrogatepass",
    with_data: bool = True,
) -> SharedSession:
    group, digest, now, now_us, left, *rest = record.decode("utf-8", errors).split("\n")
    fields = dict(zip(rest[::2], rest[1::2], strict=True))
    key, name, created = fields["k"], as_text(fields["n"]), _number(fields["c"]) / 1e6
    if digest_of(key).decode() != fields.get("present", digest):
        raise ValueError("this is not the key of the session")
    authenticated = _number(fields["authenticated"]) / 1e6 if "authenticated" in fields else created
    reason = _REASONS.get(fields.get("reason"), "expired")
    snapshot = Snapshot(f"{group}:{digest}", int(now) + int(now_us) / 1e6 - authenticated, float(left), reason)
    data = json.loads(fields["data"]) if with_data and "data" in fields else None
    timeout = _number(fields["own"]) if "own" in fields else None
    former = tuple(one.split(" ")[2] for one in fields["former"].split(",")) if "former" in fields else ()
    user = as_text(fields["user"]) if "user" in fields else name
    stamp = as_text(fields["stamp"][1:-1]) if "stamp" in fields else None
    return SharedSession(start_timer, snapshot, name, key, created, authenticated, data, timeout, former, user, stamp)


def _number(written: str) -> float:
    number = float(written)
    if not isfinite(number):
        raise ValueError("this is no time")
    return number


def live_session(start_timer: Callable[[float], SessionTimer], record: bytes | None) -> SharedSession | None:
    """Return the session of a record (see the script); `None` without one, or if another program has written it."""
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
    group, digest, _ = record.decode("utf-8", "replace").split("\n", 2)
    return f"{group}:{digest}"


def data_of(record: bytes) -> bytes:
    """Return the data of a record as it is stored."""
    fields = record.split(b"\n")[5:]
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(b"data", b"")


def notice(message: bytes) -> Notice | None:
    """Return the notice of a message, without a key; `None` for one that no RedisStore has sent."""
    kind, *values = message.decode("ascii", "replace").split(" ")
    if kind not in _NOTICE_KINDS or len(values) != 3 or not _SESSION_ID.fullmatch(values[0]):
        return None
    session_id, left, reason = values
    try:
        return Notice(cast(Any, kind), session_id, None, float(left) if left else None, _REASONS.get(reason))
    except ValueError:
        return None


def encode_text(text: str) -> bytes:
    """Return a text as Redis has it: as in JSON, so without a line feed.

    Any `str` can be one, halves of surrogate pairs included.
    """
    return json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")


def as_text(encoded: str) -> str:
    """Return what `encode_text` has encoded."""
    text: str = json.loads(f'"{encoded}"')
    return text


def as_any_text(encoded: bytes) -> str:
    """Return a username, readable even if another program has written it."""
    try:
        return as_text(encoded.decode("utf-8", "surrogatepass"))
    except ValueError:
        return encoded.decode("utf-8", "replace")


def encode_number(value: float | None) -> bytes:
    """Return a number as the script reads it, to the last bit; empty for `None`."""
    return b"" if value is None else b"%.17g" % value
