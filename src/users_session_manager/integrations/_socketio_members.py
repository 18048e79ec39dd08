"""The clients of a Socket.IO server that belong to a session: who they are, and how they show it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any

from ..errors import SessionRejected, StoreUnavailable
from ..manager import SessionManager
from ..session import Session
from ..web import find

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
    while somebody enters it can be lost.

    Threads: the lock guards the two dictionaries. It is not held while anything is sent, since python-socketio may call
    a handler of the application in the middle of that.
    """

    def __init__(self, manager: SessionManager, io: Any, namespace: str, cookie: str | None) -> None:
        self._manager = manager
        self._io = io
        self._namespace = namespace
        self._cookie = cookie
        self._members: dict[str, set[str]] = {}  # session key: the ids of its clients
        self._key_of: dict[str, str] = {}  # and the other way round
        self._lock = threading.RLock()
        _all_members.add(self)

    def _remember(self, sid: str, key: str) -> None:
        with self._lock:
            members = self._members.setdefault(key, set())
            # A client that reconnects comes back under another id, and its old one is never heard of again.
            for gone in [other for other in members if not self._is_connected(other)]:
                members.remove(gone)
                del self._key_of[gone]
            members.add(sid)
            self._key_of[sid] = key

    def _move(self, old: str, new: str) -> list[str]:
        """Let the clients of a session belong to it under its new key, and return them."""
        with self._lock:
            clients = self._members.pop(old, set())
            if clients:
                self._members.setdefault(new, set()).update(clients)
            for sid in clients:
                self._key_of[sid] = new
            return list(clients)

    def _forget(self, sid: str) -> str | None:
        """Take a client out; return the key of the session it belonged to."""
        with self._lock:
            key = self._key_of.pop(sid, None)
            if key is not None:
                self._members[key].remove(sid)
                if not self._members[key]:
                    del self._members[key]
            return key

    def _forget_session(self, keys: Sequence[str]) -> list[str]:
        """Take all clients of a session out, and return them."""
        with self._lock:
            clients = [sid for key in keys for sid in self._members.pop(key, ())]
            for sid in clients:
                del self._key_of[sid]
            return clients

    def _clients(self, keys: Sequence[str]) -> list[str]:
        with self._lock:
            return [sid for key in keys for sid in self._members.get(key, ())]

    def _is_connected(self, sid: str) -> bool:
        try:
            return bool(self._io.manager.is_connected(sid, self._namespace))
        except KeyError:  # it is leaving at this moment
            return False

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
            session = self._manager.getSession(key)
        except SessionRejected:
            return False  # nobody listens to `error`
        except StoreUnavailable:
            return None
        return session.key if session else False

    def _look_again(self, key: str) -> str | bool | None:
        """Return the same without an event."""
        try:
            session = find(self._manager, key)
        except StoreUnavailable:
            return None
        return False if session is None else session.key


def keys_of(session: Session) -> list[str]:
    """Return the names of the rooms in which clients of a session may be.

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


_all_members: weakref.WeakSet[Members] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for members in list(_all_members):
        members._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
