"""How a session is written in Redis, and read from the records that the script returns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from math import isfinite
from typing import Any, Final, cast, get_args, get_type_hints

from ...log import log
from ...session import Reason
from ...timers import SessionTimer
from ..base import Notice
from ..encoding import digest_of
from ..expiry import SharedSession, Snapshot

_REASONS: Final[dict[Any, Reason]] = {reason: reason for reason in get_args(Reason)}

_SESSION_ID: Final = re.compile(r"(\d|1[0-5]):[\w-]{43}")

_NOTICE_KINDS: Final = get_args(get_type_hints(Notice)["kind"])


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
    if digest_of(key) != fields.get("present", digest):
        raise ValueError("this is not the key of the session")
    authenticated = _number(fields["authenticated"]) / 1e6 if "authenticated" in fields else created
    reason, encoded = _REASONS.get(fields.get("reason"), "expired"), fields.get("data", "")
    age = int(now) + int(now_us) / 1e6 - authenticated
    snapshot = Snapshot(f"{group}:{digest}", age, float(left), reason, encoded)
    data = json.loads(encoded) if with_data and encoded else None
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
        log.warning(
            "Rejected a session that another program has changed in Redis: id %s. Let no other program write there, "
            "see docs/how-to/production.md",
            id_of(record),
        )
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


def encode_stamp(stamp: str | None) -> bytes:
    """Return a security stamp as Redis has it: in quotes, since one may be empty; empty for `None`."""
    return b"" if stamp is None else b'"%b"' % encode_text(stamp)


def encode_number(value: float | None) -> bytes:
    """Return a number as the script reads it, to the last bit; empty for `None`."""
    return b"" if value is None else b"%.17g" % value
