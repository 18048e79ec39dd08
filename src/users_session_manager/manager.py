"""SessionManager: the npm package's API, and the events."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from .errors import SessionError, SessionRejected
from .events import IsolatedEmitter
from .keys import label, new_key
from .log import log
from .session import Session
from .stores.base import Store
from .stores.memory import MemoryStore
from .timers import LONGEST, SessionTimer

# Guards the making and the freeing of the one instance. Re-entrant, as the store's lock is and for the same reason.
_lock: Final = threading.RLock()
_instance: SessionManager | None = None


class _Singleton(type):
    """Makes one instance for the process; a call after that returns it."""

    def __call__(cls, *, store: str | Store | None = None) -> Any:
        global _instance
        with _lock:
            if _instance is None:
                _instance = super().__call__(store=store)
            elif not isinstance(_instance, cls):
                raise SessionError(f"the one SessionManager is a {type(_instance).__name__}: close() it first")
            elif store is not None and store != _instance._named_store:
                raise SessionError("the first SessionManager() has chosen the store; this one names another")
            return _instance


class SessionManager(IsolatedEmitter, metaclass=_Singleton):
    """Tells who is logged in, and logs people out the moment their session ends. One for the whole process.

    `store` says where sessions are kept: `None` for this process' memory, or a ready `Store`. The first construction
    decides; a later one that names another store is a `SessionError`.

    A method that takes a key rejects one that is unknown or has run out, and anything that is no key at all: it emits
    `error` with a `SessionRejected` and `{"key": key}`, and returns `False`. An `error` that nobody listens to is
    raised.

    | event | when |
    |---|---|
    | `sessionCreated(key)` | after a login |
    | `sessionDeleted(key)` | a session was deleted or ran out: exactly once for each |
    | `activeUserDeleted(key)` | after each `sessionDeleted` |
    | `sessionEnded(session, reason)` | after each `activeUserDeleted`: the `Session` that has ended, and \
    `"deleted"` or `"expired"` |
    | `notifyClientToLogout(io, key)` | with a socket reference alone: before the `sessionDeleted` of a session that \
    ran out, after it in `deleteAllSessions`, and by `sendLogoutMessage` |
    | `sessionRejected(key)` | before the `error` of a rejection; who listens to it alone still gets the exception |
    | `error(exception, details)` | a rejection; a listener that failed |

    Threads: any thread may call any method, listeners included, since no lock is held while they run. Listeners run on
    the thread of the call, or on the store's when a session runs out.
    """

    MIN_SESSION_TIMEOUT = 2
    """The shortest timeout `setSessionTimeOut` takes, in seconds."""

    def __init__(self, *, store: str | Store | None = None) -> None:
        super().__init__()
        self.settings: dict[str, float] = {"SESSION_TIMEOUT": 3000}
        self._io: Any = None
        self._named_store = store
        self._store = _open_store(store)
        self._store.open(self._session_ran_out)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {len(self.sessions)} sessions>"

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The sessions by key; a `dict` in the memory store. To look at: the methods are what changes them.

        A session that ran out a moment ago may still stand here; `checkSessionStatus` is what decides.
        """
        return self._store.sessions

    @property
    def blocking(self) -> bool:
        """Whether a method may wait for something outside the process; then an event loop leaves it to a thread."""
        return self._store.blocking

    # Sessions

    def loadNewSession(self, username: str) -> str:
        """Make a session for `username`, start its timer, emit `sessionCreated(key)`, and return the key.

        Call it after a successful login. Raises `TypeError` for anything but a `str` and `ValueError` for an empty one.
        """
        if not isinstance(username, str):
            raise TypeError(f"username must be a non-empty str, got {type(username).__name__}")
        if not username:
            raise ValueError("username must be a non-empty str, got ''")
        key = new_key()
        self._store.add(key, username, self.settings["SESSION_TIMEOUT"])
        self._say("Session created", key)
        self.emit("sessionCreated", key)
        return key

    addSession = loadNewSession

    def checkSessionStatus(self, key: object) -> bool:
        """Tell whether the session is alive, to the instant; `False` after an `error` event. Prolongs nothing."""
        return self._store.get(key) is not None or self._reject(key)

    def restartSessionTimer(self, key: object) -> bool:
        """Begin the full timeout again, with the length that is set now. `True`, or `False` after an `error` event."""
        return self._store.restart(key, self.settings["SESSION_TIMEOUT"]) or self._reject(key)

    def getUsernameFromSessionKey(self, key: object) -> str | Literal[False]:
        """Return the username of a live session, else `False`; as in npm, without an `error` event."""
        session = self._store.get(key)
        return False if session is None else session.username

    def getSessionDetails(self, key: object) -> dict[str, Any] | Literal[False]:
        """Return `{"username", "createdAt", "data"}`, or `False` after an `error` event.

        `createdAt` is Unix time in seconds; `data` is `None` until it is set.
        """
        session = self._store.get(key)
        if session is None:
            return self._reject(key)
        return {"username": session.username, "createdAt": session.createdAt, "data": session.data}

    def setSessionData(self, key: object, data: Any) -> bool:
        """Keep `data` with the session, in place of what was there. `True`, or `False` after an `error` event."""
        return self._store.set_data(key, data) or self._reject(key)

    def getSessionData(self, key: object) -> Any:
        """Return what `setSessionData` kept, `None` until then; `False` after an `error` event."""
        session = self._store.get(key)
        return self._reject(key) if session is None else session.data

    def getSessionTimeLeft(self, key: object) -> float | Literal[False]:
        """Return the seconds until the session runs out, or `False` after an `error` event. Prolongs nothing."""
        left = self._store.time_left(key)
        return self._reject(key) if left is None else left

    def getLoggedUsers(self) -> list[str]:
        """Return one username a live session, in the order of creation: a user with two sessions stands twice."""
        return self._store.usernames()

    def deleteSession(self, key: object) -> bool:
        """Log out: end the session and emit `sessionDeleted(key)`. `True`, or `False` after an `error` event."""
        session = self._store.remove(key)
        if session is None:
            return self._reject(key)
        self._say("Session deleted", session.key)
        self._announce_end(session, "deleted")
        return True

    def deleteAllSessions(self) -> Literal[True]:
        """Log everyone out: for each session emit `sessionDeleted(key)`, then `notifyClientToLogout(io, key)`.

        All of them have ended before the first event. With none there is nothing to emit, and it is `True` too.
        """
        ended = iter(self._store.clear())
        try:
            self._announce_deleted(ended)
        finally:  # what is no Exception passes, and the rest have ended all the same
            self._announce_deleted(ended)
        return True

    # Time

    def setSessionTimeOut(self, seconds: float) -> bool:
        """Set the timeout of the sessions started or restarted from now on, in seconds; tell whether it was taken.

        Taken is a finite `int` or `float`, no `bool`, of at least `MIN_SESSION_TIMEOUT` and at most
        `threading.TIMEOUT_MAX`, which is what a timer can hold. Anything else changes nothing.
        """
        taken = (
            isinstance(seconds, (int, float))
            and not isinstance(seconds, bool)
            and self.MIN_SESSION_TIMEOUT <= seconds <= LONGEST
        )
        if taken:
            self.settings["SESSION_TIMEOUT"] = seconds
        return taken

    def getSessionTimeout(self) -> float:
        """Return the timeout in seconds; 3000 unless set."""
        return self.settings["SESSION_TIMEOUT"]

    getSessionTimeOut = getSessionTimeout

    def createNewSessionTimer(self, key: object, username: str) -> SessionTimer:
        """Give the session a new timer, started with the full timeout, in place of the old one; return it.

        It ends that session when it runs out. The `username` is for the log. Without a live session of that key the
        timer runs too, and ends nothing.
        """
        timer: SessionTimer = self._store.renew_timer(key, self.settings["SESSION_TIMEOUT"])
        if log.isEnabledFor(logging.DEBUG):
            log.debug("Timer of %s s started for %r: %s", timer.interval, username, label(key))
        return timer

    # Sockets

    def initSocketReference(self, io: Any) -> Literal[True]:
        """Keep `io`, any object, as the socket reference that `notifyClientToLogout` carries; `None` takes it back."""
        self._io = io
        return True

    initSocketReferences = initSocketReference

    def getSocketReference(self) -> Any:
        """Return the socket reference, or `None`."""
        return self._io

    def sendLogoutMessage(self, key: str) -> bool:
        """Emit `notifyClientToLogout(io, key)` if there is a socket reference; tell whether there is. Ends nothing."""
        io = self._io
        if io is None:
            return False
        self.emit("notifyClientToLogout", io, key)
        return True

    def close(self) -> None:
        """End the clock, let go of the store, and free the singleton: the next `SessionManager()` is a new one.

        Sessions in memory are gone, without an event; their keys are rejected. Twice is harmless.
        """
        global _instance
        with _lock:
            if _instance is self:
                _instance = None
        self._store.close()

    def _session_ran_out(self, session: Session) -> None:
        self._say("Session expired", session.key)
        self.sendLogoutMessage(session.key)
        self._announce_end(session, "expired")

    def _announce_deleted(self, ended: Iterator[Session]) -> None:
        for session in ended:
            self._say("Session deleted", session.key)
            self._announce_end(session, "deleted")
            self.sendLogoutMessage(session.key)

    def _announce_end(self, session: Session, reason: Literal["deleted", "expired"]) -> None:
        self.emit("sessionDeleted", session.key)
        self.emit("activeUserDeleted", session.key)
        self.emit("sessionEnded", session, reason)

    def _reject(self, key: object) -> Literal[False]:
        self._say("Session rejected", key)
        self.emit("sessionRejected", key)
        self.emit("error", SessionRejected(), {"key": key})
        return False

    def _say(self, what: str, key: object) -> None:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: %s", what, label(key))


def _open_store(store: str | Store | None) -> Store:
    if store is None:
        return MemoryStore()
    if isinstance(store, str):
        # The rest of an address may hold a password.
        raise ValueError(f"store must be None or a Store; there is none for {store.partition(':')[0][:20]!r} addresses")
    if not callable(getattr(store, "open", None)):
        raise TypeError(f"store must be None or a Store, got {type(store).__name__}")
    return store


def _after_fork_in_child() -> None:
    if _instance is not None:
        _instance._revive()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)
