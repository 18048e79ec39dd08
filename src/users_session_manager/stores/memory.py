"""MemoryStore: sessions in a dictionary of this process."""

from __future__ import annotations

import copy
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from math import inf
from operator import attrgetter
from typing import Any, Final

from ..clock import LOCK, Clock
from ..errors import SessionError, TooManySessions
from ..keys import is_foreign, label, new_key
from ..log import log
from ..policy import OwnLimits, Policy
from ..session import Session, not_negative
from ..timers import SessionTimer, require_interval
from .base import MAX_FORMER_KEYS, NO_LIMITS, NOT_OWN, Store

# How many sessions are listed at a time.
PAGE_SIZE: Final = 1000


class MemorySession(Session):
    """A `Session` in memory, which is its own alarm. `LOCK` guards what is private here.

    `_deadline` is when it expires: infinite while its timer is cancelled. `_interval` is the length of its countdown.
    `_warn_at` is when its warning is due: `None` without one in this countdown, infinite once it was given. `_limit` is
    the end of its lifetime, `_lifetime` one of its own, `_serial` its place in the order of creation. `_entry` belongs
    to the clock. `_authenticated_at` is `authenticatedAt` by the clock of the store, which does not jump.
    `_data_changes` is how often its data was replaced.
    """

    __slots__ = (
        *(
            "_authenticated_at",
            "_data_changes",
            "_deadline",
            "_entry",
            "_interval",
            "_lifetime",
            "_limit",
            "_serial",
            "_started_at",
            "_store",
            "_timer",
        ),
        "_warn_at",
    )

    def __init__(
        self, store: MemoryStore, username: str, data: Any, user_id: str | None, security_stamp: str | None
    ) -> None:
        unix = time.time()
        self.username = username  # not by super().__init__, which would cost each login a call
        self.userId = username if user_id is None else user_id
        self.securityStamp = security_stamp
        self.key = new_key()
        self.createdAt = self.authenticatedAt = unix
        self.data = data
        self.timeout: float | None = None
        self.formerKeys: tuple[str, ...] = ()
        self._store = store
        self._data_changes = 0
        self._serial = 0
        self._started_at = self._authenticated_at = store.now()
        self._deadline = -inf  # until its countdown starts
        self._limit = inf
        self._interval = 0.0
        self._lifetime: float | None = None
        self._warn_at: float | None = None
        self._entry: bytes | None = None
        self._timer: SessionTimer | None = None

    @property
    def authenticationAge(self) -> float:
        return not_negative(self._store.now() - self._authenticated_at)

    @property
    def timer(self) -> threading.Timer:
        return self._timer or self._store._make_timer(self)

    @property
    def _id(self) -> MemorySession:
        return self

    def ring(self, now: float) -> Callable[[], object] | None:
        store, timer, warn_at = self._store, self._timer, self._warn_at
        if self._deadline <= now:
            # To set `finished` by hand keeps no session alive that is rejected already.
            return partial(store._expire, self) if timer is None or timer.finished.is_set() else timer.run
        is_due = warn_at is not None and warn_at <= now
        if is_due:
            self._warn_at = inf
        store._set_alarm(self)
        return partial(store._callbacks.on_expiring, self, self._deadline - now) if is_due else None

    def clock_closed(self) -> None:
        """Do nothing: closing the store ends the timers."""


class Sessions(dict[str, MemorySession]):
    """A dictionary of sessions whose `repr` does not show their keys."""

    def __repr__(self) -> str:
        return f"<Sessions {[label(key) for key in self]}>"


class _Countdown(SessionTimer):
    """The timer of a session in memory: it counts down with the session, whose alarm runs it."""

    def __init__(self, session: MemorySession) -> None:
        store = session._store
        super().__init__(session._interval, store._expire, (session,), clock=store.clock)
        self._was_started = True

    def _cancel_countdown(self) -> bool:
        args = self.args
        return bool(args) and args[0]._store._cancel_countdown(*args, self)  # type: ignore[index]


