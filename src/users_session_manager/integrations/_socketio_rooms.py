"""The clients of a Socket.IO server that belong to a session: who they are, how they join, how they are told."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any

import socketio
from socketio.async_pubsub_manager import AsyncPubSubManager

from ..errors import SessionError, SessionRejected, StoreUnavailable
from ..events import run_on
from ..keys import redact
from ..log import log
from ..manager import SessionManager

if TYPE_CHECKING:
    import concurrent.futures

JOIN = "session_key"
"""The event with which a client asks to hear of the end of its session."""

LOGOUT = "logout"
"""The event that tells it."""


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

    def _forget(self, sid: str) -> str | None:
        """Take a client out; return the key of the session it belonged to."""
        with self._lock:
            key = self._key_of.pop(sid, None)
            if key is not None:
                self._members[key].remove(sid)
                if not self._members[key]:
                    del self._members[key]
            return key

    def _forget_session(self, key: str) -> list[str]:
        """Take all clients of a session out, and return them."""
        with self._lock:
            members = list(self._members.pop(key, ()))
            for sid in members:
                del self._key_of[sid]
            return members

    def _clients(self, key: str) -> list[str]:
        with self._lock:
            return list(self._members.get(key, ()))

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


class Rooms(Members):
    """The rooms of a `socketio.Server`. Threads: any thread may call any method."""

    def join(self, sid: str, data: Any = None, *_: Any) -> bool:
        """Answer a client's `session_key`."""
        key = self._presented(sid, data)
        alive = self._check(key)
        if alive is not None:
            self._leave(sid)
        if alive:
            if not self._enter(sid, key):
                return False
            alive = self._is_alive(key)
            if alive:
                return True
            if not self._leave(sid):
                return False  # `close` has told it
        if alive is False:
            self._emit(sid)
        return False

    def notify(self, _io: object, key: str) -> None:
        """Tell the clients of a session that goes on; the end of a session is `close`'s."""
        if self._is_alive(key):
            self._tell(key, self._clients(key))

    def close(self, key: str) -> None:
        """Tell the clients of a session that has ended, and close its room."""
        try:
            self._tell(key, self._forget_session(key))
        finally:
            self._io.close_room(key, namespace=self._namespace)

    def detach(self) -> None:
        """Close the rooms of all sessions, without a word."""
        for key in list(self._members):
            self._forget_session(key)
            self._io.close_room(key, namespace=self._namespace)

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

    def _tell(self, key: str, clients: list[str]) -> None:
        for sid in clients:
            self._emit(sid)
        if isinstance(self._io.manager, socketio.PubSubManager):
            self._io.emit(LOGOUT, to=key, skip_sid=clients, namespace=self._namespace)

    def _emit(self, sid: str) -> None:
        self._io.emit(LOGOUT, to=sid, namespace=self._namespace)


class LoopRooms(Members):
    """The rooms of a `socketio.AsyncServer`.

    Threads: `notify` and `close` may be called from any thread, and wait for nothing; all else runs on the server's
    loop. That is the one on which `attach` is called or clients join: before the first has, there is nobody to tell.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()

    async def join(self, sid: str, data: Any = None, *_: Any) -> bool:
        """Answer a client's `session_key`."""
        self._loop = asyncio.get_running_loop()
        key = self._presented(sid, data)
        alive = await self._ask(self._check, key)
        if alive is not None:
            await self._leave(sid)
        if alive:
            if not await self._enter(sid, key):
                return False
            alive = await self._ask(self._is_alive, key)
            if alive:
                return True
            if not await self._leave(sid):
                return False  # `close` has told it
        if alive is False:
            await self._emit(sid)
        return False

    def notify(self, _io: object, key: str) -> None:
        """Tell the clients of a session that goes on; the end of a session is `close`'s."""
        if self._is_alive(key):
            self._submit(self._tell(key, self._clients(key)))

    def close(self, key: str) -> None:
        """Tell the clients of a session that has ended, and close its room."""
        self._submit(self._close(key, self._forget_session(key)))

    def detach(self) -> None:
        """Close the rooms of all sessions, without a word."""
        for key in list(self._members):
            self._forget_session(key)
            self._submit(self._io.close_room(key, namespace=self._namespace))

    async def _close(self, key: str, clients: list[str]) -> None:
        try:
            await self._tell(key, clients)
        finally:
            await self._io.close_room(key, namespace=self._namespace)

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

    async def _tell(self, key: str, clients: list[str]) -> None:
        for sid in clients:
            await self._emit(sid)
        if isinstance(self._io.manager, AsyncPubSubManager):
            await self._io.emit(LOGOUT, to=key, skip_sid=clients, namespace=self._namespace)

    async def _emit(self, sid: str) -> None:
        await self._io.emit(LOGOUT, to=sid, namespace=self._namespace)

    async def _ask(self, question: Callable[[Any], bool | None], key: Any) -> bool | None:
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


_all_members: weakref.WeakSet[Members] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for members in list(_all_members):
        members._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _log_failure(future: concurrent.futures.Future[None]) -> None:
    failure = None if future.cancelled() else future.exception()
    if failure is not None:
        log.error("A logout could not be sent\n%s", redact("".join(traceback.format_exception(failure))))
