"""Threads that use sessions while Redis fails over, and what has to be true of these sessions afterwards."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from users_session_manager import SessionManager, SessionRejected, StoreUnavailable

# States of a session beside its key.
ABSENT = "absent"
UNKNOWN = "unknown"

LIVE_PER_THREAD = 20
USERS_PER_THREAD = 32


class Entry(NamedTuple):
    """An operation on a session: when it began and ended, and the state that the session then had."""

    started: float
    ended: float
    what: str
    state: str


class Tracked:
    """A session, and all that was done with it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.entries: list[Entry] = []
        self.rejected: Entry | None = None

    @property
    def keys(self) -> list[str]:
        states = dict.fromkeys(entry.state for entry in self.entries)
        return [state for state in states if state not in (ABSENT, UNKNOWN)]


class Load:
    """Threads that sign in, check, restart, renew and delete; it can be paused.

    Each session is one thread's alone, so that its state is known.
    """

    def __init__(self, manager: SessionManager, threads: int = 4) -> None:
        self.manager = manager
        self.sessions: list[Tracked] = []
        self.heard: Counter[int] = Counter()
        self.unavailable = 0
        self._count = 0
        self._lock = threading.Lock()
        self._threads = threads
        self._running: list[threading.Thread] = []
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        manager.on("sessionEnded", self._ended)

    def _ended(self, session: Any, reason: str) -> None:
        if session.data is not None:
            self.heard[session.data["id"]] += 1

    def __enter__(self) -> Load:
        self.resume()
        return self

    def __exit__(self, *failure: object) -> None:
        self.pause()

    def resume(self) -> None:
        """Go on with new sessions."""
        self.sessions, self._stop = [], threading.Event()
        self._running = [threading.Thread(target=self._run, args=(number,)) for number in range(self._threads)]
        for thread in self._running:
            thread.start()

    def pause(self) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join()
        self._running = []
        if self._failures:
            raise self._failures[0]

    def _run(self, number: int) -> None:
        try:
            self._use_sessions(number)
        except BaseException as failure:  # noqa: BLE001  # `pause` raises it
            self._failures.append(failure)

    def _use_sessions(self, number: int) -> None:
        chance, mine = random.Random(), list[Tracked]()
        steps = (self._check, self._check, self._restart, self._restart, self._renew, self._delete)
        while not self._stop.wait(0.002):
            if len(mine) < LIVE_PER_THREAD:
                session = self._log_in(f"load {number} {chance.randrange(USERS_PER_THREAD)}")
            else:
                session = chance.choice(mine)
                mine.remove(session)
                chance.choice(steps)(session)
            if session.rejected is None and session.entries[-1].state not in (ABSENT, UNKNOWN):
                mine.append(session)

    def _log_in(self, user: str) -> Tracked:
        with self._lock:
            self._count += 1
            session = Tracked(self._count)
            self.sessions.append(session)
        self._do(session, "login", lambda: self.manager.loadNewSession(user, data={"id": session.number}), str)
        return session

    def _check(self, session: Tracked) -> None:
        key = session.entries[-1].state
        self._do(session, "check", lambda: self.manager.getSession(key), lambda found: found.key)

    def _restart(self, session: Tracked) -> None:
        key = session.entries[-1].state
        self._do(session, "restart", lambda: self.manager.resumeSession(key), lambda found: found.key)

    def _renew(self, session: Tracked) -> None:
        key = session.entries[-1].state
        self._do(session, "renewal", lambda: self.manager.renewSessionKey(key), str)

    def _delete(self, session: Tracked) -> None:
        key = session.entries[-1].state
        self._do(session, "delete", lambda: self.manager.deleteSession(key), lambda _: ABSENT)

    def _do(self, session: Tracked, what: str, call: Callable[[], Any], state: Callable[[Any], str]) -> None:
        started = time.monotonic()
        try:
            entry = Entry(started, 0, what, state(call()))
        except SessionRejected:
            session.rejected = Entry(started, time.monotonic(), what, session.entries[-1].state)
            return
        except StoreUnavailable:
            self.unavailable += 1
            entry = Entry(started, 0, what, UNKNOWN)
            if what in ("check", "restart"):
                entry = entry._replace(state=session.entries[-1].state, what="no answer")
        session.entries.append(entry._replace(ended=time.monotonic()))

    def check(self, acknowledged: float, promoted: float) -> tuple[int, int]:
        """Compare all sessions with what the new master has; return how many changes there were, and how many it lacks.

        Args:
            acknowledged: The replica had acknowledged all that had ended by then.
            promoted: All that began later was answered by the new master.
        """
        failures, changes, lost = [], 0, 0
        for session in self.sessions:
            alive = [key for key in session.keys if self.manager.findSession(key) is not None]
            truth = alive[0] if alive else ABSENT
            if len(alive) > 1:
                failures.append(f"{session.number}: {len(alive)} of its keys are good")
            sure = [
                index
                for index, entry in enumerate(session.entries)
                if (entry.ended < acknowledged or entry.started > promoted)
                and entry.what != "no answer"
                and entry.state != UNKNOWN
            ]
            first = session.entries[sure[-1]].state if sure else ABSENT
            later = [entry.state for entry in session.entries[sure[-1] + 1 if sure else 0 :]]
            possible = {ABSENT if state == UNKNOWN else state for state in [first, *later]}
            if truth not in possible:
                failures.append(f"{session.number}: {truth[:12]} after {self._story(session, acknowledged, promoted)}")
            made = [entry for entry in session.entries if entry.what in ("login", "renewal", "delete")]
            known = [entry for entry in made if entry.state != UNKNOWN]
            changes += len(known)
            if known and made[-1].state != UNKNOWN and truth != known[-1].state:
                there = max((index for index, entry in enumerate(known) if entry.state == truth), default=-1)
                lost += len(known) - 1 - there
            failures += self._check_answers(session, truth, promoted)
        assert failures == [], f"{len(failures)} failures: {failures[:10]}"
        return changes, lost

    def _check_answers(self, session: Tracked, truth: str, promoted: float) -> list[str]:
        rejected = session.rejected
        if rejected is not None and (rejected.ended < promoted or rejected.state == truth):
            return [f"{session.number}: a {rejected.what} was rejected, and its key was good"]
        deletes = [entry.state for entry in session.entries if entry.what == "delete"]
        heard = self.heard[session.number]
        if heard > len(deletes) or (heard == 0 and deletes == [ABSENT]):
            return [f"{session.number}: {heard} ends were announced, of {deletes}"]
        return []

    def _story(self, session: Tracked, acknowledged: float, promoted: float) -> str:
        return ", ".join(
            f"{entry.what} {entry.state[:12]}"
            + (" (acknowledged)" if entry.ended < acknowledged else "")
            + (" (answered by the new one)" if entry.started > promoted else "")
            for entry in session.entries[-4:]
        )
