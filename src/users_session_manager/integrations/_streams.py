"""Streamed answers and other open connections of sessions: each ends with its session."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar, overload

from ..clock import LOCK, register
from ..errors import SessionError, StoreUnavailable
from ..manager import SessionManager
from ..stores.base import Notice
from ._request import RequestSession

Item = TypeVar("Item")

_DONE: Final = object()
_UNREACHABLE: Final = Notice("unreachable", None, None)


class Connection(Protocol):
    """A WebSocket or a streamed answer that is open in this process."""

    session_ids: set[Any]
    """The ids of the sessions whose end ends it; `SessionConnections` alone changes this."""

    def end(self, notice: Notice) -> None:
        """End it, since its session has ended, or that is not known any more. Called from any thread."""


class SessionConnections:
    """Which connections of this process belong to which session; the manager notifies it of ends.

    A connection also ends when the store has not answered for some time, since its session may have ended by then, and
    when it belongs to a manager that was closed and replaced.

    Threads: any thread may call any method; `LOCK` guards the tables, and is not held while a connection is ended.
    """

    def __init__(self) -> None:
        self._manager: weakref.ref[SessionManager] | None = None  # whose sessions these are
        self._notified_by: weakref.ref[SessionManager] | None = None
        self._reset()
        register(self)

    def _reset(self) -> None:
        self._connections: dict[Any, set[Connection]] = {}  # by the id of their session
        self._keys: dict[Any, str] = {}  # the present key of each of these sessions, as far as known

    def _after_fork_in_child(self) -> None:
        self._reset()  # the clients are connected to the parent

    def add(self, session: RequestSession, connection: Connection) -> None:
        """Let the end of a session end a connection. The session may have ended already: the caller asks once more."""
        manager = weakref.ref(session._manager)
        with LOCK:
            is_new, self._manager = self._manager != manager, manager
            left = self._remove_all() if is_new else set()
        if self._notified_by != manager:  # another thread that is about to add this as well does no harm
            session._manager.addWatcher(self)
            self._notified_by = manager
        with LOCK:
            self._connections.setdefault(session._id, set()).add(connection)
            connection.session_ids.add(session._id)
            self._keys[session._id] = session.key
        for each in left:
            each.end(_UNREACHABLE)

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        with LOCK:
            for session_id in connection.session_ids:
                others = self._connections.get(session_id, set())
                others.discard(connection)
                if not others:
                    self._remove(session_id)

    # Called by the manager

    def watched(self) -> dict[Any, str]:
        """Return the key of each session that has connections here, by its id."""
        with LOCK:
            return dict(self._keys)

    def noticed(self, notice: Notice) -> None:
        """End the connections of a session that has ended, or all if that is not known any more."""
        if notice.session_id not in self._keys and notice.kind != "unreachable":
            return
        ended: set[Connection] = set()
        with LOCK:
            if notice.kind in ("ended", "deleted"):
                ended = self._remove(notice.session_id)
            elif notice.kind == "unreachable":
                ended = self._remove_all()
            elif notice.kind == "renewed" and notice.session_id in self._keys:
                self._keys[notice.session_id] = notice.key
        for connection in ended:
            connection.end(notice)

    def _remove(self, session_id: Any) -> set[Connection]:
        self._keys.pop(session_id, None)
        return self._connections.pop(session_id, set())

    def _remove_all(self) -> set[Connection]:
        return set[Connection]().union(*map(self._remove, [*self._connections]))


CONNECTIONS: Final = SessionConnections()
"""The connections of this process."""


@overload
def stream(session: RequestSession | None, items: Iterable[Item]) -> Generator[Item]: ...
@overload
def stream(session: RequestSession | None, items: AsyncIterable[Item]) -> AsyncIterator[Item]: ...
def stream(session: RequestSession | None, items: Any) -> Any:
    """Return an iterator over `items` that ends with the session, asynchronous if they are.

    An asynchronous one ends at once: what it waits for is cancelled. A plain one ends at its next item. Then `items` is
    closed, and so it is when the iterator is closed, as servers do when the client has left.

    No item is produced, and no session looked after, before the first one is asked for.

    Raises:
        SessionError: There is no session.
        TypeError: `items` cannot be iterated over.
    """
    if session is None:
        raise SessionError(
            "this request has no session that could end the stream: guard its view, and where strangers are let "
            "in, stream to them without this, see docs/reference/errors.md"
        )
    if isinstance(items, AsyncIterable):
        return _until_end_async(session, items, aiter(items))
    return _until_end(session, items, iter(items))


def _until_end(session: RequestSession, items: Iterable[Item], iterator: Iterator[Item]) -> Generator[Item]:
    connection = _Stream()
    try:
        CONNECTIONS.add(session, connection)
        if not _is_live(session):
            return
        for item in iterator:
            if connection.has_ended:
                return
            yield item
            if connection.has_ended:
                return
    finally:
        CONNECTIONS.remove(connection)
        for each in (iterator, items) if iterator is not items else (items,):
            if hasattr(each, "close"):
                each.close()


async def _until_end_async(
    session: RequestSession, items: AsyncIterable[Item], iterator: AsyncIterator[Item]
) -> AsyncGenerator[Item]:
    connection = _AsyncStream()
    try:
        CONNECTIONS.add(session, connection)
        is_blocking = session._manager.blocking
        if not (await asyncio.to_thread(_is_live, session) if is_blocking else _is_live(session)):
            return
        while not connection.has_ended:
            item = await connection.next_of(iterator)
            if item is _DONE or connection.has_ended:
                return
            yield item
    finally:
        CONNECTIONS.remove(connection)
        for each in (iterator, items) if iterator is not items else (items,):
            if hasattr(each, "aclose"):
                await each.aclose()


def _is_live(session: RequestSession) -> bool:
    """Return whether a session has not ended since its request was let in, as far as the store answers."""
    with suppress(StoreUnavailable):  # if that lasts, a notice says so
        return session._manager.presentKeys([session._id]) != [None]
    return True


class _Stream:
    """A streamed answer: whether its session has ended."""

    def __init__(self) -> None:
        self.session_ids: set[Any] = set()
        self.has_ended = False

    def end(self, notice: Notice) -> None:  # noqa: ARG002  # however it has ended
        self.has_ended = True


class _AsyncStream(_Stream):
    """The same on an event loop, where the end interrupts what is waited for.

    The items are awaited in the task of the server, where a generator may hold a timeout or a task group open from one
    item to the next; so its wait is cancelled, as `asyncio.timeout` does.

    Threads: that of the event loop, but for `end`, which any thread may call.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Task[Any] | None = None
        self._is_interrupted = False

    async def next_of(self, iterator: AsyncIterator[Any]) -> Any:
        """Return the next item; `_DONE` after the last one, and if the end of the session comes first."""
        task: Any = asyncio.current_task()
        has_counter = hasattr(task, "uncancel")  # from Python 3.11 on
        before = task.cancelling() if has_counter else 0
        self._waiting = task
        try:
            return await anext(iterator)
        except StopAsyncIteration:
            return _DONE
        except asyncio.CancelledError:
            is_cancelled_by_others = has_counter and task.cancelling() > before + 1
            if not self._is_interrupted or is_cancelled_by_others:
                raise
            return _DONE
        finally:
            self._waiting = None
            if self._is_interrupted and has_counter:
                task.uncancel()

    def end(self, notice: Notice) -> None:
        super().end(notice)
        with suppress(RuntimeError):  # the loop has closed, and its streams with it
            self._loop.call_soon_threadsafe(self._interrupt)

    def _interrupt(self) -> None:
        if self._waiting is not None and not self._is_interrupted:
            self._is_interrupted = True
            self._waiting.cancel()
