"""What stores shared by processes have in common: ends are claimed under a lease, announced, and acknowledged."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple

from ..clock import LOCK, Clock, Worker, register, report
from ..errors import StoreUnavailable
from ..policy import Policy, require_seconds
from ..session import Reason, Session
from ..timers import SessionTimer
from .base import OnEnded, OnExpiring, Store

# How often a process polls for expired sessions, in seconds. MIN_SESSION_TIMEOUT is twice that: so no session expires
# before the poll that follows its start, and what that poll finds it waits for to the instant.
POLL_INTERVAL: Final = 1.0
# But no more often than this, so that many processes do not poll each time a session expires.
MIN_PAUSE: Final = 0.1
# How soon it polls again when the store is unreachable.
RETRY_INTERVAL: Final = 0.5


class Snapshot(NamedTuple):
    """What a store knows of a session beside its public values, at the moment when it was asked."""

    id: Any
    age: float  # the seconds since its user authenticated
    left: float  # the seconds until it expires
    reason: Reason
    serial: int  # its place in the order of creation


class SharedSession(Session):
    """A `Session` as it was when the store was asked; what is set here is not stored.

    Its `timer` is made when it is asked for. It expires when the session does, which the store decides: to cancel it
    prolongs no session.
    """

    __slots__ = ("_snapshot", "_start_timer", "_timer")

    def __init__(self, start_timer: Callable[[float], SessionTimer], snapshot: Snapshot, *values: Any) -> None:
        super().__init__(*values)
        self._snapshot = snapshot
        self._start_timer = start_timer
        self._timer: SessionTimer | None = None

    @property
    def authenticationAge(self) -> float:
        return self._snapshot.age

    @property
    def timer(self) -> threading.Timer:
        if self._timer is None:
            self._timer = self._start_timer(self._snapshot.left)
        return self._timer


class Claim(NamedTuple):
    """What a poll found: sessions to announce, sessions whose warning is due, and the seconds until there is more."""

    ended: Sequence[SharedSession]
    expiring: Sequence[SharedSession]
    next_in: float


class SharedStore(Store):
    """A store that processes share: one of them claims an end under a lease, announces it, and acknowledges that.

    Two threads: the poller asks the store and never waits for a listener; the announcer runs the listeners. So leases
    are kept while a listener takes its time. A third one, for timers, starts with the first timer that is asked for. A
    forked child has its own threads, and none of what its parent has claimed.

    A store of this kind has four methods beside those of `Store`: `_claim`, `_acknowledge`, `_extend` and
    `_is_unreachable`. Each may raise `StoreUnavailable`, and be repeated.

    Threads: any thread may call any method. `LOCK` guards what is claimed, to be announced and to be acknowledged; it
    is not held while the store is asked or while a listener runs.
    """

    def __init__(self, lease: float, now: Callable[[], float] | None, *, thread: bool) -> None:
        require_seconds("the lease", lease)
        if lease < 1:
            raise ValueError(f"the lease must be at least 1 second, got {lease!r}")
        self._lease = lease
        self._clock = Clock(time.monotonic if now is None else now, thread=thread)
        self._now = self._clock.now
        self._poller = Worker("users-session-manager poller", self._poll, self._poll_pause, thread=thread)
        self._announcer = Worker("users-session-manager announcer", self._announce, self._announce_pause, thread=thread)
        self._closed = False
        self._reset()
        register(self)

    def _reset(self) -> None:
        """Have nothing claimed: at the beginning, and in a forked child, whose parent announces what it has claimed."""
        self._poll_at = inf
        self._is_announcing = False
        self._unacknowledged: set[Any] = set()  # the ids of all that this process has taken out
        self._to_acknowledge: list[Any] = []  # those of them whose ends have been announced
        self._ended: deque[SharedSession] = deque()  # to announce
        self._expiring: deque[SharedSession] = deque()
        self._extend_at = self._now() + self._lease / 3

    def _at_exit(self) -> None:
        self.close()

    def _after_fork_in_child(self) -> None:
        self._reset()
        self._poll_within(0)

    @property
    def blocking(self) -> bool:
        return True

    def open(self, on_ended: OnEnded, on_expiring: OnExpiring) -> None:
        super().open(on_ended, on_expiring)
        self._poll_within(0)

    def start(self) -> None:
        self._poller.start()

    def run_due(self) -> None:
        """Let all that has expired end and be announced, on the calling thread: for a store without threads."""
        self._clock.run_due()
        self._poll_at = self._now()
        while self._poll_at <= self._now():
            self._poll()
            self._announce()

    def acknowledge(self, ended: Iterable[Session]) -> None:
        with LOCK:
            ids = [session._snapshot.id for session in ended if isinstance(session, SharedSession)]
            ids = [each for each in ids if each in self._unacknowledged]
            self._unacknowledged.difference_update(ids)
            self._to_acknowledge += ids
        if ids and self._closed:
            self._release_leases([])  # there is no further poll
        elif ids:
            self._poll_within(0)

    def close(self) -> None:
        """Stop the threads, acknowledge what has been announced, and release the leases of all other claims."""
        with LOCK:
            if self._closed:
                return
            self._closed = True
        self._clock.stop()
        self._poller.stop()
        with LOCK:
            ids = [session._snapshot.id for session in self._ended]
            self._ended.clear()
            self._expiring.clear()
        self._announcer.stop()
        self._release_leases(ids)

    # What a store of this kind has beside the methods of `Store`

    @property
    @abstractmethod
    def _is_unreachable(self) -> bool:
        """Whether the store did not answer when it was asked last."""

    @abstractmethod
    def _claim(self, lease: float) -> Iterator[Claim]:
        """Claim ends for `lease` seconds, batch by batch; each batch is claimed when it is asked for."""

    @abstractmethod
    def _acknowledge(self, ids: Sequence[Any]) -> None:
        """Forget sessions whose ends have been announced; one that is not known is ignored."""

    @abstractmethod
    def _extend(self, ids: Sequence[Any], lease: float) -> None:
        """Prolong the lease of claimed ends; with 0 seconds, give them to another process."""

    # What it calls

    def _claimed(self, sessions: Iterable[SharedSession]) -> list[SharedSession]:
        """Note and return the sessions that a call of this process has taken out: it has to announce their ends."""
        found = list(sessions)
        with LOCK:
            self._unacknowledged.update(session._snapshot.id for session in found)
        return found

    def _poll_within(self, seconds: float) -> None:
        """Poll in that many seconds, or earlier."""
        with LOCK:
            at = self._now() + seconds
            if at < self._poll_at and self._is_open and not self._closed:
                self._poll_at = at
                self._poller.wake()

    def _poll_in_time(self, left: float, policy: Policy) -> None:
        """Poll in time for what is due before the next regular poll, of a session that expires in `left` seconds."""
        seconds = left - (policy.warning or 0)
        if seconds < POLL_INTERVAL:
            self._poll_within(max(0.0, seconds))

    def _start_timer(self, seconds: float) -> SessionTimer:
        """Return a timer, started, that polls when it expires."""
        timer = SessionTimer(max(0.0, seconds), self._poll_within, (0,), clock=self._clock)
        timer.start()
        return timer

    # On the poller's thread

    def _poll_pause(self) -> float:
        return self._poll_at - self._now()

    def _poll(self) -> None:
        """Do all that is to be done in the store, and note when there is something again."""
        with LOCK:
            self._poll_at = inf
        pause = RETRY_INTERVAL
        try:
            with suppress(StoreUnavailable):  # it is in the log, once
                pause = self._poll_once()
        finally:
            self._poll_within(pause)

    def _poll_once(self) -> float:
        self._acknowledge_announced()
        if self._extend_at <= self._now():
            with LOCK:
                ids = list(self._unacknowledged)
            self._extend(ids, self._lease)
            self._extend_at = self._now() + self._lease / 3
        pause = POLL_INTERVAL
        if self._is_announcing:
            self._announcer.start()  # it may have failed to start
        else:
            for claim in self._claim(self._lease):
                pause = min(pause, claim.next_in)
                if claim.ended or claim.expiring:
                    self._announce_soon(claim)
                if self._is_announcing:
                    break  # the rest is claimed once these have been announced
        return max(MIN_PAUSE, pause)

    def _announce_soon(self, claim: Claim) -> None:
        sessions = sorted(self._claimed(claim.ended), key=lambda session: session._snapshot.left)
        with LOCK:
            self._ended += sessions
            self._expiring += claim.expiring
            self._is_announcing = True
            self._announcer.wake()
        self._announcer.start()

    def _acknowledge_announced(self) -> None:
        with LOCK:
            ids, self._to_acknowledge = self._to_acknowledge, []
        try:
            self._acknowledge(ids)
        except StoreUnavailable:
            with LOCK:
                self._to_acknowledge += ids  # twice does no harm
            raise

    def _release_leases(self, ids: Sequence[Any]) -> None:
        if not self._is_unreachable:
            with suppress(StoreUnavailable):  # then another process has to wait for the end of the lease
                self._acknowledge_announced()
                self._extend(ids, 0)

    # On the announcer's thread

    def _announce_pause(self) -> float:
        return 0 if self._is_announcing else inf

    def _announce(self) -> None:
        """Run the listeners for all that waits to be announced."""
        while (call := self._next_call()) is not None:
            try:
                call()
            except BaseException:  # noqa: BLE001  # the others are to be announced, whatever a listener raises
                report(threading.current_thread())
            self._poll_within(0)

    def _next_call(self) -> Callable[[], object] | None:
        with LOCK:
            if self._expiring:
                session = self._expiring.popleft()
                return partial(self._on_expiring, session, session._snapshot.left)
            if self._ended:
                return partial(self._announce_end, self._ended.popleft())
            self._is_announcing = False
            return None

    def _announce_end(self, session: SharedSession) -> None:
        try:
            self._on_ended(session, session._snapshot.reason)
        finally:
            self.acknowledge((session,))
