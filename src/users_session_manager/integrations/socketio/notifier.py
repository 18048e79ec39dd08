"""How clients join their sessions and are notified, on servers with threads and on those with an event loop."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from http.cookies import CookieError, SimpleCookie
from typing import Any

import socketio.async_pubsub_manager

from ...errors import SessionError, SessionRejected, StoreUnavailable
from ...events import run_on, running_loop
from ...keys import redact
from ...log import log
from ...manager import SessionManager
from ...session import Session
from .registry import ClientRegistry, retry_on_key_error

JOIN = "session_key"
"""The event with which a client presents its key."""

LOGOUT = "logout"
"""The event that a client gets when its session ends."""

EXPIRING = "session_expiring"
"""The event that a client gets before, with the seconds that are left."""


class Notifier:
    """Answers the clients of a `socketio.Server` that present a key, and notifies the clients of a session.

    Each step that asks the manager or sends something is a coroutine. On this kind of server a coroutine never waits,
    so it runs at once on the calling thread; a `LoopNotifier` schedules it on the loop of its server.

    A client that joins is checked twice. The first check keeps it out of rooms that belong to no session: each client
    has a room of its own, named by its id. The second one finds a session that has ended in between.

    The clients of this process are notified by their ids. The room is for the clients of other processes, since
    python-socketio can lose a room that empties while a client enters it. `LOCK` is not held while something is sent or
    the manager is asked: both may call a handler of the application.

    Args:
        manager: The manager of the sessions.
        io: The server; or a message queue, which has no clients in this process.
        namespace: The namespace of the clients.
        cookie: The name of the cookie that may hold the key.
    """

    def __init__(self, manager: SessionManager, io: Any, namespace: str, cookie: str | None) -> None:
        rooms = io if isinstance(io, socketio.PubSubManager) else io.manager
        self.registry = ClientRegistry(rooms, namespace)
        self._manager = manager
        self._io = io
        self._namespace = namespace
        self._cookie = cookie
        self._loop = running_loop() if isinstance(io, socketio.AsyncServer) else None
        self._has_queue = isinstance(rooms, (socketio.PubSubManager, socketio.async_pubsub_manager.AsyncPubSubManager))

    def join(self, sid: str, data: Any = None, *_: Any) -> Any:
        """Answer a client's `session_key`."""
        return self._run(self._join(sid, data))

    # The listeners: any thread may call them.

    def notify(self, _io: object, key: str) -> None:
        """Send a logout to the clients of a live session; `close` does when it ends."""
        if keys := live_keys(self._manager.findSession, key):
            self._run(self._send_all(keys, LOGOUT))

    def warn(self, key: str, left: float) -> None:
        """Notify the clients of a session that is about to expire."""
        if keys := live_keys(self._manager.findSession, key):
            self._run(self._send_all(keys, EXPIRING, left))

    def renew(self, old: str, new: str) -> None:
        """Move the clients of a session to the room of its new key."""
        if self.registry.members:  # else there may be no loop; a client that joins at this moment is checked again
            self._run(self._change(self.registry.move, live_keys(self._manager.findSession, new) or [new, old]))

    def close(self, session: Session, _reason: str) -> None:
        """Send a logout to the clients of a session that has ended, and close its rooms."""
        # A client that joined in another process under a key that was renewed in this one is in that room still.
        self._run(self._send_all([session.key, *session.formerKeys], LOGOUT, at_end=True))

    def detach(self) -> None:
        """Remove the clients of this server from the rooms of their sessions, and send nothing."""
        if self.registry.members:
            self._run(self._change(self.registry.remove_all))

    # The steps. On a loop they begin in the order in which they were scheduled.

    async def _join(self, sid: str, data: Any) -> bool:
        key = await self._ask(self._manager.getSession, self._presented(sid, data))
        while isinstance(key, str) and self.registry.add(sid, key):
            now = await self._ask(self._manager.findSession, key)
            if now == key:
                return True
            key = now if self.registry.remove(sid) else None  # else `close` has sent the logout
        if key == []:  # rejected
            self.registry.remove(sid)
            await self._send([sid], LOGOUT)
        return False

    async def _send_all(self, keys: Sequence[str], event: str, data: Any = None, *, at_end: bool = False) -> None:
        """Notify the clients of a session; at its end, remove them and close its rooms."""
        async with AsyncExitStack() as last:  # a failure keeps nothing else from being done
            if at_end:
                last.callback(self.registry.ending.difference_update, keys)
                for key in keys:
                    last.push_async_callback(self._call, self._io.close_room, key)
            clients = self.registry.remove_session(keys) if at_end else self.registry.clients(keys)
            if self._has_queue:
                last.push_async_callback(self._call, self._io.emit, event, data, to=keys, skip_sid=clients)
            await self._send(clients, event, data)

    async def _send(self, clients: list[str], event: str, data: Any = None) -> None:
        """Send to these clients of this server; a failure for one does not keep the others from it."""
        with ExitStack() as each:
            for sid in clients:
                each.callback(self._emit, sid, event, data)

    def _emit(self, sid: str, event: str, data: Any) -> None:
        try:
            retry_on_key_error(self._io.emit, event, data, to=sid, namespace=self._namespace, ignore_queue=True)
        except Exception:
            if self.registry.is_connected(sid):  # else it has disconnected in between
                raise

    async def _change(self, change: Callable[..., None], *args: Any) -> None:
        change(*args)

    async def _call(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function of the server, or await what its coroutine function returns."""
        answer = retry_on_key_error(call, *args, namespace=self._namespace, **options)
        return await answer if asyncio.iscoroutine(answer) else answer

    def _run(self, steps: Coroutine[Any, Any, Any]) -> Any:
        """Run steps where the server runs."""
        try:
            steps.send(None)
        except StopIteration as done:
            return done.value
        raise RuntimeError("a step waits where there is no event loop")

    async def _ask(self, find: Callable[[Any], Session | None], key: Any) -> Any:
        """Return the present key of the session of `key`; in another thread if a loop would wait for the store.

        An empty list if there is no such session, after the events that `find` emits; `None` if the store is
        unavailable.
        """
        may_wait = self._loop and self._manager.blocking
        keys = await asyncio.to_thread(live_keys, find, key) if may_wait else live_keys(find, key)
        return keys and keys[0]

    def _presented(self, sid: str, data: Any) -> Any:
        """Return the key that a client presents, whatever it is."""
        key = data.get(JOIN) if isinstance(data, dict) else data
        if key is None and self._cookie is not None:
            environ = self._io.get_environ(sid, self._namespace) or {}
            with suppress(CookieError, KeyError):
                return SimpleCookie(environ.get("HTTP_COOKIE", ""))[self._cookie].value
        return key


class LoopNotifier(Notifier):
    """The same for a `socketio.AsyncServer`.

    Its loop is the one on which `attach` is called or clients join; before that there is no client to notify.
    """

    async def join(self, sid: str, data: Any = None, *_: Any) -> bool:
        """Answer a client's `session_key`."""
        self._loop = asyncio.get_running_loop()
        return await self._join(sid, data)

    async def _send(self, clients: list[str], event: str, data: Any = None) -> None:
        if clients:  # an empty list means all clients
            await self._call(self._io.emit, event, data, to=clients, ignore_queue=True)

    def _run(self, steps: Coroutine[Any, Any, Any]) -> None:
        if self._loop is None:
            steps.close()
            if self._has_queue:
                raise SessionError("no loop to reach the other processes on: call attach() in a coroutine")
            return
        try:
            run_on(self._loop, steps).add_done_callback(_log_failure)
        except RuntimeError:
            log.debug("The server's loop has closed, and its clients with it")


def live_keys(find: Callable[[Any], Session | None], key: Any) -> list[str] | None:
    """Return the present and former keys of the session that `find` returns for a key.

    There are none if it has ended. Return `None` if the store is unavailable.
    """
    try:
        session = find(key)
    except SessionRejected:
        session = None
    except StoreUnavailable:
        return None
    return [] if session is None else [session.key, *session.formerKeys]


def _log_failure(future: Any) -> None:
    if not future.cancelled() and (failure := future.exception()):
        log.error("A logout could not be sent\n%s", redact("".join(traceback.format_exception(failure))))
