"""The Socket.IO hook: the clients of a session join a room named by its key, and get `logout` when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any

from ..errors import MissingDependency, SessionError, SessionRejected
from ..manager import SessionManager

try:
    import socketio
except ImportError as missing:
    raise MissingDependency("python-socketio", "socketio") from missing

JOIN = "session_key"
"""The event with which a client asks to hear of the end of its session."""

LOGOUT = "logout"
"""The event that tells it."""


def attach(
    manager: SessionManager, io: socketio.Server, *, namespace: str = "/", cookie: str | None = None
) -> Callable[[], None]:
    """Tell the Socket.IO clients of a session when it ends; return a callable that detaches.

    `io` is a `socketio.Server` in threading mode; it becomes the manager's socket reference. A client that sends
    `session_key` with `{"session_key": key}`, or the key itself, is acknowledged with `True` and joins the room named
    by that key if the session is alive; else it is acknowledged with `False` and gets `logout` straight away. It leaves
    the session it belonged to before. Each client of a session gets one `logout` when it ends, however it ends, and one
    for each `sendLogoutMessage`.

    `cookie` names a cookie of the handshake that holds the key, for clients that send `session_key` without one: a page
    whose key is in an HttpOnly cookie cannot read it (OWASP ASVS 5.0, 3.3.4).

    Raises `TypeError` for another kind of server, and `SessionError` for one that is attached already.
    """
    if not isinstance(io, socketio.Server):
        raise TypeError(f"io must be a socketio.Server, got {type(io).__name__}")
    if io.async_mode != "threading":
        raise TypeError(f"io must be a socketio.Server in threading mode, not in {io.async_mode} mode")
    handlers = io.handlers.get(namespace, {})
    if JOIN in handlers:
        raise SessionError(f"this server has a handler of {JOIN!r} in namespace {namespace!r} already")

    rooms = _Rooms(manager, io, namespace, cookie)
    io.on(JOIN, rooms.join, namespace=namespace)
    manager.on("notifyClientToLogout", rooms.notify)
    manager.on("sessionDeleted", rooms.close)
    manager.initSocketReference(io)

    def detach() -> None:
        if io.handlers[namespace].get(JOIN) != rooms.join:
            return  # it has been called before
        del io.handlers[namespace][JOIN]
        manager.remove_listener("notifyClientToLogout", rooms.notify)
        manager.remove_listener("sessionDeleted", rooms.close)
        if manager.getSocketReference() is io:
            manager.initSocketReference(None)

    return detach


class _Rooms:
    """The rooms of one server, one a live session, and who is in them.

    Threads: any thread may call any method. The lock makes looking at a session and joining its room one step, so that
    its end comes either before, and is seen, or after, and is heard; and it keeps the packets of two emits apart, which
    `Server.emit` does not. It is not held while the manager's listeners run.
    """

    def __init__(self, manager: SessionManager, io: Any, namespace: str, cookie: str | None) -> None:
        self._manager = manager
        self._io = io
        self._namespace = namespace
        self._cookie = cookie
        self._lock = threading.RLock()
        self._members: dict[str, set[str]] = {}  # session key: the ids of its clients
        self._key_of: dict[str, str] = {}  # and the other way round

    def join(self, sid: str, data: Any = None, *_: Any) -> bool:
        """Answer a client's `session_key`."""
        key = self._presented(sid, data)
        try:
            self._manager.checkSessionStatus(key)
        except SessionRejected:
            pass  # nobody listens to `error`; the answer follows
        with self._lock:
            self._leave(sid)
            # Alive is asked again because only under the lock does the answer hold until the client is in. A room
            # that is not a live session's is never joined: each client has one of its own, named by its id.
            if isinstance(key, str) and self._is_alive(key):
                return self._enter(sid, key)
            self._emit(sid)
            return False

    def notify(self, _io: object, key: str) -> None:
        """Tell the clients of a session that goes on; the end of a session is `close`'s."""
        with self._lock:
            if self._is_alive(key):
                self._emit(key)

    def close(self, key: str) -> None:
        """Tell the clients of a session that has ended, and close its room."""
        with self._lock:
            self._emit(key)
            self._io.close_room(key, namespace=self._namespace)
            for sid in self._members.pop(key, ()):
                del self._key_of[sid]

    def _emit(self, to: str) -> None:
        self._io.emit(LOGOUT, to=to, namespace=self._namespace)

    def _is_alive(self, key: str) -> bool:
        return self._manager.getUsernameFromSessionKey(key) is not False

    def _enter(self, sid: str, key: str) -> bool:
        try:
            self._io.enter_room(sid, key, namespace=self._namespace)
        except (KeyError, ValueError):
            return False  # the client has gone
        members = self._members.setdefault(key, set())
        # A client that reconnects comes back under another id, and its old one is never heard of again.
        for gone in [other for other in members if not self._io.manager.is_connected(other, self._namespace)]:
            members.remove(gone)
            del self._key_of[gone]
        members.add(sid)
        self._key_of[sid] = key
        return True

    def _leave(self, sid: str) -> None:
        key = self._key_of.pop(sid, None)
        if key is not None:
            self._members[key].discard(sid)
            self._io.leave_room(sid, key, namespace=self._namespace)

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
