"""MemoryStore: sessions in a dictionary of this process, each with its timer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from operator import attrgetter
from typing import Any, Final

from ..at_hand import AtHand, quick
from ..clock import LONGEST, Clock
from ..errors import SessionError, TooManySessions
from ..keys import label, new_key
from ..policy import Overflow, Policy
from ..session import Reason, Session
from ..timers import SessionTimer
from .base import NO_LIMITS
from .by_user import ByUser
from .former_keys import FormerKeys
from .memory_session import MemorySession

# The deadline of a warning that has been given.
_ANNOUNCED: Final = -inf

# What a manager does not ask this store of a session that is at hand.
_ANSWERED_AT_HAND: Final = ("get", "set_data", "restart")

_BIRTH: Final = attrgetter("_born", "createdAt")


class Sessions(dict[str, MemorySession]):
    """A dictionary of sessions whose `repr` does not tell their keys."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Sessions {[label(key) for key in self]}>"


class MemoryStore(AtHand):
    """Keeps sessions in this process; the default. Implements `Store`.

    `now` is the time deadlines are measured in, seconds of a clock that never goes back; monotonic by default. Tests
    hand in one that they turn, with `thread=False`, and call `run_due()` when something is to run out.

    Threads: any thread may call any method. The clock's lock guards `sessions`, what is found beside them by user and
    by former key, and the deadlines. What a request asks for needs no lock: `get` reads one entry and one deadline,
    `set_data` changes what nothing else depends on, and `restart` does what a `Countdown` allows.
    """

    sessions: Sessions
    blocking = False
    acknowledge = None  # if this process dies, so do its sessions, and nobody is left to be told

    def __init__(self, *, now: Callable[[], float] = time.monotonic, thread: bool = True) -> None:
        self.clock = Clock(now, thread=thread)
        self.run_due = self.clock.run_due
        self.sessions = Sessions()
        self._by_user: ByUser | None = None  # from when it is first asked for
        self._former = FormerKeys(self.clock)
        self.now = now
        self._lock = self.clock.lock
        self._renewed = False  # whether a renewal has moved a session to the end of `sessions`
        self._on_ended: Callable[[Session, Reason], None] | None = None
        self._on_expiring: Callable[[Session, float], None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryStore of {len(self.sessions)} sessions>"

    @property
    def at_hand(self) -> AtHand | None:
        # A subclass with a look of its own is asked each time.
        is_plain = all(getattr(type(self), name) is getattr(MemoryStore, name) for name in _ANSWERED_AT_HAND)
        return self if is_plain else None

    def open(self, on_ended: Callable[[Session, Reason], None], on_expiring: Callable[[Session, float], None]) -> None:
        if self._on_ended is not None:
            raise SessionError("this MemoryStore has been opened by a SessionManager before; make a new one")
        self._on_ended, self._on_expiring = on_ended, on_expiring

    # One session

    def add(
        self,
        username: str,
        timeout: float,
        policy: Policy = NO_LIMITS,
        data: Any = None,
        *,
        own_timeout: bool = False,
    ) -> tuple[str, Sequence[Session]]:
        read_clock = self.now
        now = read_clock()
        key = new_key()
        limit = inf if policy.lifetime is None else now + policy.lifetime
        session = MemorySession(self, username, key, now, time.time(), limit, data)
        if own_timeout:
            session.timeout = timeout
        # Who may have as many sessions as they like, and comes in a crowd, is let in without the lock.
        if policy.max_sessions is None and policy.warning is None and timeout <= LONGEST:
            interval, deadline = timeout, now + timeout
            if deadline > limit:
                interval, deadline = limit - now, limit
            if self.clock.join_slice(session, interval, deadline):
                session._steady = policy
                self.sessions[key] = session
                if session._place is None or self._by_user is not None or self._closed:
                    self._settle(session)
                return key, ()
        with self._lock:
            self._require_open()
            if session._place is not None:
                self.clock.cancel(session)
            most = policy.max_sessions
            in_the_way = () if most is None else self._in_the_way(username, most, policy.overflow)
            self._count_down(session, timeout, policy)
            self.sessions[key] = session
            self._settle(session)
            return key, in_the_way and [other for other in in_the_way if self._take(other)]

    def _settle(self, session: MemorySession) -> None:
        """Put right what may have come between a login's steps, and list the session if anybody asks for its user's."""
        with self._lock:
            if self._closed:
                self.sessions.pop(session.key, None)
                self._require_open()
            if self.sessions.get(session.key) is not session:
                return
            if session._place is None:  # it ran out before it was found here
                self.clock.schedule(session, session._interval, session._deadline)
            if self._by_user is not None:
                self._by_user.add(session)

    def _require_open(self) -> None:
        if self._closed:
            raise SessionError("this SessionManager is closed")

    def get(self, key: object) -> MemorySession | None:
        try:
            session = self.sessions[key]  # type: ignore[index]  # whatever it is
        except Exception:  # noqa: BLE001  # KeyError, or what the hash of something odd raises
            former = self._by_former_key(key)
            if former is None:
                return None
            session = former
        now = self.now
        return session if session._deadline > now() else None

    def restart(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> MemorySession | None:
        try:
            session = self.sessions[key]  # type: ignore[index]
        except Exception:  # noqa: BLE001  # as in `get`
            return self._restart(key, timeout, policy)
        interval = timeout if session.timeout is None else session.timeout
        if session._steady is policy and session._interval is interval:  # so only the deadline changes, to a later one
            read_clock = self.now
            now = read_clock()
            deadline = now + interval
            if now < session._deadline and deadline <= session._limit:
                session._deadline = deadline
                if session._steady is policy:
                    return session
        return self._restart(key, timeout, policy)

    def _restart(self, key: object, timeout: float, policy: Policy) -> MemorySession | None:
        """Do what `restart` does, for a countdown of which more may change than its deadline."""
        with self._lock:
            session = self.get(key)
            if session is None:
                return None
            if session._place is None:  # the application has cancelled its timer
                session._timer = None
            self._count_down(session, timeout, policy)
            if self.sessions.get(session.key) is not session:  # it has ended meanwhile
                self._let_go(session)
                return None
            outlived = policy.lifetime is not None and session._deadline <= self.now()
            return None if outlived else session

    def renew_timer(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> SessionTimer:
        with self._lock:
            session = self.get(key)
            if session is None:
                timer = SessionTimer(timeout, _nothing, clock=self.clock)
                timer.start()
                return timer
            old, session._timer = session._timer, None
            self._count_down(session, timeout, policy)
            if old is not None:
                old._end()
            timer = self._timer_of(session)
            if not timer.is_alive():  # it has ended meanwhile
                self._let_go(session)
            return timer

    def _timer_of(self, session: MemorySession) -> SessionTimer:
        """Return the timer of a session, made when it is asked for first."""
        with self._lock:
            if session._timer is None:
                session._timer = SessionTimer.of(session, self._run_out, (session,), clock=self.clock)
                if self.sessions.get(session.key) is not session:
                    session._timer._end()
            return session._timer  # type: ignore[no-any-return]

    def renew_key(self, key: object, overlap: float) -> tuple[str, str] | None:
        new = new_key()
        with self._lock:
            session = self.get(key)
            if session is None:
                return None
            old, authenticated_at = session.key, time.time()
            self._former.shorten(session, overlap)
            if overlap:
                self._former.add(session, overlap)
            # No call from here on, so that neither a finalizer nor a signal comes in between.
            try:
                del self.sessions[old]
            except KeyError:  # it has ended meanwhile
                self._former.drop(old)
                return None
            session.key, session.authenticatedAt = new, authenticated_at
            session.formerKeys = (*session.formerKeys, old)
            self.sessions[new] = session
            self._renewed = True
            if session._warning is not None and session._warning._deadline > _ANNOUNCED:
                self._warn_at(session, session._warning._deadline)
            return old, new

    def time_left(self, key: object) -> float | None:
        session = self.get(key)
        return None if session is None else self._left(session)

    def set_data(self, key: object, data: Any) -> bool:
        try:
            session = self.sessions[key]  # type: ignore[index]
        except Exception:  # noqa: BLE001  # as in `get`
            former = self._by_former_key(key)
            if former is None:
                return False
            session = former
        now = self.now
        if session._deadline <= now():
            return False
        session.data = data
        return True

    @quick
    def remove(self, key: object) -> MemorySession | None:
        try:
            session = self.sessions[key]  # type: ignore[index]
        except Exception:  # noqa: BLE001  # as in `get`
            return self._remove(key)
        now = self.now
        return session if session._deadline > now() and self._take(session) else self._remove(key)

    def _remove(self, key: object) -> MemorySession | None:
        """Do what `remove` does, for a session that has another key, or is about to have one."""
        with self._lock:
            session = self.get(key)
            return session if session is not None and self._take(session) else None

    # Several

    def of_user(self, username: str) -> list[tuple[Session, float]]:
        with self._lock:
            return [(session, self._left(session)) for session in self._live_of(username)]

    def remove_user(self, username: str, except_key: object = None) -> list[MemorySession]:
        with self._lock:
            kept = self.get(except_key)
            return [session for session in self._live_of(username) if session is not kept and self._take(session)]

    def clear(self) -> list[MemorySession]:
        with self._lock:
            return [session for session in self._live() if self._take(session)]

    def usernames(self) -> list[str]:
        with self._lock:
            return [session.username for session in self._live()]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            # Let go of without the lock: the finalizers of their data are unknown code.
            gone, self.sessions = self.sessions, Sessions()
            self._former.clear()
            self._by_user = None
        self.clock.stop()
        for session in gone.values():  # what points to each other would wait for the garbage collector
            session._older = session._newer = session._warning = None
            if session._timer is not None:
                session._timer._end()

    def _live(self) -> list[MemorySession]:
        now = self.now()
        return [session for session in self._in_order() if session._deadline > now]

    def _in_order(self) -> list[MemorySession]:
        """Return all sessions in the order of creation: a copy, since a finalizer or a signal may add one meanwhile."""
        sessions = list(self.sessions.values())
        if self._renewed:
            sessions.sort(key=_BIRTH)
        return sessions

    def _live_of(self, username: str) -> list[MemorySession]:
        if self._by_user is None:
            self._by_user = ByUser()  # before the look at who is there: who logs out from here on looks at it
            for session in self._in_order():
                self._by_user.add(session)
        now, live = self.now(), []
        for session in self._by_user.of(username):
            if self.sessions.get(session.key) is not session:  # it ended while it was put there
                self._by_user.remove(session)
            elif session._deadline > now:
                live.append(session)
        return live

    def _in_the_way(self, username: str, most: int, overflow: Overflow) -> list[MemorySession]:
        """Return whom one more session of this user would oust; `TooManySessions` if that is not to be."""
        live = self._live_of(username)
        if len(live) < most:
            return []
        if overflow == "reject":
            raise TooManySessions(f"{username!r} has {len(live)} sessions, and may have {most}")
        return live[: len(live) - most + 1]

    def _by_former_key(self, key: object) -> MemorySession | None:
        if not self._former or not isinstance(key, str):
            return None
        with self._lock:  # so that none is seen halfway to another key
            return self.sessions.get(self._former.present(key) or key)

    # Time

    def _count_down(self, session: MemorySession, timeout: float, policy: Policy) -> None:
        """Begin the countdown of a session, or begin it anew."""
        before = session._deadline
        if policy.lifetime is not None:
            session._limit = min(session._limit, session._born + policy.lifetime)
        self.clock.schedule(session, timeout if session.timeout is None else session.timeout, session._limit)
        if policy.warning is None:
            if session._warning is not None:
                self._cancel_warning(session)
            session._steady = policy
        elif session._deadline != before or session._warning is None:  # else it has been announced, or will be
            self._warn_at(session, session._deadline - policy.warning)

    def _warn_at(self, session: MemorySession, when: float) -> None:
        """Let a session be announced at that time, and not at another."""
        warning = session._warning
        if warning is None or warning._deadline <= self.now():  # else it waits, and can wait longer
            warning = session._warning = SessionTimer(0, self._warn, clock=self.clock)
        warning.args = (session.key,)
        warning.begin(LONGEST, when)

    def _cancel_warning(self, session: MemorySession) -> None:
        warning, session._warning = session._warning, None
        if warning is not None:
            warning.cancel()

    def _left(self, session: MemorySession) -> float:
        return max(0.0, session._deadline - self.now())

    # Ends

    def _take(self, session: MemorySession, has_run_out: bool = False) -> bool:
        """Take a session out, unless somebody has: the one `pop` that finds it decides who announces its end."""
        session._steady = None
        if self.sessions.pop(session.key, None) is None:
            return False
        # What nothing else is tied to is gone when it has left its slice of time. If it is in none, it is near its end,
        # or the clock has it in hand.
        place = session._place
        if (
            (not has_run_out and (place.__class__ is not dict or place.pop(session, None) is None))
            or self._by_user is not None
            or session._timer is not None
            or session._warning is not None
            or session.formerKeys
        ):
            self._let_go(session)
        return True

    def _let_go(self, session: MemorySession) -> None:
        """Free a session that has been taken out from all that is tied to it."""
        with self._lock:
            self.clock.cancel(session)
            if self._by_user is not None:
                self._by_user.remove(session)
            if session._timer is not None:
                session._timer.let_go()
            self._cancel_warning(session)
            self._former.shorten(session, 0)

    def _run_out(self, session: MemorySession) -> None:
        """End a session whose deadline has come, unless somebody has: the clock calls this."""
        with self._lock:  # a restart that was under way may have put it back
            if session._place is not None or not self._take(session, has_run_out=True):
                return
        if self._on_ended is not None:
            self._on_ended(session, "expired")

    def _warn(self, key: str) -> None:
        with self._lock:
            session = self.get(key)
            warning = None if session is None else session._warning
            if session is None or warning is None or not _ANNOUNCED < warning._deadline <= self.now():
                return  # it has ended, or begun a countdown anew, or has another key
            warning._deadline, left = _ANNOUNCED, self._left(session)
        if self._on_expiring is not None:
            self._on_expiring(session, left)


def _nothing() -> None:
    """What a timer does that no session has."""
