"""How the clients of a session join its room, and how they are told, on both kinds of Socket.IO server."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import TYPE_CHECKING, Any

import socketio
from socketio.async_pubsub_manager import AsyncPubSubManager

from ..clock import LOCK
from ..errors import SessionError
from ..events import run_on
from ..keys import redact
from ..log import log
from ..session import Session
from ._socketio_members import LOGOUT, Members, again, keys_of, keys_of_live

if TYPE_CHECKING:
    import concurrent.futures


class Rooms(Members):
    """The rooms of a `socketio.Server`.

    Threads: any thread may call any method; `LOCK` guards which client belongs to which session. It is not held while
    anything is sent or the manager is asked, since both may call a handler of the application in the middle of that.
    """

    def join(self, sid: str, data: Any = None, *_: Any) -> bool:
        """Answer a client's `session_key`."""
        key = self._check(self._presented(sid, data))
        while isinstance(key, str):
            if not self._enter(sid, key):
                return False
            now = self._look_again(key)
            if now == key:
                return True
            if not self._leave(sid):
                return False  # `close` has told it
            key = now
        if key is False:
            self._leave(sid)
            self._emit(sid, LOGOUT)
        return False

    def renew(self, old: str, new: str) -> None:
        """Take the clients of a session along to the room of its new key."""
        if not self._members:
            return  # and the store is asked for nothing; who joins at this moment looks again
        keys = keys_of_live(self._manager, new) or [new, old]
        with LOCK:
            for sid, former in self._move(keys):
                self._leave_room(sid, former)
                self._enter_room(sid, keys[0])

    def close(self, session: Session, _reason: str) -> None:
        """Tell the clients of a session that has ended, and close its rooms."""
        keys = keys_of(session)
        with ExitStack() as last:
            last.callback(self._ending.difference_update, keys)
            for key in keys:
                last.callback(self._io.close_room, key, namespace=self._namespace)
            with LOCK:
                clients = self._forget_session(keys)
            self._tell(keys, clients, LOGOUT)

    def detach(self) -> None:
        """Take the clients of this server out of the rooms of their sessions, without a word."""
        with LOCK:
            for sid in list(self._key_of):
                self._leave(sid)

    def _enter(self, sid: str, key: str) -> bool:
        with LOCK:
            self._leave(sid)
            if not self._is_connected(sid):
                return False
            self._remember(sid, key)
            self._enter_room(sid, key)
            return True

    def _leave(self, sid: str) -> bool:
        with LOCK:
            key = self._forget(sid)
            if key is None:
                return False
            self._leave_room(sid, key)
            return True

    # Called with `LOCK` held. The server's `enter_room` and `leave_room` write to its log, whose handlers have locks,
    # and to the message queue for a client that has just left.

    def _enter_room(self, sid: str, key: str) -> None:
        if self._may_enter(sid, key):
            with suppress(KeyError, ValueError):  # it is leaving at this moment
                again(self._io.manager.basic_enter_room, sid, self._namespace, key)

    def _leave_room(self, sid: str, key: str) -> None:
        again(self._io.manager.basic_leave_room, sid, self._namespace, key)

    def _tell_live(self, keys: Sequence[str], event: str, data: Any = None) -> None:
        with LOCK:
            clients = self._clients(keys)
        self._tell(keys, clients, event, data)

    def _tell(self, keys: Sequence[str], clients: list[str], event: str, data: Any = None) -> None:
        with ExitStack() as each:  # so that one that cannot be told keeps nobody else from it
            if keys and isinstance(self._io.manager, socketio.PubSubManager):
                each.callback(again, self._io.emit, event, data, to=keys, skip_sid=clients, namespace=self._namespace)
            for sid in clients:
                each.callback(self._emit, sid, event, data)

    def _emit(self, sid: str, event: str, data: Any = None) -> None:
        try:
            again(self._io.emit, event, data, to=sid, namespace=self._namespace, ignore_queue=True)
        except Exception:
            if self._is_connected(sid):  # else it has gone meanwhile
                raise


