"""How a session is written in a row, and read from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast, get_args, get_type_hints

from ...log import log
from ...session import Reason
from ...timers import SessionTimer
from ..base import Notice
from ..encoding import digest_of
from ..expiry import SharedSession, Snapshot

_REASONS: Final[dict[Any, Reason]] = {reason: reason for reason in get_args(Reason)}
_NOTICE_KINDS: Final = get_args(get_type_hints(Notice)["kind"])

# The characters that not every database can hold in a text, and the one that begins an escape.
_SPECIAL: Final = re.compile("[\0\\\\\ud800-\udfff]")
_ESCAPE: Final = re.compile(r"\\u([0-9a-f]{4})")


class Row(NamedTuple):
    """A row of a session, and the time at which it was read."""

    id: int
    digest: str
    key: str
    former: str | None
    username: str
    user_id: str
    stamp: str | None
    created_at: float
    authenticated_at: float | None
    deadline: float
    timeout: float | None
    data: str
    reason: str | None
    now: float
    unix: float
    # What a poll needs in addition.
    warning: float = 0.0
    warned: float | None = None
    expiring: float | None = None
    announced_at: float | None = None


ALL_COLUMNS: Final = ", ".join({"now": "{now}", "unix": "{unix}"}.get(name, name) for name in Row._fields)
COLUMNS: Final = ALL_COLUMNS.partition(", warning")[0]


def live_session(start_timer: Callable[[float], SessionTimer], row: Row) -> SharedSession | None:
    """Return the session of a row; `None` if another program has changed it."""
    try:
        return _session(start_timer, row)
    except (ValueError, TypeError, RecursionError):
        log.warning(
            "Rejected a session that another program has changed in the database: id %s. Let no other program write "
            "there, see docs/how-to/production.md",
            row.id,
        )
        return None


def ended_session(start_timer: Callable[[float], SessionTimer], row: Row) -> SharedSession | None:
    """Return the session of a row whose end is to be announced, whatever its data is."""
    return live_session(start_timer, row) or live_session(start_timer, row._replace(data=""))


def _session(start_timer: Callable[[float], SessionTimer], row: Row) -> SharedSession:
    if digest_of(row.key) != row.digest:
        raise ValueError("this is not the key of the session")
    authenticated = row.created_at if row.authenticated_at is None else row.authenticated_at
    reason = _REASONS.get(row.reason, "expired")
    data = json.loads(row.data) if row.data else None
    former = tuple(key for _, key in former_keys(row).values())
    username, user_id = as_text(row.username), as_text(row.user_id)
    stamp = None if row.stamp is None else as_text(row.stamp)
    snapshot = Snapshot(row.id, row.unix - authenticated, row.deadline - row.now, reason, row.data)
    values = username, row.key, row.created_at, authenticated, data, row.timeout, former, user_id, stamp
    return SharedSession(start_timer, snapshot, *values)


def former_keys(row: Row) -> dict[str, tuple[float, str]]:
    """Return the former keys of a session, oldest first: by their digests until when they are good, and the keys."""
    return {} if row.former is None else json.loads(row.former)


def encode_text(text: str) -> str:
    """Return a text as it is stored: any `str` can be one, with NUL and halves of surrogate pairs."""
    return _SPECIAL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def as_text(encoded: str) -> str:
    """Return what `encode_text` has encoded."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), encoded) if "\\" in encoded else encoded


def encode_notices(notices: Sequence[Notice]) -> str:
    """Return notices as they are stored, without a key: to read them is not enough to log in."""
    return json.dumps([(each.kind, each.session_id, each.left, each.reason) for each in notices])


def as_notices(encoded: str) -> list[Notice]:
    """Return the notices of a row, none if another program has written it."""
    try:
        found = json.loads(encoded)
        return [
            Notice(cast(Any, kind), int(session_id), None, left, _REASONS.get(reason))
            for kind, session_id, left, reason in found
            if kind in _NOTICE_KINDS
        ]
    except (ValueError, TypeError):
        return []