class MemoryStore(Store):
    """Keeps sessions in this process; the default.

    Args:
        now: The time that deadlines are measured in, seconds of a clock that starts at 0 or later and never goes
            back; monotonic by default.
            Tests pass one that they turn, with `thread=False`, and call `run_due()` to let sessions expire.
        thread: Whether a thread lets them expire.

    A session is logged in while it is in `sessions` and its deadline is in the future; every read looks at both. Every
    change is made under `LOCK`, and what pops a session from `sessions` announces its end. Nothing else decides: the
    index by user, the former keys and the alarms follow from `sessions`.

    Threads: any thread may call any method. Reading one session takes no lock.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic, thread: bool = True) -> None:
        self.now = now
        self.clock = Clock(now, thread=thread)
        self._sessions = Sessions()
        self._by_user: dict[str, dict[MemorySession, None]] | None = None  # built when first needed
        self._former: dict[str, tuple[MemorySession, float]] = {}  # each former key, and until when it is good
        self._serials = itertools.count()
        self._has_renewed = False  # whether a renewal has moved a session to the end of `sessions`
        self._has_warned = False  # whether the log says that there are other processes
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryStore of {len(self._sessions)} sessions>"

    @property
    def sessions(self) -> Sessions:
        return self._sessions

    def serve(self) -> None:
        if self.clock.start() and _is_reloaded():
            log.warning(
                "Sessions in memory end with each reload of the development server: use SessionManager(store=...) "
                "to keep them, see docs/how-to/production.md"
            )

    def stop(self) -> None:
        self.clock.stop()

    def run_due(self) -> int:
        """Let all that has expired end, on the calling thread; return for how many sessions something was due."""
        return self.clock.run_due()

    # One session

    def add(
        self,
        username: str,
        timeout: float,
        policy: Policy = NO_LIMITS,
        data: Any = None,
        own: OwnLimits = NOT_OWN,
        user_id: str | None = None,
        security_stamp: str | None = None,
    ) -> tuple[str, Sequence[Session]]:
        require_interval(timeout if own.timeout is None else own.timeout)
        self.serve()
        session = MemorySession(self, username, data, user_id, security_stamp)
        session.timeout, session._lifetime = own
        with LOCK:
            surplus = [] if policy.max_sessions is None else self._surplus_sessions(session, policy)
            session._serial = next(self._serials)
            if self._closed:
                raise SessionError(
                    "this SessionManager is closed: call SessionManager() for another one, see docs/reference/errors.md"
                )
            self._insert(session, timeout, policy)
            evicted = surplus and [other for other in surplus if self._pop(other)]
        return session.key, evicted and _end_timers(evicted)

    def get(self, key: object) -> MemorySession | None:
        try:
            session = self._sessions[key]  # type: ignore[index]
        except Exception:  # noqa: BLE001  # KeyError, or whatever the hash of something odd raises
            former = self._by_former_key(key)
            if former is None:
                if not self._has_warned and is_foreign(key):
                    self._warn_of_other_processes()
                return None
            session = former
        return session if session._deadline > self.now() else None

    def restart(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> MemorySession | None:
        require_interval(timeout)
        self.serve()
        with LOCK:
            session = self.get(key)
            if session is None:
                return None
            if session._timer is not None and session._timer.finished.is_set():
                session._timer = None  # the application has cancelled it
            return session if self._start_countdown(session, timeout, policy) else None

    def renew_timer(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> SessionTimer:
        with LOCK:
            session = self.restart(key, timeout, policy)
            if session is not None:
                old, session._timer = session._timer, None
        if session is None:
            timer = SessionTimer(timeout, lambda: None, clock=self.clock)
            timer.start()
            return timer
        if old is not None:
            old.end()
        return self._make_timer(session)

    def renew_key(self, key: object, overlap: float, security_stamp: str | None = None) -> tuple[str, str, Any] | None:
        new, unix, now = new_key(), time.time(), self.now()
        with LOCK:
            session = self.get(key)
            if session is None:
                return None
            old, until = session.key, now + overlap
            former_keys = (*self._shorten_former_keys(session, until), old)
            if overlap:
                self._former[old] = session, until
            self._forget(former_keys[:-MAX_FORMER_KEYS])
            kept_keys = former_keys[-MAX_FORMER_KEYS:]
            # From here on nothing is called, so that no finalizer comes in between.
            if old not in self._sessions:
                self._forget(former_keys)
                return None
            session.key, session.formerKeys = new, kept_keys
            if security_stamp is not None:
                session.securityStamp = security_stamp
            session.authenticatedAt, session._authenticated_at = unix, now
            self._sessions[new] = session
            del self._sessions[old]
            self._has_renewed = True
        return old, new, session

    def time_left(self, key: object) -> float | None:
        session = self.get(key)
        return None if session is None else self._left(session)

    def set_data(self, key: object, data: Any) -> bool:
        session = self.get(key)
        if session is None:
            return False
        with LOCK:
            old, session.data = session.data, data
            session._data_changes += 1
        del old  # without the lock: a finalizer is unknown code
        return True

    def set_stamp(self, key: object, security_stamp: str) -> bool:
        session = self.get(key)
        if session is not None:
            session.securityStamp = security_stamp
        return session is not None

    def update_data(self, key: object, change: Callable[[Any], Any]) -> tuple[bool, Any]:
        while (session := self.get(key)) is not None:
            changes, old = session._data_changes, session.data
            new = change(copy.deepcopy(old))
            with LOCK:
                # The application may also have set `session.data` itself, which is not counted.
                if self.get(key) is session and session._data_changes == changes and session.data is old:
                    session.data = new
                    session._data_changes += 1
                    return True, new
        return False, None

    def remove(self, key: object, kind: str = "deleted") -> MemorySession | None:  # noqa: ARG002
        with LOCK:
            session = self.get(key)
            if session is None or not self._pop(session):
                return None
        return _end_timers([session])[0]

    # Several

    def of_user(self, user_id: str) -> list[tuple[Session, float]]:
        with LOCK:
            return [(session, self._left(session)) for session in self._live_of(user_id)]

    def remove_user(self, user_id: str, except_key: object = None) -> list[MemorySession]:
        with LOCK:
            kept = self.get(except_key)
            ended = [session for session in self._live_of(user_id) if session is not kept and self._pop(session)]
        return _end_timers(ended)

    def clear(self, *, silent: bool = False) -> list[MemorySession]:
        with LOCK:
            found = list(self._sessions.values()) if silent else self._live()
            ended = [session for session in found if self._pop(session)]
        return _end_timers(ended)

    def present_keys(self, session_ids: Sequence[MemorySession]) -> list[str | None]:
        with LOCK:
            return [each.key if self.get(each.key) is each else None for each in session_ids]

    def find(self, session_ids: Sequence[MemorySession]) -> list[Session | None]:
        with LOCK:
            return [each if self.get(each.key) is each else None for each in session_ids]

    def pages(self) -> Iterator[Sequence[MemorySession]]:
        with LOCK:
            sessions = self._live()
        for first in range(0, len(sessions), PAGE_SIZE):
            yield sessions[first : first + PAGE_SIZE]

    def is_foreign(self, key: object) -> bool:
        return is_foreign(key)

    def usernames(self) -> list[str]:
        with LOCK:
            return [session.username for session in self._live()]

    def close(self) -> None:
        with LOCK:
            self._closed = True
            # Released without the lock: the finalizers of their data are unknown code.
            sessions, self._sessions = self._sessions, Sessions()
            former, self._former = self._former, {}
            self._by_user = None
        self.clock.close()
        former.clear()
        _end_timers(sessions.values())

    def _live(self) -> list[MemorySession]:
        """Return the live sessions in the order of creation."""
        sessions, now = list(self._sessions.values()), self.now()
        if self._has_renewed:
            sessions.sort(key=attrgetter("_serial"))
        return [session for session in sessions if session._deadline > now]

    def _live_of(self, user_id: str) -> list[MemorySession]:
        if self._by_user is None:
            self._by_user = {}  # before the loop: a finalizer may end one of these sessions in between
            for session in self._live():
                _add_to(self._by_user, session)
                if session.key not in self._sessions:
                    _remove_from(self._by_user, session)
        now = self.now()
        sessions = list(self._by_user.get(user_id, ()))
        return [each for each in sessions if each._deadline > now and self._sessions.get(each.key) is each]

    def _surplus_sessions(self, new: MemorySession, policy: Policy) -> list[MemorySession]:
        """Return the sessions of its user that a new one evicts."""
        live, most = self._live_of(new.userId), policy.max_sessions or 0
        if policy.overflow == "reject" and len(live) >= most:
            raise TooManySessions(
                f"{new.username!r} has {len(live)} sessions, and may have {most}: let the user sign out elsewhere "
                "first, see docs/guide.md"
            )
        return live[: max(0, len(live) + 1 - most)]

    def _insert(self, session: MemorySession, timeout: float, policy: Policy) -> None:
        try:
            self._sessions[session.key] = session
            self._start_countdown(session, timeout, policy)
            if self._by_user is not None:
                _add_to(self._by_user, session)
        except BaseException:  # a signal handler has raised it
            self._pop(session)
            raise

    def _warn_of_other_processes(self) -> None:
        self._has_warned = True
        log.warning(
            "A key was presented that another process has issued, and sessions are in the memory of this one. "
            "With several workers each keeps its own, and users seem logged out at random: use one process with "
            "threads, or SessionManager(store=...), see docs/how-to/production.md. If the application was just "
            "restarted, its sessions have ended with it"
        )

    # Former keys

    def _by_former_key(self, key: object) -> MemorySession | None:
        try:
            session, until = self._former[key]  # type: ignore[index]
        except Exception:  # noqa: BLE001  # as in `get`
            return None
        return session if until > self.now() else None

    def _shorten_former_keys(self, session: MemorySession, until: float) -> list[str]:
        """Let the former keys of a session be good until that time at most; forget others, and return what is good."""
        now, good = self.now(), []
        for key in session.formerKeys:
            # A key whose overlap was 0 is not in it.
            limit = min(until, self._former.get(key, (session, now))[1])
            if limit > now:
                self._former[key] = session, limit
                good.append(key)
            else:
                self._former.pop(key, None)
        return good

    def _forget(self, former_keys: Iterable[str]) -> None:
        for key in former_keys:
            self._former.pop(key, None)

    # Time

    def _start_countdown(self, session: MemorySession, timeout: float, policy: Policy) -> bool:
        """Start a countdown anew; return whether the session is live then."""
        now = self.now()
        interval = timeout if session.timeout is None else session.timeout
        lifetime = policy.lifetime if session._lifetime is None else session._lifetime
        if lifetime is not None:
            session._limit = min(session._limit, session._started_at + lifetime)
        deadline = now + interval
        if deadline > session._limit:
            deadline, interval = session._limit, session._limit - now
        if policy.warning is None:
            session._warn_at = None
        elif session._warn_at is None or deadline != session._deadline:
            session._warn_at = max(now, deadline - policy.warning)  # the clock's times are not negative
        is_sooner = deadline < session._deadline
        session._deadline, session._interval = deadline, interval
        if session._timer is not None:
            session._timer.interval = interval
        if session._entry is None or is_sooner or session._warn_at is not None:
            self._set_alarm(session)
        # It may have outlived its lifetime, or a finalizer may have ended it.
        return deadline > now and session._entry is not None

    def _set_alarm(self, session: MemorySession) -> None:
        warn_at = session._warn_at
        self.clock.set(session, session._deadline if warn_at is None else min(session._deadline, warn_at))
        if session.key not in self._sessions:
            self.clock.cancel(session)  # a finalizer has ended it in between

    def _cancel_countdown(self, session: MemorySession, timer: SessionTimer) -> bool:
        """Let a session not expire until it is restarted; return whether it was live and has this timer still."""
        with LOCK:
            if session._timer is not timer or self.get(session.key) is not session:
                return False
            session._deadline, session._warn_at = inf, None
            self.clock.cancel(session)
            return True

    def _left(self, session: MemorySession) -> float:
        return max(0.0, session._deadline - self.now())

    def _make_timer(self, session: MemorySession) -> SessionTimer:
        new = _Countdown(session)
        with LOCK:
            timer = session._timer = session._timer or new
            has_ended = session.key not in self._sessions
        if has_ended:
            timer.end()
        return timer

    def _expire(self, session: MemorySession) -> None:
        with LOCK:
            if not self._pop(session):
                return
        try:
            self._callbacks.on_ended(session, "expired")
        finally:
            if session._timer is not None:
                session._timer.end()

    def _pop(self, session: MemorySession) -> bool:
        """Take a session out; return whether it was in: the one call that finds it announces the end."""
        if self._sessions.pop(session.key, None) is None:
            return False
        if session._entry is not None:
            self.clock.cancel(session)
        if self._by_user is not None:
            _remove_from(self._by_user, session)
        if session.formerKeys:
            self._forget(session.formerKeys)
        return True


# Between a look and a change these call nothing, so that a finalizer cannot come in between.


def _add_to(by_user: dict[str, dict[MemorySession, None]], session: MemorySession) -> None:
    new: dict[MemorySession, None] = {session: None}
    if session.userId in by_user:
        by_user[session.userId][session] = None
    else:
        by_user[session.userId] = new


def _remove_from(by_user: dict[str, dict[MemorySession, None]], session: MemorySession) -> None:
    sessions = by_user.get(session.userId)
    if sessions is not None and session in sessions:
        del sessions[session]
        if not sessions:
            del by_user[session.userId]


def _end_timers(ended: Iterable[MemorySession]) -> list[MemorySession]:
    """End the timers of sessions that have ended, without `LOCK`; return the sessions."""
    sessions = list(ended)
    for session in sessions:
        if session._timer is not None:
            session._timer.end()
    return sessions


def _is_reloaded() -> bool:
    """Return whether a development server reloads this process: Werkzeug's, Django's, `fastapi dev`, or `--reload`."""
    by_variable = "true" in (os.environ.get("WERKZEUG_RUN_MAIN"), os.environ.get("RUN_MAIN"))
    return by_variable or "--reload" in sys.argv or sys.argv[1:2] == ["dev"]
