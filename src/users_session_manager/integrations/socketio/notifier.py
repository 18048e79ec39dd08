"""How clients join their sessions and are notified, on servers with threads and on those with an event loop."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from typing import Any

import socketio

from ...clock import LOCK, register
from ...errors import SessionRejected, StoreUnavailable
from ...events import running_loop
from ...keys import redact
from ...log import log
from ...manager import SessionManager
from ...session import Reason
from ...stores.base import Notice
from .._cookies import read_cookie
from .registry import ClientRegistry, retry_on_key_error

JOIN = "session_key"
"""The event with which a client presents its key."""

LOGOUT = "logout"
"""The event that a client gets when its session ends, with the reason."""

EXPIRING = "session_expiring"
"""The event that a client gets before, with the seconds that are left."""


class Notifier:
    """Answers the clients of a `socketio.Server` that present a key, and notifies the clients of a session.

    Each step that asks the manager or sends something is a coroutine. On this kind of server a coroutine never waits,
    so it runs at once on the calling thread; a `LoopNotifier` schedules it on the loop of its server.

    A client that joins is checked twice. The first check keeps it out of rooms that belong to no session: each client
    has a room of its own, named by its id. The second one finds a session that has ended in between.

    The clients are notified by their ids, and those of this process alone: every process does that for its own. `LOCK`
    is not held while something is sent or the manager is asked: both may call a handler of the application.

    Args:
        manager: The manager of the sessions.
        io: The server.
        namespace: The namespace of the clients.
        cookie: The name of the cookie that may hold the key.
    """

    def __init__(self, manager: SessionManager, io: Any, namespace: str, cookie: str | None) -> None:
        self.registry = ClientRegistry(io.manager, namespace)
        self.presence: Any = None
        self._manager = manager
        self._io = io
        self._namespace = namespace
        self._cookie = cookie
        self._loop = running_loop() if isinstance(io, socketio.AsyncServer) else None
        if cookie is not None and not isinstance(io, socketio.AsyncServer):
            io.environ = _Environs(io.environ)
        register(self)

    def join(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Answer a client's `session_key`."""
        return self._run(self._join(sid, data))

    # Called by the manager, on any thread.

    def watched(self) -> dict[Any, str]:
        """Return the key of each session that has clients here, by its id."""
        return self.registry.watched()

    def noticed(self, notice: Notice) -> None:
        """Pass a notice to the clients of its session."""
        session_id, key = notice.session_id, notice.key
        if notice.kind in ("ended", "deleted"):
            self._run(self._end(session_id, key, notice.reason))
        elif not self.registry.has_clients(session_id):
            pass  # a client that joins at this moment looks at the session once more
        elif notice.kind == "renewed":
            self._run(self._change(self.registry.move, session_id, key))
        else:
            sent = (LOGOUT, _why(None)) if notice.kind == "logout" else (EXPIRING, notice.left)
            self._run(self._send(self.registry.clients(session_id), *sent))

    def serves(self, io: Any, namespace: str) -> bool:
        """Return whether it has the clients of this server in this namespace."""
        return self._io is io and self._namespace == namespace

    def detach(self) -> None:
        """Remove the clients of this server from the rooms of their sessions, and send nothing."""
        if self.presence is not None:
            self.presence.detach()
        if self.registry.watched():
            self._run(self._change(self.registry.remove_all))

    def _after_fork_in_child(self) -> None:
        self._loop = None  # the parent's

    # The steps. On a loop they begin in the order in which they were scheduled.

    async def _join(self, sid: str, data: Any) -> bool:
        self._manager.serve()
        session = None
        try:
            session = await self._ask(self._manager.getSession, self._presented(sid, data))
            known = session.key
            if not self.registry.add(sid, session._id, known):
                return False
            key = await self._present_key(session._id)
            while key not in (known, None):
                self.registry.move(session._id, key)
                known, key = key, await self._present_key(session._id)  # it may be renewed before the move
            if key is not None:
                if self.presence is not None:
                    self.presence.start()
                return True
            if not self.registry.remove(sid):
                return False  # `_end` has sent the logout
        except SessionRejected:
            self.registry.remove(sid)
        except StoreUnavailable:
            if session is not None:
                self.registry.remove(sid)
            return False
        await self._send([sid], LOGOUT, _why(None))
        return False

    async def _end(self, session_id: Any, key: str, reason: Reason | None) -> None:
        """Send a logout to the clients of a session that has ended, and close its room."""
        clients = self.registry.begin_end(session_id, key)
        try:
            await self._send(clients, LOGOUT, _why(reason))
        finally:
            self.registry.finish_end(session_id)

    async def _send(self, clients: list[str], event: str, data: Any) -> None:
        """Send to these clients of this server; a failure for one does not keep the others from it."""
        with ExitStack() as each:
            for sid in clients:
                each.callback(self._emit, sid, event, data)

    async def _send_together(self, clients: list[str], event: str, data: Any) -> None:
        """Send to these clients what they may get twice; it is encoded once for all of them."""
        if not clients:  # an empty list means all clients
            return
        try:
            retry_on_key_error(self._io.emit, event, data, to=clients, namespace=self._namespace, ignore_queue=True)
        except Exception:  # noqa: BLE001  # of one client, which keeps the rest from it
            await self._send(clients, event, data)

    def _emit(self, sid: str, event: str, data: Any) -> None:
        try:
            retry_on_key_error(self._io.emit, event, data, to=sid, namespace=self._namespace, ignore_queue=True)
        except Exception:
            if self.registry.is_connected(sid):  # else it has disconnected in between
                raise

    async def _change(self, change: Callable[..., None], *args: Any) -> None:
        change(*args)

    def _run(self, steps: Coroutine[Any, Any, Any]) -> Any:
        """Run steps where the server runs."""
        try:
            steps.send(None)
        except StopIteration as done:
            return done.value
        raise RuntimeError("a step waits where there is no event loop")

    async def _ask(self, ask: Callable[[Any], Any], what: Any) -> Any:
        """Ask the manager, in another thread if a loop would wait for the store."""
        return await asyncio.to_thread(ask, what) if self._loop and self._manager.blocking else ask(what)

    async def _present_key(self, session_id: Any) -> Any:
        """Return the present key of a session, `None` if it has ended."""
        return (await self._ask(self._manager.presentKeys, [session_id]))[0]

    def _presented(self, sid: str, data: Any) -> Any:
        """Return the key that a client presents, whatever it is."""
        key = data.get(JOIN) if isinstance(data, dict) else data
        if key is None and self._cookie is not None:
            environ = self._io.get_environ(sid, self._namespace) or {}
            return read_cookie(_cookies_of(environ), self._cookie)
        return key


