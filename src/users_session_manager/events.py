"""IsolatedEmitter: an event emitter whose listeners cannot break the one who emits, `async def` ones included."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar

from pyee import EventEmitter

from .errors import SessionError
from .keys import redact
from .log import log

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

_Listener = TypeVar("_Listener", bound=Callable[..., Any])

# Whether what runs now is a listener of `error`: its own failures must not come back to it.
_in_error: ContextVar[bool] = ContextVar("users_session_manager_in_error", default=False)


class IsolatedEmitter(EventEmitter):
    """A `pyee.EventEmitter` that keeps its listeners apart.

    - A listener that raises stops no other listener and does not reach the emitter. Its exception goes to the `error`
      listeners with `{"listener": it}`; where there are none, and when an `error` listener itself fails, to the log.
      What is no `Exception` (`KeyboardInterrupt`, gevent's timeouts) is not ours to keep, and passes.
    - An `async def` listener is scheduled on the application's event loop: the last one on which such a listener was
      added, else the first on which an event was emitted, until that is closed. Without a loop its failure is a
      `SessionError`.
    - As in Node, `error` without a listener raises its exception.

    Threads: any thread may emit, add and remove. pyee's lock guards the listeners; it is not held while they run.
    """

    def __init__(self) -> None:
        super().__init__()
        self._renew_locks()
        self._heard: set[str] = set()  # events that have ever had a listener; the others need not be emitted
        # The listeners of events that are emitted, until one comes or goes anywhere; then there is another dictionary.
        self._direct: dict[str, list[Callable[..., Any]]] = {}
        self._passing: set[str] = set()  # events that have had a listener by `once`, which pyee takes away itself
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_async = False
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop itself keeps only weak references

    def emit(self, event: str, *args: Any, **kwargs: Any) -> bool:
        """Call the listeners of `event` with the rest of the arguments; tell whether there were any."""
        listeners = self._direct.get(event)
        if listeners is None:
            return self._emit_as_pyee_does(event, args, kwargs)
        for listener in listeners:
            self._emit_run(listener, args, kwargs)
        return bool(listeners)

    def _emit_as_pyee_does(self, event: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if self._has_async:
            self._application_loop()
        if event == "new_listener":  # pyee says so before it adds one
            self._expect(*args)
            return super().emit(event, *args, **kwargs)
        if event == "error":
            token = _in_error.set(True)
            try:
                return super().emit(event, *args, **kwargs)
            finally:
                _in_error.reset(token)
        if not self._has_async and event not in self._passing and type(event) is str:
            direct = self._direct  # before the look: what comes meanwhile replaces it
            try:
                direct[event] = self.listeners(event)
            except RuntimeError:  # one came or went while they were looked at: then the next time
                pass
        return event in self._heard and super().emit(event, *args, **kwargs)

    def add_listener(self, event: str, f: _Listener) -> _Listener:
        """Add a listener, which `on` does too; return it."""
        super().add_listener(event, f)
        self._direct = {}
        return f

    def listens_to(self, event: str) -> Callable[[_Listener], _Listener]:
        """Return a decorator that adds a listener."""
        return lambda f: self.add_listener(event, f)

    def once(self, event: str, f: Any = None) -> Any:
        """Add a listener for one time, or return a decorator that does."""
        self._passing.add(event)
        self._direct = {}
        return super().once(event, f)

    def remove_listener(self, event: str, f: Callable[..., Any]) -> None:
        """Remove a listener."""
        super().remove_listener(event, f)
        self._direct = {}

    def remove_all_listeners(self, event: str | None = None) -> None:
        """Remove the listeners of an event, or of all."""
        super().remove_all_listeners(event)
        self._direct = {}

    def _revive(self) -> None:
        """Make the emitter of a forked child usable: pyee's lock may have been held, and the loop is the parent's."""
        self._renew_locks()
        self._loop = None
        self._tasks.clear()

    def _renew_locks(self) -> None:
        """Give pyee locks that a thread may take twice: a signal handler or a finalizer may log somebody out.

        Whatever their names are, which are pyee's own business.
        """
        kinds = (type(threading.Lock()), type(threading.RLock()))
        for name, value in vars(self).items():
            if isinstance(value, kinds):
                setattr(self, name, threading.RLock())

    def _expect(self, event: str, listener: Callable[..., Any]) -> None:
        import inspect  # here and not above, as asyncio below: an import of this library is to stay small

        self._heard.add(event)
        if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(type(listener).__call__):
            self._has_async = True
            self._heard = _Everything()  # an event that nobody listens to tells on which loop the application is
            self._loop = _running_loop() or self._loop

    def _emit_run(self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            result = f(*args, **kwargs)
            if isinstance(result, CoroutineType):
                self._schedule(f, result)
        except Exception as failure:  # noqa: BLE001  # a listener is unknown code
            self._report(f, failure, _in_error.get())

    def _application_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop that listeners run on: one stays the application's until it is closed."""
        if self._loop is None or self._loop.is_closed():
            self._loop = _running_loop()
        return self._loop

    def _schedule(self, listener: Callable[..., Any], coroutine: Coroutine[Any, Any, Any]) -> None:
        in_error = _in_error.get()

        def done(task: asyncio.Task[Any] | concurrent.futures.Future[Any]) -> None:
            self._tasks.discard(task)
            failure = None if task.cancelled() else task.exception()
            if isinstance(failure, Exception):
                self._report(listener, failure, in_error)

        loop = self._application_loop()
        if loop is not None and loop is _running_loop():
            task = loop.create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(done)
            return
        try:
            if loop is None:
                raise RuntimeError("no event loop has been seen, or the one that was has closed")
            run_on(loop, coroutine).add_done_callback(done)
        except RuntimeError as reason:
            coroutine.close()
            raise SessionError(
                f"an async listener cannot be run ({reason}): add it, or log somebody in, "
                "on the application's event loop while that is running"
            ) from reason

    def _report(self, listener: Callable[..., Any], failure: Exception, in_error: bool) -> None:
        if not in_error:
            try:
                self.emit("error", failure, {"listener": listener})
                return
            except Exception as unheard:  # it is the same one, or it goes on
                if unheard is not failure:
                    raise
        import traceback

        name = getattr(listener, "__qualname__", type(listener).__name__)
        # As text, in which a KeyError for a session key does not show it.
        log.error("A listener failed: %s\n%s", name, redact("".join(traceback.format_exception(failure))))


class _Everything(set[str]):
    def __contains__(self, event: object) -> bool:
        return True


def _running_loop() -> asyncio.AbstractEventLoop | None:
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def run_on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
    """Run `coroutine` on a loop, from any thread, and wait for nothing; `RuntimeError` if the loop has closed."""
    import asyncio

    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()  # else it would complain that nobody awaited it
        raise