class LoopRooms(Members):
    """The rooms of a `socketio.AsyncServer`.

    Threads: the listeners may be called from any thread, and wait for nothing; all else runs on the server's loop. That
    is the one on which `attach` is called or clients join: before the first has, there is nobody to tell.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()

    async def join(self, sid: str, data: Any = None, *_: Any) -> bool:
        """Answer a client's `session_key`."""
        self._loop = asyncio.get_running_loop()
        key = await self._ask(self._check, self._presented(sid, data))
        while isinstance(key, str):
            if not await self._enter(sid, key):
                return False
            now = await self._ask(self._look_again, key)
            if now == key:
                return True
            if not await self._leave(sid):
                return False
            key = now
        if key is False:
            await self._leave(sid)
            await self._tell([], [sid], LOGOUT)
        return False

    def renew(self, old: str, new: str) -> None:
        """Take the clients of a session along to the room of its new key."""
        if self._members:  # else there may be no loop either
            self._submit(self._renew(keys_of_live(self._manager, new) or [new, old]))

    def close(self, session: Session, _reason: str) -> None:
        """Tell the clients of a session that has ended, and close its rooms."""
        self._submit(self._close(keys_of(session)))

    def detach(self) -> None:
        """Take the clients of this server out of the rooms of their sessions, without a word."""
        if self._members:
            self._submit(self._leave_all())

    async def _renew(self, keys: Sequence[str]) -> None:
        for sid, former in self._move(keys):
            await self._leave_room(sid, former)
            await self._enter_room(sid, keys[0])

    async def _close(self, keys: Sequence[str]) -> None:
        async with AsyncExitStack() as last:
            last.callback(self._ending.difference_update, keys)
            for key in keys:
                last.push_async_callback(self._io.close_room, key, namespace=self._namespace)
            await self._tell(keys, self._forget_session(keys), LOGOUT)

    async def _leave_all(self) -> None:
        for sid in list(self._key_of):
            await self._leave(sid)

    async def _enter(self, sid: str, key: str) -> bool:
        await self._leave(sid)
        if not self._is_connected(sid):
            return False
        self._remember(sid, key)
        await self._enter_room(sid, key)
        return True

    async def _leave(self, sid: str) -> bool:
        key = self._forget(sid)
        if key is None:
            return False
        await self._leave_room(sid, key)
        return True

    # python-socketio does not wait in these for a client that is connected: no other coroutine comes in between.

    async def _enter_room(self, sid: str, key: str) -> None:
        if self._may_enter(sid, key):
            await self._io.enter_room(sid, key, namespace=self._namespace)

    async def _leave_room(self, sid: str, key: str) -> None:
        if self._is_connected(sid):
            await self._io.leave_room(sid, key, namespace=self._namespace)

    def _tell_live(self, keys: Sequence[str], event: str, data: Any = None) -> None:
        if keys:
            self._submit(self._tell_session(keys, event, data))

    async def _tell_session(self, keys: Sequence[str], event: str, data: Any) -> None:
        await self._tell(keys, self._clients(keys), event, data)

    async def _tell(self, keys: Sequence[str], clients: list[str], event: str, data: Any = None) -> None:
        if clients:  # nobody in particular would be everybody
            await self._io.emit(event, data, to=clients, namespace=self._namespace, ignore_queue=True)
        if keys and isinstance(self._io.manager, AsyncPubSubManager):
            await self._io.emit(event, data, to=keys, skip_sid=clients, namespace=self._namespace)

    async def _ask(self, question: Callable[[Any], Any], key: Any) -> Any:
        return await asyncio.to_thread(question, key) if self._manager.blocking else question(key)

    def _submit(self, work: Coroutine[Any, Any, None]) -> None:
        if self._loop is None:
            work.close()
            if isinstance(self._io.manager, AsyncPubSubManager):
                raise SessionError("no loop to reach the other processes on: call attach() in a coroutine")
            return
        try:
            run_on(self._loop, work).add_done_callback(_log_failure)
        except RuntimeError:
            log.debug("The server's loop has closed, and its clients with it")


def _log_failure(future: concurrent.futures.Future[None]) -> None:
    failure = None if future.cancelled() else future.exception()
    if failure is not None:
        log.error("A logout could not be sent\n%s", redact("".join(traceback.format_exception(failure))))