def _cookies_of(environ: dict[str, Any]) -> str | None:
    """Return the cookies of a handshake."""
    scope = environ.get("asgi.scope")
    if scope is None:
        return environ.get("HTTP_COOKIE")
    # A browser sends several headers over HTTP/2, which python-engineio joins by commas.
    return "; ".join(value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"cookie")


def _why(reason: Reason | None) -> dict[str, Reason | None]:
    """Return what a logout carries; without a reason if that is not known, or the session goes on."""
    return {"reason": reason}


class _Environs(dict[str, Any]):
    """The environments of handshakes, copied: uWSGI empties that of a request after its answer."""

    def __setitem__(self, client: str, environ: Any) -> None:
        super().__setitem__(client, dict(environ))


class LoopNotifier(Notifier):
    """The same for a `socketio.AsyncServer`.

    Its loop is the one on which `attach` is called or clients join; before that there is no client to notify. Many
    sessions that end at once wake it once: `LOCK` guards the steps that it is about to run.
    """

    def __init__(self, *args: Any) -> None:
        self._steps: list[Coroutine[Any, Any, Any]] = []
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop itself keeps only weak references
        super().__init__(*args)

    async def join(self, sid: str, data: Any = None, *_: Any) -> bool:
        """Answer a client's `session_key`."""
        self._use_loop(asyncio.get_running_loop())
        return await self._join(sid, data)

    async def _send(self, clients: list[str], event: str, data: Any) -> None:
        if clients:  # an empty list means all clients
            await self._io.emit(event, data, to=clients, namespace=self._namespace, ignore_queue=True)

    _send_together = _send

    def _run(self, steps: Coroutine[Any, Any, Any]) -> None:
        with LOCK:
            loop, is_first = self._loop, not self._steps
            self._steps.append(steps)
            if loop is None or loop.is_closed():
                self._drop_steps()
        if loop is None:
            return
        if loop.is_closed():
            log.debug("The server's loop has closed, and its clients with it")
        elif is_first:
            with suppress(RuntimeError):  # closed in between: the next call drops the steps
                loop.call_soon_threadsafe(self._start_steps, loop)

    def _start_steps(self, loop: asyncio.AbstractEventLoop) -> None:
        with LOCK:
            if loop is not self._loop:
                return
            steps, self._steps = self._steps, []
        for each in steps:
            task = loop.create_task(each)
            self._tasks.add(task)
            task.add_done_callback(self._step_done)

    def _step_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()):
            log.error(
                "A logout could not be sent: correct what this names, see docs/how-to/page-script.md\n%s",
                redact("".join(traceback.format_exception(failure))),
            )

    def _use_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        with LOCK:
            if loop is not self._loop:
                self._drop_steps()
                self._loop = loop

    def _drop_steps(self) -> None:
        """Drop what is left for a loop that has closed, or is another process's."""
        steps, self._steps = self._steps, []
        for each in steps:
            each.close()  # else Python would warn that it was never awaited

    def _after_fork_in_child(self) -> None:
        self._tasks.clear()
        self._use_loop(None)
