"""The Socket.IO hook: the clients of a session join a room named by its key, and get `logout` when it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import MissingDependency, SessionError
from ..manager import SessionManager
from ..session import Session

try:
    import socketio
except ImportError as missing:
    raise MissingDependency("python-socketio", "socketio") from missing

from ._socketio_members import EXPIRING, JOIN, LOGOUT, keys_of, keys_of_live
from ._socketio_rooms import LoopRooms, Rooms


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
    `sendLogoutMessage`; with every `sessionExpiring` it gets `session_expiring` and the seconds left. When the key of
    the session is renewed, its clients come along, to the room of the new key.

    `cookie` names a cookie of the handshake that holds the key, for clients that send `session_key` without one: a page
    whose key is in an HttpOnly cookie cannot read it (OWASP ASVS 5.0, 3.3.4).

    Raises `TypeError` for anything else, and `SessionError` for a server that is attached already or would lose what is
    sent from another thread.
    """
    server = io if isinstance(io, _KNOWN) else getattr(io, "server", None)
    if isinstance(server, socketio.AsyncServer):
        rooms: Rooms | LoopRooms | _Announcer = LoopRooms(manager, server, namespace, cookie)
    elif isinstance(server, socketio.Server):
        _require_patched(server.async_mode)
        rooms = Rooms(manager, server, namespace, cookie)
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
    listeners: dict[str, Callable[..., None]] = {
        "notifyClientToLogout": rooms.notify,
        "sessionExpiring": rooms.warn,
        "sessionRenewed": rooms.renew,
        "sessionEnded": rooms.close,
    }
    for event, listener in listeners.items():
        manager.on(event, listener)
    manager.initSocketReference(io)
    attached = True

    def detach() -> None:
        nonlocal attached
        if not attached:
            return
        attached = False
        if not isinstance(rooms, _Announcer):
            del server.handlers[namespace][JOIN]
        for event, listener in listeners.items():
            if listener in manager.listeners(event):  # the application may have removed them all
                manager.remove_listener(event, listener)
        rooms.detach()
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

    def notify(self, _io: object, key: str) -> None:
        """Tell the clients of a session that goes on."""
        self._tell(keys_of_live(self._manager, key), LOGOUT)

    def warn(self, key: str, left: float) -> None:
        """Tell the clients of a session that it is running out."""
        self._tell(keys_of_live(self._manager, key), EXPIRING, left)

    def renew(self, old: str, new: str) -> None:
        """The clients stay in the room of the old key: only their own server can take them along."""

    def close(self, session: Session, _reason: str) -> None:
        """Tell the clients of a session that has ended, and close their rooms."""
        keys = keys_of(session)
        self._tell(keys, LOGOUT)
        for key in keys:
            self._queue.close_room(key, namespace=self._namespace)

    def _tell(self, keys: list[str], event: str, data: Any = None) -> None:
        if keys:
            self._queue.emit(event, data, namespace=self._namespace, room=keys)

    def detach(self) -> None:
        """Nothing of this process has to be taken back."""
