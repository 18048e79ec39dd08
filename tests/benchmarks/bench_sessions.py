"""The measured process of this library (`ours`), or of a `port` of the npm package with a thread for each session."""

import gc
import resource
import secrets
import sys
import threading
import time
from itertools import count, islice
from pathlib import Path
from typing import Any

from bench_worker import serve
from pyee import EventEmitter

from users_session_manager import SessionManager

DATA = {"cart": ["bread", "milk"]}


class ThreadPort(EventEmitter):
    """The part of the npm API that is measured, with one `threading.Timer`, which is a thread, for each session."""

    sessions: dict[str, dict[str, Any]] = {}  # noqa: RUF012  # there is one port

    def loadNewSession(self, username: str) -> str:
        key = secrets.token_urlsafe(16)
        self.sessions[key] = {"username": username, "createdAt": time.time()}
        self.restartSessionTimer(key)
        self.emit("sessionCreated", key)
        return key

    def getUsernameFromSessionKey(self, key: str) -> Any:
        return self.sessions[key]["username"] if key in self.sessions else False

    def restartSessionTimer(self, key: str) -> bool:
        session = self.sessions[key]
        if "timer" in session:
            session["timer"].cancel()
        session["timer"] = timer = threading.Timer(3000, self.deleteSession, (key,))
        timer.start()
        return True

    def deleteSession(self, key: str) -> bool:
        self.sessions.pop(key)["timer"].cancel()
        self.emit("sessionDeleted", key)
        return True


class Sessions:
    """The questions that are asked; `bench_npm.cjs` answers the first two for the npm package."""

    def __init__(self, manager: Any) -> None:
        self.manager, self.names = manager, (f"user{number}" for number in count())
        manager.deleteSession(manager.loadNewSession("first"))  # starts the clock thread

    def fill(self, size: int) -> dict[str, float]:
        """Create so many sessions and return the bytes of memory that each of them takes."""
        self.users = list(islice(self.names, size))
        before = resident_bytes()
        self.keys = [self.manager.loadNewSession(user) for user in self.users]
        return {"memory of a session": (resident_bytes() - before) / size}

    def time(self, what: str, calls: int) -> dict[str, float]:
        """Return the microseconds of a call in a second pass; a login is timed with the logout that undoes it."""
        if what == "loadNewSession":
            return [self.time_login(list(islice(self.names, calls))) for _ in range(2)][1]
        method, keys, data = getattr(self.manager, what), self.keys[:calls], DATA if what == "setSessionData" else None
        _, took = timed(method, keys, data), timed(method, keys, data)
        for key, user in zip(keys[:100], self.users, strict=False):
            answer = method(key) if data is None else method(key, data) and self.manager.getSessionData(key) == data
            expected = user if what in ("getUsernameFromSessionKey", "getSessionDetails") else True
            assert (answer["username"] if isinstance(answer, dict) else answer) == expected, f"{what}: {answer!r}"
        return {what: took}

    def time_login(self, users: list[str]) -> dict[str, float]:
        begun = time.perf_counter()
        keys = list(map(self.manager.loadNewSession, users))
        login = (time.perf_counter() - begun) / len(keys) * 1e6
        assert len(set(keys)) == len(keys), "two sessions have one key"
        assert [self.manager.getUsernameFromSessionKey(key) for key in keys[:100]] == users[:100], "not logged in"
        logout = timed(self.manager.deleteSession, keys)
        assert not any(map(self.manager.getUsernameFromSessionKey, keys)), "a session survived its logout"
        return {"loadNewSession": login, "deleteSession": logout}

    def late(self, size: int) -> dict[str, float]:
        """Let so many sessions expire within half a second; return the 99th percentile of their lateness in ms."""
        ended: list[tuple[str, float]] = []
        self.manager.on("sessionDeleted", lambda key: ended.append((key, time.monotonic())))
        first, deadlines = time.monotonic() + 2.1 + size / 20_000, {}  # the logins take the time until then
        for number, user in enumerate(islice(self.names, size)):
            timeout = max(first + number / size / 2 - time.monotonic(), 2)
            deadlines[self.manager.loadNewSession(user, timeout=timeout)] = time.monotonic() + timeout
        while len(ended) < size:
            assert time.monotonic() < first + 300, f"{size - len(ended)} sessions did not expire"
            time.sleep(0.1)
        assert {key for key, _ in ended} == deadlines.keys(), "a session ended twice"
        return {"late": sorted((at - deadlines[key]) * 1000 for key, at in ended)[round(0.99 * (size - 1))]}


def timed(method: Any, items: list[str], data: Any = None) -> float:
    begun = time.perf_counter()
    for item in items if data is None else ():
        method(item)
    for item in () if data is None else items:
        method(item, data)
    return (time.perf_counter() - begun) / len(items) * 1e6


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    serve(Sessions(ThreadPort() if sys.argv[1] == "port" else SessionManager()))
