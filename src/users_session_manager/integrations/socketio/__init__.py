"""The Socket.IO hook: the clients of a session join a room named by its key, and get `logout` when it ends.

`notifier.py` answers and notifies the clients, on both kinds of server; `registry.py` keeps which of them belong to
which session; `presence.py` sends them the names of all users who are signed in.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pkgutil import resolve_name
from typing import Any

from ...errors import MissingDependency, SessionError
from ...manager import SessionManager
from ...session import Session

try:
    import socketio
except ImportError as missing:
    raise MissingDependency("python-socketio", "socketio") from missing

from .notifier import JOIN, LoopNotifier, Notifier
from .presence import Presence
from .registry import SIGNED_IN_ROOM

__all__ = ["SIGNED_IN_ROOM", "attach", "presence"]


def attach(manager: SessionManager, io: Any, *, namespace: str = "/", cookie: str | None = None) -> Callable[[], None]:
    """Send the Socket.IO clients of a session a `logout` when it ends; return a callable that detaches.

    Args:
        manager: The manager of the sessions.
        io: The server, which becomes the manager's socket reference: a `socketio.Server`, where gevent and eventlet
            modes need a monkey-patched standard library; a `socketio.AsyncServer`, whose event loop is found by itself;
            or a `flask_socketio.SocketIO` that has its application.
        namespace: The namespace of the clients.
        cookie: The name of a cookie of the handshake that holds the key, for clients that send `session_key` without
            one: a page whose key is in an HttpOnly cookie cannot read it (OWASP ASVS 5.0, 3.3.4). Which origins may
            connect, and so send that cookie, the server decides by its `cors_allowed_origins`: its own by default.

    Raises:
        TypeError: `io` is anything else.
        SessionError: The server is attached already, or would lose what is sent from another thread.

    A client that sends `session_key` with `{"session_key": key}`, or with the key itself, leaves the session it
    belonged to before. If the session of the key is live, the client joins the room named by that key, and that of all
    clients of live sessions, `SIGNED_IN_ROOM`, and is acknowledged with `True`; else it is acknowledged with `False`
    and gets `logout` at once. While the store is unavailable, it is acknowledged with `False` alone.

    Each client of a session gets one `logout` when the session ends, however it ends, with `{"reason": reason}`, where
    `reason` is that of `sessionEnded`, or `None` if it is not known. It gets one without a reason for each
    `sendLogoutMessage`, and with every `sessionExpiring` it gets `session_expiring` and the seconds left. When the key
    of the session is renewed, its clients move to the room of the new key.

    With a shared store, call it in each process that has a server: each notifies its own clients, wherever a session
    ends. That needs no message queue, and no call in a process without a server; a queue that the application has for
    messages of its own does no harm.
    """
    server = _server_of(io)
    if JOIN in server.handlers.get(namespace, {}):
        raise SessionError(
            f"this server has a handler of {JOIN!r} in namespace {namespace!r} already: call attach() once, or choose "
            "another namespace, see docs/how-to/page-script.md"
        )
    kind = LoopNotifier if isinstance(server, socketio.AsyncServer) else Notifier
    notifier = kind(manager, server, namespace, cookie)
    undo = ExitStack()  # it calls the last one first, and nothing the second time
    undo.callback(lambda: manager.getSocketReference() is io and manager.initSocketReference(None))
    undo.callback(notifier.detach)
    undo.callback(manager.removeWatcher, notifier)
    undo.callback(server.handlers.setdefault(namespace, {}).pop, JOIN, None)
    server.on(JOIN, notifier.join, namespace=namespace)
    manager.addWatcher(notifier)
    manager.initSocketReference(io)
    return undo.close


def presence(
    manager: SessionManager,
    io: Any,
    *,
    show: Callable[[Session], str | None] | None = None,
    namespace: str = "/",
) -> Callable[[], None]:
    """Send the pages of signed-in users who came and who went, in all processes; return a callable that ends it.

    Args:
        manager: The manager of the sessions.
        io: A server that `attach` has; call it before this.
        show: Returns the name of a session that others see, a `str`, or `None` to hide it; the username by default. It
            is called once for each session, on a thread of its own. If it fails, the session is hidden, and the log
            says so once.
        namespace: That of `attach`.

    Raises:
        TypeError: `manager` is no `SessionManager`, or `io` no server.
        SessionError: The server is not attached, or has presence already.

    Only clients whose `session_key` was acknowledged with `True` hear any of it. All of them get `presence` with
    `{"all": False, "came": names, "went": names}`, at most once a second and only if something has changed: the
    names of which the first session has begun or the last one has ended. A message has 10 KB at most; what does not fit
    comes with the next. A client that sends `presence` is acknowledged with `True`, and gets
    `{"all": True, "came": names, "went": []}` with the names of all; any other is acknowledged with `False` alone.

    Each process that has clients keeps the name of every session, in all processes. With a shared store it lists them
    when its first client joins and once its connection was lost, else every ten minutes; that needs no message queue.
    While the store is unavailable, nothing changes in the pages.
    """
    if not isinstance(manager, SessionManager):
        raise TypeError(f"presence needs a SessionManager, such as sessions.manager, got a {type(manager).__name__}")
    server = _server_of(io)
    notifiers = [each for each in manager._watchers if isinstance(each, Notifier) and each.serves(server, namespace)]
    if not notifiers:
        raise SessionError(
            f"call attach() before presence(), with the same server and namespace {namespace!r}, see "
            "docs/how-to/who-is-online.md"
        )
    if notifiers[0].presence is not None:
        raise SessionError(
            f"this server has presence in namespace {namespace!r} already: call presence() once, see "
            "docs/how-to/who-is-online.md"
        )
    started = Presence(manager, notifiers[0], show or (lambda session: session.username))
    started.attach(server, namespace)
    return started.detach


# The modes whose queues lose what a thread of the system puts into them, without an exception; the function that
# returns whether a module of the standard library is patched, that module, and what to do if not.
_PATCHES = (
    ("gevent", "gevent.monkey:is_module_patched", "threading", "call gevent.monkey.patch_all()"),
    ("eventlet", "eventlet.patcher:is_monkey_patched", "thread", "call eventlet.monkey_patch()"),
)


def _server_of(io: Any) -> Any:
    """Return the server behind `io`, if what other threads send reaches its clients."""
    kinds = (socketio.Server, socketio.AsyncServer)
    server = io if isinstance(io, kinds) else getattr(io, "server", None)
    if not isinstance(server, kinds):
        raise TypeError(
            "io must be a socketio.Server, a socketio.AsyncServer or a flask_socketio.SocketIO that has its "
            f"application, got {type(io).__name__}; a process without a server needs no attach()"
        )
    mode = getattr(server, "async_mode", "")
    for prefix, is_patched, module, cure in _PATCHES:
        if mode.startswith(prefix) and not resolve_name(is_patched)(module):
            raise SessionError(
                f"a server in {mode} mode loses the logouts of other threads: {cure} before all else, see "
                "docs/how-to/production.md"
            )
    return server
