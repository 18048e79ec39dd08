"""How the clients of a session join its room, and how they are told, on both kinds of Socket.IO server."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import socketio
from socketio.async_pubsub_manager import AsyncPubSubManager

from ..errors import SessionError
from ..events import run_on
from ..keys import redact
from ..log import log
from ..session import Session
from ._socketio_members import EXPIRING, LOGOUT, Members, keys_of, keys_of_live

if TYPE_CHECKING:
    import concurrent.futures


class Rooms(Members):
    """The rooms of a `socketio.Server`. Threads: any thread may call any method."""

    def join(self, sid: str, data: Any = None, *_: Any) -> bool:
        """Answer a client's `session_key`."""
        key = self._check(self._presented(sid, data))
        if key is not None:
            self._leave(sid)
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
            self._emit(sid, LOGOUT)
        return False

    def notify(self, _io: object, key: str) -> None:
        """Tell the clients of a session that goes on; the end of a session is `close`'s."""
        self._tell_live(key, LOGOUT)

    def warn(self, key: str, left: float) -> None:
        """Tell the clients of a session that it is running out."""
        self._tell_live(key, EXPIRING, left)

    def renew(self, old: str, new: str) -> None:
        """Take the clients of a session along to the room of its new key."""
        for sid in self._move(old, new):
            self._io.leave_room(sid, old, namespace=self._namespace)
            with suppress(KeyError, ValueError):  # as in `_enter`
                self._io.enter_room(sid, new, namespace=self._namespace)

    def close(self, session: Session, _reason: str) -> None:
        """Tell the clients of a session that has ended, and close its rooms."""
        keys = keys_of(session)
        try:
            self._tell(keys, self._forget_session(keys), LOGOUT)
        finally:
            self._close_rooms(keys)

    def detach(self) -> None:
        """Close the rooms of all sessions, without a word."""
        for key in list(self._members):
            self._forget_session([key])
            self._close_rooms([key])

    def _enter(self, sid: str, key: str) -> bool:
        if not self._is_connected(sid):
            return False
        self._remember(sid, key)
        try:
            self._io.enter_room(sid, key, namespace=self._namespace)
        except (KeyError, ValueError):
            # It has gone, or another that was leaving took the room with it: it is told by its id all the same.
            return self._is_connected(sid)
        return True

    def _leave(self, sid: str) -> bool:
        key = self._forget(sid)
        if key is None:
            return False
        self._io.leave_room(sid, key, namespace=self._namespace)
        return True

    def _close_rooms(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._io.close_room(key, namespace=self._namespace)

    def _tell_live(self, key: str, event: str, *data: Any) -> None:
        keys = keys_of_live(self._manager, key)
        self._tell(keys, self._clients(keys), event, *data)

    def _tell(self, keys: Sequence[str], clients: list[str], event: str, *data: Any) -> None:
        for sid in clients:
            self._emit(sid, event, *data)
        if keys and isinstance(self._io.manager, socketio.PubSubManager):
            self._io.emit(event, data, to=keys, skip_sid=clients, namespace=self._namespace)

    def _emit(self, sid: str, event: str, *data: Any) -> None:
        self._io.emit(event, data, to=sid, namespace=self._namespace)


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
        if key is not None:
            await self._leave(sid)
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
            await self._emit(sid, LOGOUT)
        return False

    def notify(self, _io: object, key: str) -> None:
        """Tell the clients of a session that goes on; the end of a session is `close`'s."""
        self._tell_live(key, LOGOUT)

    def warn(self, key: str, left: float) -> None:
        """Tell the clients of a session that it is running out."""
        self._tell_live(key, EXPIRING, left)

    def renew(self, old: str, new: str) -> None:
        """Take the clients of a session along to the room of its new key."""
        if clients := self._move(old, new):
            self._submit(self._change_rooms(clients, old, new))

    def close(self, session: Session, _reason: str) -> None:
        """Tell the clients of a session that has ended, and close its rooms."""
        keys = keys_of(session)
        self._submit(self._close(keys, self._forget_session(keys)))

    def detach(self) -> None:
        """Close the rooms of all sessions, without a word."""
        for key in list(self._members):
            self._forget_session([key])
            self._submit(self._io.close_room(key, namespace=self._namespace))

    async def _close(self, keys: Sequence[str], clients: list[str]) -> None:
        try:
            await self._tell(keys, clients, LOGOUT)
        finally:
            for key in keys:
                await self._io.close_room(key, namespace=self._namespace)

    async def _change_rooms(self, clients: list[str], old: str, new: str) -> None:
        for sid in clients:
            await self._io.leave_room(sid, old, namespace=self._namespace)
            with suppress(KeyError, ValueError):
                await self._io.enter_room(sid, new, namespace=self._namespace)

    async def _enter(self, sid: str, key: str) -> bool:
        if not self._is_connected(sid):
            return False
        self._remember(sid, key)
        try:
            await self._io.enter_room(sid, key, namespace=self._namespace)
        except (KeyError, ValueError):
            return self._is_connected(sid)
        return True

    async def _leave(self, sid: str) -> bool:
        key = self._forget(sid)
        if key is None:
            return False
        await self._io.leave_room(sid, key, namespace=self._namespace)
        return True

    def _tell_live(self, key: str, event: str, *data: Any) -> None:
        if keys := keys_of_live(self._manager, key):
            self._submit(self._tell(keys, self._clients(keys), event, *data))

    async def _tell(self, keys: Sequence[str], clients: list[str], event: str, *data: Any) -> None:
        for sid in clients:
            await self._emit(sid, event, *data)
        if isinstance(self._io.manager, AsyncPubSubManager):
            await self._io.emit(event, data, to=keys, skip_sid=clients, namespace=self._namespace)

    async def _emit(self, sid: str, event: str, *data: Any) -> None:
        await self._io.emit(event, data, to=sid, namespace=self._namespace)

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
