"""The clients of a Socket.IO server that belong to a session: who they are, and how they show it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeVar

from ..errors import SessionRejected, StoreUnavailable
from ..manager import SessionManager
from ..session import Session
from ..web import find

Answer = TypeVar("Answer")

JOIN = "session_key"
"""The event with which a client asks to hear of the end of its session."""

LOGOUT = "logout"
"""The event that tells it."""

EXPIRING = "session_expiring"
"""The event that tells it before, with the seconds that are left."""


class Members:
    """The clients of one server that belong to a session, and what both kinds of server have in common.

    A client that joins is looked at twice. Before, because a room that is no session's is never entered: each client
    has one of its own, named by its id. And once it is in, because the session may have ended in between. Whoever takes
    a client out of `_members` is the one that tells it, so it is told once.

    The clients of this process are told one by one, and the room is for those of other processes: a room that empties
    while somebody enters it can be lost. While they are told, nobody enters it: who joins then is told by the second
    look, and would be by the room as well.

    Threads: who belongs to which session, and is in its room with that, changes in one go, and one thread at a time:
    `Rooms` has a lock for it, `LoopRooms` its loop.
    """

    def __init__(self, manager: SessionManager, io: Any, namespace: str, cookie: str | None) -> None:
        self._manager = manager
        self._io = io
        self._namespace = namespace
        self._cookie = cookie
        self._members: dict[str, set[str]] = {}  # session key: the ids of its clients
        self._key_of: dict[str, str] = {}  # and the other way round
        self._ending: set[str] = set()  # the keys of sessions whose clients are being told
        self._many = 1

    def notify(self, _io: object, key: str) -> None:
        """Tell the clients of a session that goes on; the end of a session is `close`'s."""
        self._tell_live(keys_of_live(self._manager, key), LOGOUT)

    def warn(self, key: str, left: float) -> None:
        """Tell the clients of a session that it is running out."""
        self._tell_live(keys_of_live(self._manager, key), EXPIRING, left)

    def _tell_live(self, keys: Sequence[str], event: str, data: Any = None) -> None:
        """Tell the clients of a session with these keys; there are none if it has ended."""
        raise NotImplementedError

    def _remember(self, sid: str, key: str) -> None:
        """Let a client that belongs to no session belong to one."""
        if len(self._key_of) >= self._many:
            # A client that has gone, or comes back under another id, is not heard of again.
            for gone in [other for other in self._key_of if not self._is_connected(other)]:
                self._forget(gone)
            self._many = 2 * len(self._key_of) + 1
        self._members.setdefault(key, set()).add(sid)
        self._key_of[sid] = key

    def _move(self, keys: Sequence[str]) -> list[tuple[str, str]]:
        """Let the clients of a session belong to the first of its keys; return those that change, with their old key.

        Two renewals may be heard of in the wrong order, and one in another process not at all.
        """
        new, *former = keys
        moved = [(sid, old) for old in former for sid in self._members.pop(old, ())]
        for sid, _ in moved:
            self._members.setdefault(new, set()).add(sid)
            self._key_of[sid] = new
        return moved

    def _forget(self, sid: str) -> str | None:
        """Take a client out; return the key of the session it belonged to."""
        key = self._key_of.pop(sid, None)
        if key is not None:
            self._members[key].remove(sid)
            if not self._members[key]:
                del self._members[key]
        return key

    def _forget_session(self, keys: Sequence[str]) -> list[str]:
        """Take all clients of a session out, and return them; from now on nobody enters its rooms."""
        self._ending.update(keys)
        clients = self._clients(keys)
        for sid in clients:
            self._forget(sid)
        return clients

    def _clients(self, keys: Iterable[str]) -> list[str]:
        return list({sid for key in keys for sid in self._members.get(key, ())})

    def _may_enter(self, sid: str, key: str) -> bool:
        return self._key_of.get(sid) == key and key not in self._ending and self._is_connected(sid)

    def _is_connected(self, sid: str) -> bool:
        return bool(again(self._io.manager.is_connected, sid, self._namespace))

    def _presented(self, sid: str, data: Any) -> Any:
        """Return the key that a client shows, whatever it is."""
        key = data.get(JOIN) if isinstance(data, dict) else data
        if key is None and self._cookie is not None:
            try:
                cookies = SimpleCookie((self._io.get_environ(sid, self._namespace) or {}).get("HTTP_COOKIE", ""))
            except CookieError:
                return None
            return cookies[self._cookie].value if self._cookie in cookies else None
        return key

    def _check(self, key: Any) -> str | bool | None:
        """Return the key that the session of `key` has now, `False` and the events of a rejection if there is none.

        `None` while nobody knows.
        """
        try:
            return self._manager.getSession(key).key
        except SessionRejected:
            return False
        except StoreUnavailable:
            return None

    def _look_again(self, key: str) -> str | bool | None:
        """Return the same without an event."""
        try:
            session = find(self._manager, key)
        except StoreUnavailable:
            return None
        return False if session is None else session.key


def keys_of(session: Session) -> list[str]:
    """Return the names of the rooms in which clients of a session may be, that of its key first.

    Those who have joined in another process under a key that was renewed in this one are in that room still.
    """
    return [session.key, *session.formerKeys]


def keys_of_live(manager: SessionManager, key: str) -> list[str]:
    """Return the same for the session of a key: none if it has ended, or nobody knows."""
    try:
        session = find(manager, key)
    except StoreUnavailable:
        return []
    return [] if session is None else keys_of(session)


def again(call: Callable[..., Answer], *args: Any, **options: Any) -> Answer:
    """Call a function of python-socketio; and again, if what it had just found has gone when it takes it.

    The last client of a room or of a list takes that with it. Nothing has been changed or sent by then.
    """
    try:
        return call(*args, **options)
    except KeyError:
        return call(*args, **options)
