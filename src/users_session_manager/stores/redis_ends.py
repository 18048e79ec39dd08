"""Ends: what has run out in Redis is claimed under a lease, announced, and acknowledged."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..clock import Clock
from ..errors import StoreUnavailable
from ..keys import group_of
from ..session import Reason
from ..timers import SessionTimer
from .redis_script import ALL_GROUPS, Script
from .redis_session import RedisSession, ended_session, live_session

# How often a process looks for what has run out, in seconds. Nothing that began since it last looked can run out
# before it looks again, since MIN_SESSION_TIMEOUT is twice that; what it knows of it waits for to the instant.
POLL: Final = 1.0
# But no more often than this, so that a crowd of processes does not look each time a session runs out.
_PAUSE: Final = 0.1
# How soon it looks again when Redis is away.
_RETRY: Final = 0.5
# How many sessions one call takes out: it keeps Redis from others for no more than a few milliseconds.
SOME: Final = 100


class Ends:
    """Claims what has run out, announces it, and acknowledges what has been announced.

    Two threads: that of `clock` asks Redis and never waits for a listener; the other announces. So leases are kept
    while a listener takes its time. A forked child has both anew, and owes nothing of what its parent has in hand.

    Threads: `lock` guards what is in hand and what waits to be acknowledged; it is not held while Redis is asked or
    while somebody is told.
    """

    def __init__(self, script: Script, lease: float, now: Callable[[], float] | None, *, thread: bool) -> None:
        time_of_clocks = time.monotonic if now is None else now
        self.clock = Clock(time_of_clocks, thread=thread, on_fork=self._begin_anew)
        self._announcer = Clock(time_of_clocks, thread=thread)
        self.lock = self.clock.lock
        self.lease = lease
        self._script = script
        self._next_turn = SessionTimer(0, self._turn, clock=self.clock)
        self._on_ended: Callable[[RedisSession, Reason], object] = _nobody
        self._on_expiring: Callable[[RedisSession, float], object] = _nobody
        self.is_open = False
        self._closed = False
        self._policy_is_known = False
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Have nothing in hand: at the beginning, and in the child of a fork, whose parent announces what it has."""
        self._process = os.getpid()
        self._in_hand: set[bytes] = set()  # taken out by this process, and not acknowledged
        self._told: list[bytes] = []  # to be acknowledged
        self._to_tell: deque[RedisSession] = deque()
        self._is_telling = False
        self._extend_at = self.clock.now() + self.lease / 3

    def open(
        self, on_ended: Callable[[RedisSession, Reason], None], on_expiring: Callable[[RedisSession, float], None]
    ) -> None:
        self._on_ended, self._on_expiring = on_ended, on_expiring
        self.is_open = True
        self.look(0)

    def look(self, seconds: float) -> None:
        """Look for what has run out in that many seconds, or earlier."""
        with self.lock:
            if self.is_open and not self._closed and self._next_turn._deadline > self.clock.now() + seconds:
                self._next_turn.begin(seconds)

    def taken(self, records: Iterable[Any]) -> list[RedisSession]:
        """Return the sessions that a call of this process has taken out: their ends are its to announce."""
        sessions = [ended_session(self.start_timer, record) for record in records]
        with self.lock:
            self._in_hand.update(session._id for session in sessions)
        return sessions

    def acknowledge(self, sessions: Iterable[RedisSession]) -> None:
        """Take note that these have been announced; Redis hears so at once, or when it is back."""
        with self.lock:
            names = [session._id for session in sessions if session._id in self._in_hand]
            self._in_hand.difference_update(names)
            self._told += names
        if names and self._closed:
            self._take_leave([])  # no turn comes any more
        elif names:
            self.look(0)

    def run_due(self) -> None:
        """Announce all that has run out, on the calling thread: for a store without threads."""
        self.look(0)
        while self.clock.run_due() + self._announcer.run_due():
            pass

    def start_timer(self, seconds: float) -> SessionTimer:
        """Return a timer, started, at whose end what has run out is looked for."""
        timer = SessionTimer(seconds, self.look, (0,), clock=self.clock)
        with self.lock:
            timer.begin(max(0.0, seconds))
        return timer

    def close(self) -> None:
        """Stop both threads, acknowledge what has been announced, and hand back what nobody has begun to announce."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
        self.clock.stop()
        with self.lock:
            to_tell = [session._id for session in self._to_tell]
            self._to_tell.clear()
        self._announcer.stop()
        self._take_leave(to_tell)

    def _take_leave(self, to_tell: list[bytes]) -> None:
        """Tell Redis what has been announced, and what nobody here is going to announce."""
        if not self._script.is_away:
            try:
                self._acknowledge_told()
                self._of_each_group("extend", to_tell, 0)
            except StoreUnavailable:
                pass  # then another process has to wait for the end of the lease

    # On the clock's thread

    def _turn(self) -> None:
        with self.lock:
            self._next_turn = SessionTimer(0, self._turn, clock=self.clock)
        pause = _RETRY
        try:
            pause = self._keep_up()
        except StoreUnavailable:
            pass  # it is in the log, once
        finally:
            self.look(pause)

    def _keep_up(self) -> float:
        """Do all that is to be done in Redis; return the seconds until there is something again."""
        self._acknowledge_told()
        if self._extend_at <= self.clock.now():
            with self.lock:
                in_hand = list(self._in_hand)
            self._of_each_group("extend", in_hand, self.lease)
            self._extend_at = self.clock.now() + self.lease / 3
        if not self._policy_is_known:
            self._script.warn_of_eviction()
            self._policy_is_known = True
        pause = POLL
        for groups in self._script.together:
            if not self._is_telling:
                pause = min(pause, self._claim(groups))
        return max(pause, _PAUSE)

    def _claim(self, groups: list[int]) -> float:
        ended, warned, next_at = self._script.call("claim", groups, SOME, self.lease)
        sessions = sorted(self.taken(ended), key=lambda session: session._left)
        expiring = [session for session in (live_session(self.start_timer, record) for record in warned) if session]
        if sessions or expiring:
            with self.lock:
                self._to_tell.extend(sessions)
                self._is_telling = True
            self._announce_soon(expiring)
        return float(next_at)

    def _acknowledge_told(self) -> None:
        with self.lock:
            told, self._told = self._told, []
        try:
            self._of_each_group("acknowledge", told)
        except StoreUnavailable:
            with self.lock:
                self._told += told  # twice does no harm
            raise

    def _of_each_group(self, operation: str, names: list[bytes], *args: Any) -> None:
        of_group: dict[int, list[bytes]] = {}
        for name in names:
            of_group.setdefault(_group(name), []).append(name)
        for group, members in of_group.items():
            for first in range(0, len(members), SOME):
                self._script.call(operation, [group], *args, *members[first : first + SOME])

    # On the announcer's thread

    def _announce_soon(self, expiring: list[RedisSession]) -> None:
        """Called without the lock: a fork takes that of both clocks, in whatever order."""
        timer = SessionTimer(0, self._announce, (self._process, expiring), clock=self._announcer)
        with self._announcer.lock:
            timer.begin(0)

    def _announce(self, process: int, expiring: list[RedisSession]) -> None:
        if process != os.getpid():
            return  # a forked child: its parent announces
        to_warn = deque(expiring)
        try:
            while to_warn:
                session = to_warn.popleft()
                self._on_expiring(session, session._left)
            while (ended := self._next_to_tell()) is not None:
                try:
                    self._on_ended(ended, ended._reason)
                finally:
                    self.acknowledge((ended,))
        finally:
            with self.lock:
                self._is_telling = bool(self._to_tell or to_warn)
            if self._is_telling:  # what is no Exception has passed through, and the rest are to be told
                self._announce_soon(list(to_warn))
            self.look(0)

    def _next_to_tell(self) -> RedisSession | None:
        with self.lock:
            return self._to_tell.popleft() if self._to_tell else None


def _nobody(session: RedisSession, what: object) -> None:
    """Listen until the store is opened; before that nothing is claimed."""


def _group(name: bytes) -> int:
    group = group_of(name.decode("ascii", "replace"))
    return ALL_GROUPS[0] if group is None else group
