"""The clock: one daemon thread and a heap of alarms. Everything about threads, forks and exit is in this module."""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from struct import Struct
from typing import Any, Final, Protocol

from .keys import redact
from .log import log

MAX_TIMEOUT: Final = threading.TIMEOUT_MAX
"""The longest wait of the standard library, in seconds."""

# How long stopping waits for a function that still runs, in seconds: enough for one that is about to return, and short
# enough that one that hangs does not delay the exit of the interpreter.
STOP_TIMEOUT: Final = 0.5

# An entry of the heap: its time and a serial number, as bytes that sort like the two. Python's collector need not look
# at bytes; with tuples, a hundred thousand logins made it run twice as often, and alarms were late.
_ENTRY: Final = Struct(">dQ")
_LAST_SERIAL: Final = 2**64 - 1

# Below this many dead entries a heap is not pruned.
_MIN_DEAD: Final = 100
# Above this many bytes for each alarm, four times what is usual, the dictionary of alarms is copied.
_MAX_BYTES: Final = 400

LOCK: Final = threading.RLock()
"""The one lock of this library, so that no two are ever taken in two orders.

It guards the singleton, the listeners, the sessions in memory, the alarms and what a `SharedStore` has claimed. It is
re-entrant: a signal handler or a finalizer may end a session at any moment, on the very thread that holds it. It is not
held while a listener runs, while a store waits for a server, or while a lock of another library is taken.
"""


class Worker:
    """A daemon thread that calls `run_due()` whenever `pause()` says so, and sleeps until then or until `wake()`.

    Args:
        name: The name of the thread.
        run_due: Does what is due now. Called without `LOCK`.
        pause: Returns the seconds until something is due: 0 or less for now, infinity for never. Called with `LOCK`.
        thread: Whether there is a thread.

    With `thread=False` there is no thread: tests that turn the time by hand call `run_due` themselves. A forked child
    whose parent had the thread gets its own if there is anything to wait for. The interpreter's exit stops it.

    Threads: `start` and `stop` are called without `LOCK`, since a new thread may collect garbage, and so need it,
    before `Thread.start` returns. `wake` is called with it.
    """

    def __init__(
        self, name: str, run_due: Callable[[], object], pause: Callable[[], float], *, thread: bool = True
    ) -> None:
        self._run_due = run_due
        self._pause = pause
        self._name = name
        self._threaded = thread
        self._thread: threading.Thread | None = None
        self._starts_after_fork = False
        self._wakeup = _closed_lock()
        self._closed = False
        register(self)

    def start(self) -> bool:
        """Start the thread if it does not run; return whether it was started.

        It is not once closed, at exit, and in the master of uWSGI, whose children start it.
        """
        notice_fork()
        if self._thread is not None:
            return False
        with LOCK:
            if self._thread is not None or not self._threaded or self._closed or _is_exiting:
                return False
            if is_uwsgi_master():
                self._starts_after_fork = True
                return False
            # Of its own, since one that was stopped a moment ago may not have ended yet.
            wakeup = _closed_lock()
            thread = threading.Thread(target=self._run, args=(wakeup,), name=self._name, daemon=True)
            if self._thread is not None:  # a signal handler or a finalizer has started it in between
                return False
            self._wakeup, self._thread = wakeup, thread
        try:
            thread.start()
        except BaseException:
            self._thread = None
            raise
        _warn_of_uwsgi()
        _exit_with_multiprocessing()
        return True

    def stop(self) -> None:
        """End the thread, after at most `STOP_TIMEOUT` seconds, until `start` is called again.

        Calling it twice, or from the thread, is harmless.
        """
        with LOCK:
            thread, self._thread = self._thread, None
            self.wake()
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(STOP_TIMEOUT)

    def close(self) -> None:
        """End the thread for good. Calling it twice is harmless."""
        self._closed = True
        self.stop()

    def wake(self) -> None:
        """Let the thread ask `pause` again, also if it is only about to sleep."""
        try:
            self._wakeup.release()
        except RuntimeError:
            pass  # it has been woken already

    def is_this_thread(self) -> bool:
        """Return whether the caller runs on the worker's thread."""
        return self._thread is threading.current_thread()

    def _run(self, wakeup: threading.Lock) -> None:
        while self.is_this_thread():
            with LOCK:
                seconds = self._pause()
            if seconds > 0:
                wakeup.acquire(timeout=min(seconds, MAX_TIMEOUT))
                continue
            try:
                self._run_due()
            except BaseException:  # noqa: BLE001  # the thread must go on
                report(threading.current_thread())

    def _at_exit(self) -> None:
        self.close()

    def _after_fork_in_child(self) -> None:
        self._wakeup = _closed_lock()
        if self._thread is not None or self._starts_after_fork:
            self._thread, self._starts_after_fork = None, False
            _to_start.append(self)


