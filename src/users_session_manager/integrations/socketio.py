"""The Socket.IO hook: the clients of a session join a room named by its key, and get `logout` when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependency, SessionError, SessionRejected, StoreUnavailable
from ..events import run_on
from ..log import log
from ..manager import SessionManager

try:
    import socketio
    from socketio.async_pubsub_manager import AsyncPubSubManager
except ImportError as missing:
    raise MissingDependency("python-socketio", "socketio") from missing

if TYPE_CHECKING:
    import concurrent.futures

JOIN = "session_key"
"""The event with which a client asks to hear of the end of its session."""

LOGOUT = "logout"
"""The event that tells it."""


def attach(manager: SessionManager, io: Any, *, namespace: str = "/", cookie: str | None = None) -> Callable[[], None]:
    """Tell the Socket.IO clients of a session when it ends; return a callable that detaches.

    `io` becomes the manager's socket reference. It is one of

    - a `socketio.Server`; in gevent or eventlet mode the standard library has to be monkey-patched;
    - a `socketio.AsyncServer`; its event loop is found by itself;
    - a `flask_socketio.SocketIO` that has its application;
    - a `socketio.PubSubManager`, such as a write-only `RedisManager`, in a process without a server.

    A client that sends `session_key` with `{"session_key": key}`, or the key itself, is acknowledged with `True` and
    joins the room named by that key if the session is alive; else it is acknowledged with `False` and gets `logout`
    straight away, but for a store that is away: then nobody knows, and it is `False` alone. It leaves the session it
    belonged to before. Each client of a session gets one `logout` when it ends, however it ends, and one for each
    `sendLogoutMessage`.

    `cookie` names a cookie of the handshake that holds the key, for clients that send `session_key` without one: a page
    whose key is in an HttpOnly cookie cannot read it (OWASP ASVS 5.0, 3.3.4).

    Raises `TypeError` for anything else, and `SessionError` for a server that is attached already or would lose what is
    sent from another thread.
    """
    server = io if isinstance(io, _KNOWN) else getattr(io, "server", None)
    if isinstance(server, socketio.AsyncServer):
        rooms: _Rooms | _LoopRooms | _Announcer = _LoopRooms(manager, server, namespace, cookie)
    elif isinstance(server, socketio.Server):
        _require_patched(server.async_mode)
        rooms = _Rooms(manager, server, namespace, cookie)
    elif isinstance(server, socketio.PubSubManager):
        rooms = _Announcer(manager, server, namespace)
    else:
        raise TypeError(
            "io must be a socketio.Server, a socketio.AsyncServer, a flask_socketio.SocketIO that has its application, "
            f"or a socketio.PubSubManager; got {type(io).__name__}"
        )
    if not isinstance(rooms, _Announcer):
        if JOIN in server.handlers.get(namespace, {}):
            raise SessionError(f"this server has a handler of {JOIN!r} in namespace {namespace!r} already")
        server.on(JOIN, rooms.join, namespace=namespace)
    manager.on("notifyClientToLogout", rooms.notify)
    manager.on("sessionDeleted", rooms.close)
    manager.initSocketReference(io)
    attached = True

    def detach() -> None:
        nonlocal attached
        if not attached:
            return
        attached = False
        if not isinstance(rooms, _Announcer):
            del server.handlers[namespace][JOIN]
        manager.remove_listener("notifyClientToLogout", rooms.notify)
        manager.remove_listener("sessionDeleted", rooms.close)
        if manager.getSocketReference() is io:
            manager.initSocketReference(None)

    return detach


_KNOWN = (socketio.Server, socketio.AsyncServer, socketio.PubSubManager)


def _require_patched(mode: str) -> None:
    """Refuse a server whose queues lose what a thread of the system puts into them, without an exception."""
    if mode.startswith("gevent"):
        from gevent.monkey import is_module_patched

        patched, cure = is_module_patched("threading"), "gevent.monkey.patch_all()"
    elif mode == "eventlet":
        from eventlet.patcher import is_monkey_patched

        patched, cure = is_monkey_patched("thread"), "eventlet.monkey_patch()"
    else:
        return
    if not patched:
        raise SessionError(f"a server in {mode} mode loses the logouts of other threads: call {cure} before all else")


class _Announcer:
    """Tells the clients of other processes, through a message queue, of sessions that end in this one."""

    def __init__(self, manager: SessionManager, queue: Any, namespace: str) -> None:
        self._manager = manager
        self._queue = queue
        self._namespace = namespace
        self._lock = threading.RLock()  # a client of a queue may be one for a single thread

    def notify(self, _io: object, key: str) -> None:
        if self._manager.getUsernameFromSessionKey(key) is not False:
            with self._lock:
                self._queue.emit(LOGOUT, None, namespace=self._namespace, room=key)

    def close(self, key: str) -> None:
        with self._lock:
            self._queue.emit(LOGOUT, None, namespace=self._namespace, room=key)
            self._queue.close_room(key, namespace=self._namespace)


class _Members:
    """The clients of a server that belong to a session. Whoever uses it holds a lock."""

    def __init__(self, manager: SessionManager, io: Any, namespace: str, cookie: str | None) -> None:
        self._manager = manager
        self._io = io
        self._namespace = namespace
        self._cookie = cookie
        self._members: dict[str, set[str]] = {}  # session key: the ids of its clients
        self._key_of: dict[str, str] = {}  # and the other way round

    def _remember(self, sid: str, key: str) -> None:
        members = self._members.setdefault(key, set())
        # A client that reconnects comes back under another id, and its old one is never heard of again.
        for gone in [other for other in members if not self._io.manager.is_connected(other, self._namespace)]:
            members.remove(gone)
            del self._key_of[gone]
        members.add(sid)
        self._key_of[sid] = key

    def _forget(self, sid: str) -> str | None:
        """Forget a client; return the key of the session it belonged to."""
        key = self._key_of.pop(sid, None)
        if key is not None:
            self._members[key].discard(sid)
            if not self._members[key]:
                del self._members[key]
        return key

    def _forget_session(self, key: str) -> None:
        for sid in self._members.pop(key, ()):
            del self._key_of[sid]

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

    def _check(self, key: Any) -> bool | None:
        """Tell whether a session is alive, with the events of a rejection; `None` while nobody knows."""
        try:
            return self._manager.checkSessionStatus(key)
        except SessionRejected:
            return False  # nobody listens to `error`
        except StoreUnavailable:
            return None

    def _is_alive(self, key: str) -> bool | None:
        """Tell the same without an event."""
        try:
            return self._manager.getUsernameFromSessionKey(key) is not False
        except StoreUnavailable:
            return None


# A client that joins is checked twice. Before, because a room that is no session's is never joined: each client has one
# of its own, named by its id. And once it is in, because the session may have ended in between; its end comes either
# before that, and is seen, or after, and is heard.


class _Rooms(_Members):
    """The rooms of a `socketio.Server`.

    Threads: any thread may call any method. The lock makes joining one step, and it keeps the packets of two emits
    apart, which `Server.emit` does not. It is not held while the manager's listeners run.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._lock = threading.RLock()

    def join(self, sid: str, data: Any = None, *_: Any) -> bool:
        """Answer a client's `session_key`."""
        key = self._presented(sid, data)
        alive = self._check(key)
        with self._lock:
            if alive is not None:
                self._leave(sid)
            if alive and self._enter(sid, key):
                alive = self._is_alive(key)
                if alive:
                    return True
                self._leave(sid)
            if alive is False:
                self._emit(sid)
            return False

    def notify(self, _io: object, key: str) -> None:
        """Tell the clients of a session that goes on; the end of a session is `close`'s."""
        if self._is_alive(key):
            with self._lock:
                self._emit(key)

    def close(self, key: str) -> None:
        """Tell the clients of a session that has ended, and close its room."""
        with self._lock:
            self._emit(key)
            self._io.close_room(key, namespace=self._namespace)
            self._forget_session(key)

    def _enter(self, sid: str, key: str) -> bool:
        try:
            self._io.enter_room(sid, key, namespace=self._namespace)
        except (KeyError, ValueError):
            return False  # the client has gone
        self._remember(sid, key)
        return True

    def _leave(self, sid: str) -> None:
        if (key := self._forget(sid)) is not None:
            self._io.leave_room(sid, key, namespace=self._namespace)

    def _emit(self, to: str) -> None:
        self._io.emit(LOGOUT, to=to, namespace=self._namespace)


