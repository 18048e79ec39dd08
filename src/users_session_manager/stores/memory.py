"""MemoryStore: sessions in a dictionary of this process, each with its timer."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Any

from ..errors import SessionError
from ..keys import label
from ..session import Session
from ..timers import Clock, SessionTimer


class Sessions(dict[str, Session]):
    """A dictionary of sessions whose `repr` does not tell their keys."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Sessions {[label(key) for key in self]}>"


class MemoryStore:
    """Keeps sessions in this process; the default. Implements `Store`.

    `now` is the time deadlines are measured in, seconds of a clock that never goes back; monotonic by default. Tests
    hand in one that they turn, with `thread=False`, and call `clock.run_due()` when something is to run out.

    Threads: any thread may call any method. The clock's lock guards `sessions` and the deadlines of their timers;
    `get` needs no lock, since it reads one entry and one deadline.
    """

    blocking = False

    def __init__(self, *, now: Callable[[], float] = time.monotonic, thread: bool = True) -> None:
        self.clock = Clock(now, thread=thread)
        self.sessions = Sessions()
        self._now = now
        self._lock = self.clock.lock
        self._on_run_out: Callable[[Session], None] | None = None
        self._closed = False

    def open(self, on_run_out: Callable[[Session], None]) -> None:
        if self._on_run_out is not None:
            raise SessionError("this MemoryStore has been opened by a SessionManager before; make a new one")
        self._on_run_out = on_run_out

    def add(self, key: str, username: str, timeout: float) -> Session:
        timer = SessionTimer(timeout, self._run_out, (key,), clock=self.clock)
        session = Session(username, key, time.time(), timer)
        with self._lock:
            if self._closed:
                raise SessionError("this SessionManager is closed")
            self.clock.schedule(timer, timeout)
            self.sessions[key] = session
        return session

    def get(self, key: object) -> Session | None:
        if isinstance(key, str):
            session = self.sessions.get(key)
            if session is not None and session.timer.deadline > self._now():
                return session
        return None

    def restart(self, key: object, timeout: float) -> bool:
        with self._lock:
            session = self.get(key)
            if session is None:
                return False
            if session.timer.deadline < inf:
                self.clock.schedule(session.timer, timeout)
            else:  # the application has cancelled its timer
                session.timer = self._start_timer(session.key, timeout)
            return True

    def renew_timer(self, key: object, timeout: float) -> SessionTimer:
        with self._lock:
            timer = self._start_timer(key, timeout)
            session = self.get(key)
            if session is not None:
                old, session.timer = session.timer, timer
                self.clock.cancel(old)
            return timer

    def time_left(self, key: object) -> float | None:
        with self._lock:
            session = self.get(key)
            return None if session is None else max(0.0, session.timer.deadline - self._now())

    def set_data(self, key: object, data: Any) -> bool:
        with self._lock:
            session = self.get(key)
            if session is None:
                return False
            # What was there before is let go by the caller, without the lock: its finalizer is unknown code.
            session.data, data = data, session.data
            return True

    def remove(self, key: object) -> Session | None:
        with self._lock:
            session = self.get(key)
            return session if session is not None and self._take(session) else None

    def clear(self) -> list[Session]:
        with self._lock:
            return [session for session in self._live() if self._take(session)]

    def usernames(self) -> list[str]:
        with self._lock:
            return [session.username for session in self._live()]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            # Let go of without the lock: the finalizers of their data are unknown code.
            _gone, self.sessions = self.sessions, Sessions()
        self.clock.stop()

    def _live(self) -> list[Session]:
        now = self._now()
        # From a copy: a finalizer or a signal may add one on this thread.
        return [session for session in list(self.sessions.values()) if session.timer.deadline > now]

    def _pop(self, session: Session) -> bool:
        """Take a session out, unless somebody has: a finalizer or a signal may have come between on this thread."""
        return self.sessions.pop(session.key, None) is not None

    def _take(self, session: Session) -> bool:
        """Take a session out before its time."""
        if not self._pop(session):
            return False
        self.clock.cancel(session.timer)
        return True

    def _start_timer(self, key: object, timeout: float) -> SessionTimer:
        timer = SessionTimer(timeout, self._run_out, (key,), clock=self.clock)
        timer.start()
        return timer

    def _run_out(self, key: object) -> None:
        with self._lock:
            session = self.sessions.get(key) if isinstance(key, str) else None
            if session is None or session.timer.deadline > self._now() or not self._pop(session):
                return
        if self._on_run_out is not None:
            self._on_run_out(session)
