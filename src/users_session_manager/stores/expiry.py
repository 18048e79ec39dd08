"""The common part of the stores that processes share.

Ends are claimed under a lease, announced by one process, and acknowledged. Notices of them are in `notices.py`.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple

from ..clock import LOCK, STOP_TIMEOUT, Clock, Worker, notice_fork, register, report, threads_run
from ..errors import StoreUnavailable
from ..events import when_done
from ..policy import Policy, require_seconds
from ..session import Reason, Session, not_negative
from ..timers import SessionTimer
from .notices import RETRY_INTERVAL, NoticeReader, NotifyingStore

# How often a process polls for expired sessions, in seconds. MIN_SESSION_TIMEOUT is twice that: so no session expires
# before the poll that follows its start, and what that poll finds it waits for to the instant.
POLL_INTERVAL: Final = 1.0
# But no more often than this, so that many processes do not poll each time a session expires.
MIN_PAUSE: Final = 0.1
# For how long what has been announced is collected to be acknowledged together, in seconds: each time is a write.
ACKNOWLEDGE_PAUSE: Final = 0.01
# How soon it polls again after a failure; after further ones later, up to RETRY_INTERVAL.
FIRST_RETRY: Final = 0.05


class Snapshot(NamedTuple):
    """The internal values of a session, beside its public ones, as the store has answered."""

    id: Any
    age: float  # the seconds since its user authenticated
    left: float  # the seconds until it expires
    reason: Reason
    data: str = ""  # its data as JSON, empty for none


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
        return not_negative(self._snapshot.age)

    @property
    def _id(self) -> Any:
        return self._snapshot.id

    @property
    def timer(self) -> threading.Timer:
        if self._timer is None:
            self._timer = self._start_timer(self._snapshot.left)
        return self._timer


class Claim(NamedTuple):
    """The result of a poll: sessions to announce, sessions whose warning is due, and the seconds until the next."""

    ended: Sequence[SharedSession]
    expiring: Sequence[SharedSession]
    next_in: float


class ClaimingStore(NotifyingStore):
    """A store that processes share: one of them claims an end under a lease, announces it, and acknowledges that.

    A process claims only while it serves, and only if it has listeners for ends; of what it takes out itself without
    such a listener it hands the announcement on. Whichever process announces, the store sends a notice to each.

    Three threads: the poller asks the store and never waits for a listener; the announcer runs the listeners, so leases
    are kept while a listener takes its time; that of the `NoticeReader` passes notices on. A fourth one, for timers,
    starts with the first timer that is asked for. A forked child has its own threads, serves once it is asked to, and
    has none of what its parent has claimed.

    A store of this kind has methods beside those of `NotifyingStore`: `_claim`, `_recover`, `_acknowledge` and
    `_extend`, which may raise `StoreUnavailable` and be repeated, `_disconnect` and `_is_unreachable`. Where it takes
    sessions out and gets no answer, it calls `_recover_soon`.

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
        self._reader = NoticeReader(self, thread=thread)
        self._closed = self._is_stopped = False
        self._reset()
        register(self)

    def _reset(self) -> None:
        """Have nothing claimed: at the beginning, and in a forked child, whose parent announces what it has claimed."""
        self._is_serving = False
        self._poll_at = inf  # when the poller works next, and when it claims next
        self._claim_at = inf
        self._retry_in = FIRST_RETRY
        self._reader.reset()
        self._is_announcing = False
        self._unacknowledged: set[Any] = set()  # the ids of all that this process has taken out
        self._pending: set[Any] = set()  # those of them whose async listeners are under way
        self._to_acknowledge: list[Any] = []  # those whose ends have been announced
        self._ended: deque[SharedSession] = deque()  # to announce
        self._expiring: deque[SharedSession] = deque()
        self._lost: deque[tuple[Any, float]] = deque()  # operations without an answer, and when they were called
        self._extend_at = self._now() + self._lease / 3
        self._leased_until = inf

    def _at_exit(self) -> None:
        self.close()

    def _after_fork_in_child(self) -> None:
        self._reset()

    @property
    def blocking(self) -> bool:
        return True

    def serve(self) -> None:
        notice_fork()
        if self._is_serving or not self._is_open or self._closed:
            return
        self._is_serving, self._is_stopped = True, False
        try:
            self._poll_within(0)
            self.interest_changed()
        except BaseException:  # no thread could be started: the next call tries again
            self._is_serving = False
            raise

    def interest_changed(self) -> None:
        self._reader.interest_changed()

    def stop(self) -> None:
        """Stop the threads, acknowledge what has been announced, and release the leases of all other claims."""
        self._is_serving, self._is_stopped = False, True
        self._clock.stop()
        self._poller.stop()
        self._reader.stop()
        with LOCK:
            ids = [session._snapshot.id for session in self._ended]
            self._ended.clear()
            self._expiring.clear()
        self._announcer.stop()
        self._wait_for_pending()
        with LOCK:
            pending, self._pending = self._pending, set()
            self._unacknowledged -= pending  # another process announces them
            ids += pending
        self._release_leases(ids)
        self._disconnect()
        if self._is_serving:  # another thread has asked for that in between, and what it started was stopped
            self._is_serving = False
            self.serve()

    def _wait_for_pending(self) -> None:
        """Give async listeners the time that a thread has to end."""
        deadline = time.monotonic() + STOP_TIMEOUT
        while self._pending and time.monotonic() < deadline:
            time.sleep(0.01)

    def run_due(self) -> None:
        """Let all that has expired end and be announced, on the calling thread: for a store without threads."""
        self._clock.run_due()
        self._poll_at = self._claim_at = self._now()
        while self._poll_at <= self._now():
            self._poll()
            self._announce()
        self._reader.run_due()

    def has_to_announce(self, session: Session) -> bool:
        return session._id in self._unacknowledged

    def acknowledge(self, ended: Iterable[Session], pending: Collection[Any] = ()) -> None:
        ids = [session._snapshot.id for session in ended if isinstance(session, SharedSession)]
        if not pending:
            self._announced(ids)
            return
        with LOCK:
            self._pending.update(ids)
        when_done(pending, partial(self._announced, ids))

    def _announced(self, ids: Iterable[Any]) -> None:
        with LOCK:
            self._pending.difference_update(ids)
            ids = [each for each in ids if each in self._unacknowledged]
            self._unacknowledged.difference_update(ids)
            self._to_acknowledge += ids
        if ids and (self._closed or self._is_stopped or not threads_run()):
            self._release_leases([])  # there is no further poll, or none before the lease has expired
            if self._closed:
                self._disconnect()
        elif ids:
            self._poll_within(ACKNOWLEDGE_PAUSE, claim=False)

    def close(self) -> None:
        with LOCK:
            if self._closed:
                return
            self._closed = True
        self.stop()
        self._clock.close()

    # The methods of such a store, beside those of `Store`

    @property
    @abstractmethod
    def _is_unreachable(self) -> bool:
        """Whether the store did not answer when it was asked last."""

    @abstractmethod
    def _claim(self, lease: float, *, warnings: bool) -> Iterator[Claim]:
        """Claim ends for `lease` seconds, batch by batch; each batch is claimed when it is asked for.

        With 0 seconds sessions expire, and all is left to others; so are warnings unless `warnings`.
        """

    @abstractmethod
    def _recover(self, operation: Any) -> Claim:
        """Return what an operation without an answer has taken out or has to warn of; nothing if it was not done."""

    @abstractmethod
    def _acknowledge(self, ids: Sequence[Any]) -> None:
        """Forget sessions whose ends have been announced; one that is not known is ignored."""

    @abstractmethod
    def _extend(self, ids: Sequence[Any], lease: float) -> None:
        """Prolong the lease of claimed ends; with 0 seconds, give them to another process."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close all connections; the next call opens new ones."""

    # Called by the store

    def _own_lease(self) -> float:
        """Return for how long this process has what it takes out: 0, to hand it on, without a listener for ends."""
        return self._lease if self._callbacks.interest().ends else 0

    def _claimed(self, sessions: Iterable[SharedSession]) -> list[SharedSession]:
        """Note and return the sessions that a call of this process has claimed: it has to announce their ends."""
        found = list(sessions)
        with LOCK:
            self._unacknowledged.update(session._snapshot.id for session in found)
        if found:
            self._poll_within(self._lease / 3, claim=False)  # to keep the lease until all have been announced
        return found

    def _recover_soon(self, operation: Any) -> None:
        """Let the poller ask what an operation without an answer has taken out: its end would wait for the lease."""
        with LOCK:
            while self._lost and self._lost[0][1] < self._now() - self._lease:  # others have claimed that by now
                self._lost.popleft()
            self._lost.append((operation, self._now()))
        self._poll_within(self._retry_in, claim=False)  # not at once: it may be the poller's own, refused each time

    def _poll_within(self, seconds: float, *, claim: bool = True) -> None:
        """Poll in that many seconds, or earlier; start the poller if it does not run."""
        if self._is_open and not self._closed:
            self._plan_poll(seconds, claim=claim)
            self._poller.start()

    def _plan_poll(self, seconds: float, *, claim: bool) -> None:
        """Let the poller work in that many seconds, or earlier, if it is not stopped in between.

        It acknowledges then, and recovers; with `claim` it also claims, of which a logout has no need.
        """
        with LOCK:
            at = self._now() + seconds
            if claim:
                self._claim_at = min(self._claim_at, at)
            if at < self._poll_at:
                self._poll_at = at
                self._poller.wake()

    def _poll_in_time(self, left: float, policy: Policy) -> None:
        """Poll in time for what is due before the next regular poll, of a session that expires in `left` seconds."""
        seconds = left - (policy.warning or 0)
        if self._is_serving and seconds < POLL_INTERVAL:
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
        self._retry_in = pause = min(2 * self._retry_in, RETRY_INTERVAL)
        try:
            with suppress(StoreUnavailable):  # it is in the log, once
                pause = self._poll_once()
                self._retry_in = FIRST_RETRY
        finally:
            self._plan_poll(pause, claim=False)

    def _poll_once(self) -> float:
        self._acknowledge_announced()
        self._recover_lost()
        if self._extend_at <= self._now():
            with LOCK:
                ids = list(self._unacknowledged)
            before = self._now()
            self._extend(ids, self._lease)
            self._extend_at, self._leased_until = before + self._lease / 3, before + self._lease
        if self._is_announcing:
            self._announcer.start()  # it may have failed to start
            next_at = self._now() + POLL_INTERVAL
        elif self._is_serving:
            if self._claim_at <= self._now():
                self._claim_due()
            next_at = self._claim_at
        else:
            next_at = inf
        return max(0.0, min(next_at, self._extend_at if self._unacknowledged else inf) - self._now())

    def _claim_due(self) -> None:
        """Claim what is due, and note when there is more."""
        with LOCK:
            self._claim_at = inf
        at = self._now()
        try:
            at = self._claim_all()
        finally:
            with LOCK:
                self._claim_at = min(self._claim_at, at)

    def _claim_all(self) -> float:
        """Claim what is due, up to the first ends to announce; return when there is more."""
        pause, warnings = POLL_INTERVAL, self._callbacks.interest().warnings
        self._leased_until = self._now() + self._lease
        for claim in self._claim(self._own_lease(), warnings=warnings):
            pause = min(pause, claim.next_in)
            self._announce_soon(claim)
            if self._is_announcing:
                return self._now()  # the rest is claimed once these have been announced
        return self._now() + max(MIN_PAUSE, pause)

    def _recover_lost(self) -> None:
        while self._lost:
            with LOCK:
                operation, called_at = self._lost.popleft()
            try:
                self._announce_soon(self._recover(operation))
            except StoreUnavailable:
                with LOCK:
                    self._lost.appendleft((operation, called_at))
                raise

    def _announce_soon(self, claim: Claim) -> None:
        if not claim.ended and not claim.expiring:
            return  # while something is announced, no more is claimed
        if not self._is_serving:  # it was stopped in between, or never served
            ids = [session._snapshot.id for session in claim.ended]
            with LOCK:
                self._unacknowledged.difference_update(ids)  # else the poller would keep the lease
            with suppress(StoreUnavailable):  # then another process has to wait for the end of the lease
                self._extend(ids, 0)
            return
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
        call = self._next_call()
        if call is None:
            return
        while call is not None:
            try:
                call()
            except BaseException:  # noqa: BLE001  # the others are to be announced, whatever a listener raises
                report(threading.current_thread())
            call = self._next_call()
        self._plan_poll(0, claim=False)  # to acknowledge, and to go on claiming

    def _next_call(self) -> Callable[[], object] | None:
        with LOCK:
            if self._leased_until < self._now():  # this process was stopped for a while: they are another one's
                self._unacknowledged.difference_update(session._snapshot.id for session in self._ended)
                self._ended.clear()
            if self._expiring:
                session = self._expiring.popleft()
                return partial(self._callbacks.on_expiring, session, session._snapshot.left)
            if self._ended:
                return partial(self._announce_end, self._ended.popleft())
            self._is_announcing = False
            return None

    def _announce_end(self, session: SharedSession) -> None:
        if not self._own_lease():  # the last listener has been removed since: another process may have one
            with LOCK:
                ids = [each._snapshot.id for each in (session, *self._ended)]
                self._ended.clear()
                self._unacknowledged.difference_update(ids)
            with suppress(StoreUnavailable):  # then it has to wait for the end of the lease
                self._extend(ids, 0)
            return
        pending: Collection[Any] | None = None
        try:
            pending = self._callbacks.on_ended(session, session._snapshot.reason)
        finally:
            self.acknowledge((session,), pending or ())