class _LoopRooms(_Members):
    """The rooms of a `socketio.AsyncServer`.

    Threads: `notify` and `close` may be called from any thread, and wait for nothing; all else runs on the server's
    loop, and the lock makes one step of what awaits. The loop is the one on which `attach` is called or clients join:
    before the first has, there is nobody here to tell.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()

    async def join(self, sid: str, data: Any = None, *_: Any) -> bool:
        """Answer a client's `session_key`."""
        self._loop = asyncio.get_running_loop()
        key = self._presented(sid, data)
        alive = await self._ask(self._check, key)
        async with self._lock:
            if alive is not None:
                await self._leave(sid)
            if alive and await self._enter(sid, key):
                alive = await self._ask(self._is_alive, key)
                if alive:
                    return True
                await self._leave(sid)
            if alive is False:
                await self._emit(sid)
            return False

    def notify(self, _io: object, key: str) -> None:
        """Tell the clients of a session that goes on; the end of a session is `close`'s."""
        if self._is_alive(key):
            self._submit(self._emit, key)

    def close(self, key: str) -> None:
        """Tell the clients of a session that has ended, and close its room."""
        self._submit(self._close, key)

    async def _close(self, key: str) -> None:
        async with self._lock:
            await self._emit(key)
            await self._io.close_room(key, namespace=self._namespace)
            self._forget_session(key)

    async def _enter(self, sid: str, key: str) -> bool:
        try:
            await self._io.enter_room(sid, key, namespace=self._namespace)
        except (KeyError, ValueError):
            return False  # the client has gone
        self._remember(sid, key)
        return True

    async def _leave(self, sid: str) -> None:
        if (key := self._forget(sid)) is not None:
            await self._io.leave_room(sid, key, namespace=self._namespace)

    async def _emit(self, to: str) -> None:
        await self._io.emit(LOGOUT, to=to, namespace=self._namespace)

    async def _ask(self, question: Callable[[Any], bool | None], key: Any) -> bool | None:
        return await asyncio.to_thread(question, key) if self._manager.blocking else question(key)

    def _submit(self, work: Callable[[str], Coroutine[Any, Any, None]], key: str) -> None:
        if self._loop is None:
            if isinstance(self._io.manager, AsyncPubSubManager):
                raise SessionError("no loop to reach the other processes on: call attach() in a coroutine")
            return
        try:
            run_on(self._loop, work(key)).add_done_callback(_log_failure)
        except RuntimeError:
            log.debug("The server's loop has closed, and its clients with it")


def _log_failure(future: concurrent.futures.Future[None]) -> None:
    failure = None if future.cancelled() else future.exception()
    if failure is not None:
        log.error("A logout could not be sent", exc_info=failure)
