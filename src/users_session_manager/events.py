"""IsolatedEmitter: an event emitter whose listeners cannot break the caller, `async def` ones included."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from pyee import EventEmitter

from .clock import LOCK, notice_fork, register
from .errors import SessionError
from .keys import redact
from .log import log

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

Pending: TypeAlias = "asyncio.Task[Any] | concurrent.futures.Future[Any]"
"""An `async def` listener that is under way."""

EVENTS: Final = (
    *("sessionCreated", "sessionDeleted", "activeUserDeleted", "sessionEnded", "sessionRenewed", "sessionExpiring"),
    *("notifyClientToLogout", "sessionRejected", "error", "listenerFailed"),
)
"""The events that a `SessionManager` emits."""


class IsolatedEmitter(EventEmitter):
    """A `pyee.EventEmitter` that isolates its listeners from the caller and from each other.

    - A listener that raises stops no other listener, and its exception does not reach the caller: it is emitted as
      `listenerFailed(exception, event, listener)`, or, without a listener for that, logged. What is no `Exception`
      (`KeyboardInterrupt`, gevent's timeouts) passes through.
    - An `async def` listener is scheduled on the application's event loop: that of `bindLoop`, else the last one on
      which such a listener was added, else the first one on which an event was emitted; until that loop is closed.
      Without an event loop the listener fails with a `SessionError`.
    - As in Node, `error` without a listener raises its exception.

    Threads: any thread may emit, add and remove. `LOCK` guards pyee's table of listeners; it is not held while they
    run.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock: Any = LOCK  # in place of pyee's own, which is not re-entrant
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_bound = False  # whether by hand
        self._has_async = False  # whether an `async def` listener was ever added
        self._async_events: set[str] = set()  # to which events
        self._has_error_listener = False  # whether one was ever added
        self._tasks: set[Pending] = set()  # under way; the loop itself keeps only weak references
        register(self)

    def bindLoop(self, loop: asyncio.AbstractEventLoop | None = None) -> Literal[True]:
        """Schedule `async def` listeners on this event loop from now on.

        Args:
            loop: The application's loop; the one that is running here by default.

        Raises:
            TypeError: `loop` is no event loop.
            SessionError: None was given and none is running here.
        """
        import asyncio  # here and not above: the import of this library stays small

        if loop is not None and not isinstance(loop, asyncio.AbstractEventLoop):
            raise TypeError(f"loop must be an event loop, got {type(loop).__name__}")
        loop = loop or running_loop()
        if loop is None:
            raise SessionError(
                "no event loop is running here: call bindLoop() in a coroutine, or pass the loop, see docs/guide.md"
            )
        self._loop, self._is_bound = loop, True
        return True

    def emit(self, event: str, *args: Any, **kwargs: Any) -> bool:
        """Call the listeners of an event.

        Args:
            event: The name of the event.
            args, kwargs: What the listeners are called with.

        Returns:
            Whether there were any.

        Raises:
            Exception: The first argument of an `error` that has no listener.
        """
        if self._has_async:
            self._find_loop()
        if not self._events.get(event):
            if event == "new_listener":  # which pyee emits before it adds one, and before it takes the lock
                notice_fork()
                self._check_listener(*args)
            return event == "error" and super().emit(event, *args, **kwargs)
        self._emit(event, *args, **kwargs)
        return True

    def _emit(self, event: str, *args: Any, **kwargs: Any) -> list[Pending]:
        """Call the listeners of an event; return the `async def` ones that are under way."""
        with LOCK:
            listeners = list(self._events.get(event, {}).items())
        started = [self._call(event, listener, call, *args, **kwargs) for listener, call in listeners]
        return [pending for pending in started if pending is not None]

    def _call(
        self, event: str, listener: Callable[..., Any], call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Pending | None:
        """Call what pyee has made of a listener; a failure does not reach the caller."""
        try:
            result = call(*args, **kwargs)
            return self._schedule(event, listener, result) if isinstance(result, CoroutineType) else None
        except Exception as failure:  # noqa: BLE001  # a listener is unknown code
            self._listener_failed(failure, event, listener)
            return None

    def _check_listener(self, event: str, listener: Any) -> None:
        import inspect  # here and not above, as asyncio

        if not callable(listener):
            raise TypeError(f"a listener must be callable, got {type(listener).__name__}")
        if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(type(listener).__call__):
            self._has_async = True
            self._async_events.add(event)
            if not self._is_bound:
                self._loop = running_loop() or self._loop
        if event == "error" and not self._has_error_listener:
            self._has_error_listener = True
            log.warning(
                "From now on the npm methods answer a rejection with False and raise nothing, since `error` has a "
                "listener; a guard should call getSession, which always raises, see docs/guide.md"
            )
        if event not in EVENTS and isinstance(event, str):
            for name in EVENTS:
                if _variants(event) & _variants(name):
                    log.warning(
                        "A SessionManager does not emit %r, to which a listener was added: use %r, see docs/guide.md",
                        event,
                        name,
                    )

    def _find_loop(self) -> asyncio.AbstractEventLoop | None:
        if self._loop is None or self._loop.is_closed():
            self._loop, self._is_bound = running_loop(), False
        return self._loop

    def _schedule(self, event: str, listener: Callable[..., Any], coroutine: Coroutine[Any, Any, Any]) -> Pending:
        def done(task: Pending) -> None:
            self._tasks.discard(task)
            failure = None if task.cancelled() else task.exception()
            if isinstance(failure, Exception):
                self._listener_failed(failure, event, listener)

        loop = self._find_loop()
        if loop is not None and loop is running_loop():
            task = loop.create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(done)
            return task
        try:
            if loop is None:
                raise RuntimeError("no event loop is known, or the one that was has closed")
            future = run_on(loop, coroutine)
        except RuntimeError as reason:
            coroutine.close()
            raise SessionError(
                f"an async listener cannot be run ({reason}): call bindLoop() on the application's event loop, see "
                "docs/guide.md"
            ) from reason
        self._tasks.add(future)
        future.add_done_callback(done)
        return future

    def _listener_failed(self, failure: Exception, event: str, listener: Callable[..., Any]) -> None:
        if event != "listenerFailed" and self.emit("listenerFailed", failure, event, listener):
            return
        import traceback

        name = getattr(listener, "__qualname__", type(listener).__name__)
        # As text, in which a KeyError for a session key does not show it.
        text = redact("".join(traceback.format_exception(failure)))
        log.error("A listener of %s failed: %s. Correct it, see docs/guide.md\n%s", event, name, text)

    def _after_fork_in_child(self) -> None:
        self._loop = None  # the parent's
        self._tasks.clear()


def when_done(pending: Collection[Pending], call: Callable[[], object]) -> None:
    """Call once all of these have run; not if one of them is cancelled, as at the end of its loop."""
    left, is_cancelled = len(pending), False

    def done(one: Pending) -> None:
        nonlocal left, is_cancelled
        with LOCK:
            left -= 1
            is_cancelled = is_cancelled or one.cancelled()
            is_over = not left and not is_cancelled
        if is_over:
            call()

    for one in pending:
        one.add_done_callback(done)


def _variants(name: str) -> set[str]:
    """Return a name without its case and underscores, and that with each one letter left out.

    Two names have one of these in common if they differ by one letter that is missing, added, wrong or misplaced.
    """
    name = name.replace("_", "").lower()
    return {name} | {name[:index] + name[index + 1 :] for index in range(len(name))}


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs on this thread, or `None`."""
    import asyncio

    return asyncio._get_running_loop()


def run_on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
    """Run a coroutine on a loop, from any thread and without waiting; `RuntimeError` if the loop has closed."""
    import asyncio

    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()  # else Python would warn that it was never awaited
        raise
