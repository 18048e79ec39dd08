"""What each method of the npm API is in each contestant that runs in Python.

A contestant is imported when it is asked for, so that its process holds nothing of the others.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any


def nothing(*args: Any) -> None: ...


def ours() -> Any:
    from users_session_manager import SessionManager

    manager = SessionManager()
    manager.on("error", nothing)
    return manager


def ours_on_redis(url: str) -> Any:
    from users_session_manager import SessionManager

    manager = SessionManager(store=url)
    manager.on("error", nothing)
    return manager


def plain() -> Any:
    from .plain_port import PlainPort

    port = PlainPort()
    port.on("error", nothing)
    return port


class CacheSessions:
    """A cache, or a `dict`, as the sessions: what an application writes that has nothing else."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def loadNewSession(self, username: str) -> str:
        key = secrets.token_urlsafe(16)
        self.put(key, {"username": username, "createdAt": time.time(), "data": None})
        return key

    def put(self, key: str, session: dict[str, Any]) -> None:
        self.cache[key] = session

    def checkSessionStatus(self, key: str) -> bool:
        return key in self.cache

    def restartSessionTimer(self, key: str) -> bool:
        session = self.cache.get(key)
        if session is None:
            return False
        self.put(key, session)
        return True

    def getUsernameFromSessionKey(self, key: str) -> Any:
        session = self.cache.get(key)
        return False if session is None else session["username"]

    def getSessionDetails(self, key: str) -> Any:
        session = self.cache.get(key)
        return False if session is None else dict(session)

    def setSessionData(self, key: str, data: Any) -> bool:
        session = self.cache.get(key)
        if session is None:
            return False
        session["data"] = data
        return True

    def getSessionData(self, key: str) -> Any:
        session = self.cache.get(key)
        return False if session is None else session["data"]

    def deleteSession(self, key: str) -> bool:
        return self.cache.pop(key, None) is not None

    def deleteAllSessions(self) -> bool:
        self.cache.clear()
        return True

    def getLoggedUsers(self) -> list[str]:
        return [session["username"] for session in self.cache.values()]


TIMEOUT = 86400
"""Longer than any run: a session that runs out meanwhile would be a wrong result."""


def dictionary() -> Any:
    return CacheSessions({})


def cachetools() -> Any:
    from cachetools import TTLCache

    return CacheSessions(TTLCache(10_000_000, TIMEOUT))


def cacheout() -> Any:
    from cacheout import Cache

    class CacheoutSessions(CacheSessions):
        def put(self, key: str, session: dict[str, Any]) -> None:
            self.cache.set(key, session)

        def deleteSession(self, key: str) -> bool:
            return self.cache.delete(key) == 1

        def listen(self, listener: Callable[..., Any] | None) -> None:
            self.cache.on_set = self.cache.on_delete = listener

    return CacheoutSessions(Cache(maxsize=10_000_000, ttl=TIMEOUT, timer=time.monotonic))


def flask_session(url: str) -> Any:
    from datetime import timedelta

    from .flask_sessions import FlaskSessions

    return FlaskSessions(url, timedelta(seconds=TIMEOUT))


def locked(sessions: Any) -> Any:
    """What is not safe under several threads, behind one lock."""
    lock = threading.Lock()

    def guard(method: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any) -> Any:
            with lock:
                return method(*args)

        return guarded

    class Locked:
        def __getattr__(self, name: str) -> Any:
            return guard(getattr(sessions, name))

    return Locked()


MAKERS: dict[str, Callable[..., Any]] = {
    "ours": ours,
    "plain": plain,
    "dictionary": dictionary,
    "cachetools": cachetools,
    "cacheout": cacheout,
    "ours-redis": ours_on_redis,
    "flask-session": flask_session,
}