class Alarm(Protocol):
    """An alarm that can be set in a `Clock`."""

    _entry: bytes | None
    """Its entry in the clock's heap; `None` while it is not set. The clock alone changes it."""

    def ring(self, now: float) -> Callable[[], object] | None:
        """Look whether anything is due and return what to call, `None` for nothing. Called with `LOCK` held."""

    def clock_closed(self) -> None:
        """Note that the clock was closed and that this alarm, which was set, will not ring."""


class Clock(Worker):
    """Rings alarms on one thread.

    `now` is the time in seconds, monotonic and never negative. An alarm is a hint of when to look: it may ring too
    early, and is then set again. Setting an alarm that is already set for an earlier time changes nothing. A cancelled
    alarm leaves a dead entry in the heap; when more than half of the entries are dead, they are dropped together.

    Threads: `set` and `cancel` are called with `LOCK` held. A finalizer or a signal handler may call them in the middle
    of one another, wherever Python calls a function or allocates; so each step leaves the heap whole.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, *, thread: bool = True) -> None:
        super().__init__("users-session-manager clock", self.run_due, self.pause, thread=thread)
        self.now = now
        self._heap: list[bytes] = []
        self._alarms: dict[bytes, Alarm] = {}  # by their entries; an entry without one is dead
        self._latest: bytes | None = None  # the entry that was set last
        self._serials = itertools.count()  # alarms for one instant ring in the order in which they were set
        self._ringing: tuple[Alarm, int] | None = None  # what is called now, and on which thread

    def set(self, alarm: Alarm, when: float) -> None:
        """Let `alarm` ring at the time `when`, or earlier if it is already set. Nothing happens once closed."""
        new = _ENTRY.pack(when, next(self._serials))
        if not self._heap or new < self._heap[0]:
            self.wake()
        old = alarm._entry  # from here on no finalizer can come in until the entry is in the heap
        if (old is not None and old < new) or self._closed:
            return
        if old is not None:
            del self._alarms[old]
        self._alarms[new] = alarm
        alarm._entry = self._latest = new
        heappush(self._heap, new)

    def cancel(self, alarm: Alarm) -> bool:
        """Let `alarm` not ring; return whether it was set."""
        entry = alarm._entry
        if entry is None:
            return False
        alarm._entry = None
        self._alarms.pop(entry, None)
        if len(self._heap) > 2 * len(self._alarms) + _MIN_DEAD:
            self._prune()
        return True

    def run_due(self) -> int:
        """Ring what is due, on the calling thread; return how many alarms had something to do."""
        count, thread, now, last = 0, threading.get_ident(), 0.0, b""
        while True:
            with LOCK:
                if self._heap and self._heap[0] > last:
                    now = self.now()
                    last = _ENTRY.pack(now, _LAST_SERIAL)
                if not self._heap or self._heap[0] > last:
                    return count
                alarm = self._alarms.pop(heappop(self._heap), None)
                if alarm is None:
                    continue
                alarm._entry = None
                call = alarm.ring(now)
                if call is None:
                    continue
                self._ringing = alarm, thread
            count += 1
            try:
                call()
            except BaseException:  # noqa: BLE001  # the clock must go on, whatever was called raises
                report(alarm if isinstance(alarm, threading.Thread) else threading.current_thread())
            self._ringing = None

    def next_alarm(self) -> float:
        """Return the time of the next alarm, infinity without any."""
        return _ENTRY.unpack(self._heap[0])[0] if self._heap else inf

    def pause(self) -> float:
        """Return the seconds until the next alarm."""
        return self.next_alarm() - self.now()

    def close(self) -> None:
        """End the thread for good; no alarm rings any more. Calling it twice is harmless."""
        super().close()
        with LOCK:
            alarms, self._alarms, self._heap = self._alarms, {}, []
        for alarm in alarms.values():
            alarm._entry = None
            alarm.clock_closed()

    def _prune(self) -> None:
        """Make the heap anew, without the dead entries; if a finalizer comes in between, the next call does it."""
        latest = self._latest
        entries = sorted(self._alarms)  # a sorted list is a heap
        if self._latest is latest:
            self._heap = entries
        if sys.getsizeof(self._alarms) > _MAX_BYTES * len(self._alarms):
            self._alarms = {**self._alarms}  # a dictionary does not shrink; no call, so no finalizer comes in between

    def _after_fork_in_child(self) -> None:
        ringing, self._ringing = self._ringing, None
        if ringing is not None and ringing[1] != threading.get_ident():
            self.set(ringing[0], self.now())  # it was about to run on a thread that the child does not have
        super()._after_fork_in_child()


def _closed_lock() -> threading.Lock:
    """Return a lock that is held: acquiring it waits until it is released, be that before or after.

    A `Condition` or an `Event` would lose a `wake` that a finalizer makes inside their own `wait`.
    """
    lock = threading.Lock()
    lock.acquire()
    return lock


def report(thread: threading.Thread) -> None:
    """Give the exception that is being handled to `threading.excepthook`, as that thread would."""
    try:
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), thread)))
    except BaseException:  # noqa: BLE001  # the clock must go on, whatever the hook does
        log.error(
            "threading.excepthook failed: correct the function that the application has put there, see "
            "docs/reference/errors.md\n%s",
            redact(traceback.format_exc()),
        )  # both failures are in it


def threads_run() -> bool:
    """Return whether a thread of this process runs at any time: in some uWSGI it does so only during a request."""
    return bool(getattr(sys.modules.get("uwsgi"), "has_threads", True)) and not is_uwsgi_master()


def is_uwsgi_master() -> bool:
    """Return whether this process is the master of uWSGI.

    It forks in C: a child whose parent has threads may wait for the interpreter's own lock for ever.
    """
    uwsgi = sys.modules.get("uwsgi")  # which is there in its processes alone
    return uwsgi is not None and uwsgi.masterpid() == os.getpid()


def _warn_of_uwsgi() -> None:
    """Log a warning, once, in a uWSGI that lets threads run only while it handles a request."""
    global _uwsgi_is_known
    if not (_uwsgi_is_known or threads_run()):
        _uwsgi_is_known = True
        log.warning(
            "uWSGI runs without threads: sessions expire and clients are notified only while it handles a "
            "request. Start it with --enable-threads, see docs/how-to/production.md"
        )


def _exit_with_multiprocessing() -> None:
    """Stop all at the end of a child of `multiprocessing`, which ends without the functions of `atexit`."""
    global _finalized_process
    modules = [sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util")]
    if all(modules) and _finalized_process != _process_id:
        process, util = modules
        if process.parent_process() is not None:  # type: ignore[union-attr]
            _finalized_process = _process_id
            util.Finalize(None, _at_exit, exitpriority=0)  # type: ignore[union-attr]


_uwsgi_is_known = False
_finalized_process = 0
_registered: weakref.WeakSet[Any] = weakref.WeakSet()
_to_start: list[Worker] = []
_process_id = os.getpid()
_noticed: dict[int, object] = {}
_is_exiting = False


def register(registered: Any) -> None:
    """Call `registered._after_fork_in_child()` in each forked child, with `LOCK` held and before any thread.

    At the exit of the interpreter its `_at_exit()` is called, if it has one.
    """
    with LOCK:
        _registered.add(registered)


def notice_fork() -> None:
    """Let a forked child that no hook has reported become a process of its own: uWSGI forks so.

    Called wherever the library is entered, before `LOCK` is taken. Not in the lock itself: an exception of a signal
    handler would leave that locked, were its `__enter__` not one of C.
    """
    if os.getpid() != _process_id:
        _notice_fork()


def _notice_fork() -> None:
    global _noticed
    process_id, mine = os.getpid(), object()
    if _noticed.setdefault(process_id, mine) is mine:  # of several threads one does it
        _noticed = {process_id: mine}  # the number of an ancestor may come again
        LOCK._at_fork_reinit()  # type: ignore[attr-defined]  # a thread of the parent may have held it
        LOCK.acquire()
        _after_fork_in_child()
    while process_id != _process_id:
        time.sleep(0.001)


def _after_fork_in_child() -> None:
    global _process_id
    _process_id = os.getpid()  # before any `with LOCK`
    for each in list(_registered):
        each._after_fork_in_child()
    workers = [worker for worker in _to_start if worker._pause() < inf]
    _to_start.clear()
    LOCK.release()
    for worker in workers:
        worker.start()


def _after_fork_hook() -> None:
    if LOCK._is_owned():  # type: ignore[attr-defined]
        _after_fork_in_child()
    else:
        notice_fork()  # some servers that fork in C call no hook but this one


def _at_exit() -> None:
    global _is_exiting
    # A daemon thread that is cut off in the middle of a print can abort the interpreter.
    with LOCK:
        _is_exiting = True
        found = [each for each in _registered if hasattr(each, "_at_exit")]
    # A store stops its own workers, in the order that it needs.
    for each in sorted(found, key=lambda each: isinstance(each, Worker)):
        try:
            each._at_exit()
        except BaseException:  # noqa: BLE001, PERF203  # the others have to stop all the same
            report(threading.current_thread())


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=_after_fork_hook)
