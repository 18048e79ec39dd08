"""SessionManager: the npm package's API, what goes beyond it, and the events."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from logging import DEBUG
from typing import Any, Final, Literal

from .at_hand import HasAtHand, quick
from .errors import SessionError, SessionRejected
from .events import IsolatedEmitter
from .keys import label
from .log import log
from .policy import PolicySettings, require_seconds, require_timeout
from .session import Reason, Session
from .stores.base import Store
from .stores.memory import MemoryStore
from .timers import SessionTimer

_is_logged: Final = log.isEnabledFor

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


class SessionManager(HasAtHand, PolicySettings, IsolatedEmitter, metaclass=_Singleton):
    """Tells who is logged in, and logs people out the moment their session ends. One for the whole process.

    `store` says where sessions are kept: `None` for this process' memory, the address of a Redis or Valkey
    (`redis://`, `rediss://`, `unix://`) that any number of processes share, or a ready `Store`. The first construction
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
    `"deleted"`, `"expired"` or `"evicted"` |
    | `sessionRenewed(oldKey, newKey)` | a session has another key |
    | `sessionExpiring(key, secondsLeft)` | a session is about to run out, see `setExpiryWarning`; once a countdown |
    | `notifyClientToLogout(io, key)` | with a socket reference alone: before the `sessionDeleted` of a session that \
    ran out, after that of one ended by `deleteAllSessions`, by `deleteUserSessions` or to make room, and by \
    `sendLogoutMessage` |
    | `sessionRejected(key)` | before the `error` of a rejection; who listens to it alone still gets the exception |
    | `error(exception, details)` | a rejection; a listener that failed |

    Threads: any thread may call any method, listeners included, since no lock is held while they run. Listeners run on
    the thread of the call, or on the store's when a session runs out.
    """

    def __init__(self, *, store: str | Store | None = None) -> None:
        super().__init__()
        self._io: Any = None
        self._named_store = store
        self._store = _open_store(store)
        at_hand: object = self._store.at_hand
        self._at_hand = at_hand if at_hand is self._store else None  # what wraps a store is to be asked
        self._store.open(self._session_ended, self._session_expires)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._store!r}>"

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

    def loadNewSession(self, username: str, *, data: Any = None, timeout: float | None = None) -> str:
        """Make a session for `username`, start its timer, emit `sessionCreated(key)`, and return the key.

        Call it after a successful login. `data` is kept with it as by `setSessionData`; `timeout` is an idle timeout of
        this session alone, in seconds, in place of the manager's ("remember me"). Sessions that have to make room for
        it, see `setMaxSessionsPerUser`, end first.

        Raises `TypeError` for anything but a `str` and `ValueError` for an empty one, the same for a `timeout` that
        `setSessionTimeOut` would not take, and `TooManySessions`; then there is no session.
        """
        if not isinstance(username, str) or not username:
            _require_username(username)
        if timeout is None:
            key, evicted = self._store.add(username, self.settings["SESSION_TIMEOUT"], self._policy, data)
        else:
            require_timeout("the timeout of a session", timeout)
            key, evicted = self._store.add(username, timeout, self._policy, data, own_timeout=True)
        if evicted:
            self._announce_all(evicted, "evicted")
        if _is_logged(DEBUG):
            _say("Session created", key)
        if "sessionCreated" in self._heard:
            self.emit("sessionCreated", key)
        return key

    addSession = loadNewSession

    @quick
    def checkSessionStatus(self, key: object) -> bool:
        """Tell whether the session is alive, to the instant; `False` after an `error` event. Prolongs nothing."""
        try:
            session = self._at_hand.sessions[key]
            if session._deadline > self._at_hand.now():
                return True
        except Exception:  # noqa: BLE001  # see `Store.at_hand`
            pass
        return self._store.get(key) is not None or self._reject(key)

    @quick
    def restartSessionTimer(self, key: object) -> bool:
        """Begin the full timeout again, with the length that is set now. `True`, or `False` after an `error` event.

        A session with a timeout of its own begins that again; the lifetime goes on.
        """
        session = self._store.restart(key, self.settings["SESSION_TIMEOUT"], self._policy)
        return session is not None or self._reject(key)

    @quick
    def resumeSession(self, key: object) -> Session | Literal[False]:
        """Do what `restartSessionTimer` does and return the `Session`, or `False` after an `error` event.

        One question to the store in place of two: what a guard asks for each request.
        """
        session = self._store.restart(key, self.settings["SESSION_TIMEOUT"], self._policy)
        return self._reject(key) if session is None else session

    @quick
    def getSession(self, key: object) -> Session | Literal[False]:
        """Return the `Session`, or `False` after an `error` event. Prolongs nothing."""
        session = self._store.get(key)
        return self._reject(key) if session is None else session

    @quick
    def findSession(self, key: object) -> Session | None:
        """Return the live `Session`, or `None`: `getSession` for who only wants to know, without an `error` event."""
        return self._store.get(key)

    @quick
    def getUsernameFromSessionKey(self, key: object) -> str | Literal[False]:
        """Return the username of a live session, else `False`; as in npm, without an `error` event."""
        try:
            session = self._at_hand.sessions[key]
            if session._deadline > self._at_hand.now():
                return session.username  # type: ignore[no-any-return]
        except Exception:  # noqa: BLE001  # see `Store.at_hand`
            pass
        session = self._store.get(key)
        return False if session is None else session.username

    @quick
    def getSessionDetails(self, key: object) -> dict[str, Any] | Literal[False]:
        """Return `{"username", "createdAt", "data"}`, or `False` after an `error` event.

        `createdAt` is Unix time in seconds; `data` is `None` until it is set.
        """
        try:
            session = self._at_hand.sessions[key]
            if session._deadline > self._at_hand.now():
                return {"username": session.username, "createdAt": session.createdAt, "data": session.data}
        except Exception:  # noqa: BLE001  # see `Store.at_hand`
            pass
        session = self._store.get(key)
        if session is None:
            return self._reject(key)
        return {"username": session.username, "createdAt": session.createdAt, "data": session.data}

    @quick
    def setSessionData(self, key: object, data: Any) -> bool:
        """Keep `data` with the session, in place of what was there. `True`, or `False` after an `error` event."""
        try:
            session = self._at_hand.sessions[key]
            if session._deadline > self._at_hand.now():
                session.data = data
                return True
        except Exception:  # noqa: BLE001  # see `Store.at_hand`
            pass
        return self._store.set_data(key, data) or self._reject(key)

    @quick
    def getSessionData(self, key: object) -> Any:
        """Return what `setSessionData` kept, `None` until then; `False` after an `error` event."""
        try:
            session = self._at_hand.sessions[key]
            if session._deadline > self._at_hand.now():
                return session.data
        except Exception:  # noqa: BLE001  # see `Store.at_hand`
            pass
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
        store = self._store
        session = store.remove(key)
        if session is None:
            return self._reject(key)
        try:
            self._announce_end(session, "deleted")
        finally:
            if store.acknowledge is not None:
                store.acknowledge((session,))
        return True

    def deleteAllSessions(self) -> Literal[True]:
        """Log everyone out: for each session emit `sessionDeleted(key)`, then `notifyClientToLogout(io, key)`.

        All of them have ended before the first event. With none there is nothing to emit, and it is `True` too
        (OWASP ASVS 5.0, 7.4.5).
        """
        self._announce_all(self._store.clear(), "deleted")
        return True

    # The sessions of one user

    def getUserSessions(self, username: str) -> list[dict[str, Any]]:
        """Return the details of a user's live sessions, oldest first; an empty list without any.

        Each is `{"key", "username", "createdAt", "authenticatedAt", "data", "timeLeft"}`: times are Unix times and
        seconds. The `key` is for `deleteSession`; show the part before the underscore alone (OWASP ASVS 5.0, 7.5.2).
        In memory, the first question of a process about a user looks at every session once; those after it do not.
        `TypeError` and `ValueError` as in `loadNewSession`.
        """
        _require_username(username)
        names = ("key", "username", "createdAt", "authenticatedAt", "data")
        return [
            {name: getattr(session, name) for name in names} | {"timeLeft": left}
            for session, left in self._store.of_user(username)
        ]

    def deleteUserSessions(self, username: str, exceptKey: object = None) -> int:
        """Log a user out everywhere, or everywhere but in the session of `exceptKey`; return how many sessions ended.

        With the events of `deleteAllSessions`. Call it when an account is disabled and when a password is changed
        (OWASP ASVS 5.0, 7.4.2, 7.4.3). An `exceptKey` that is not that of a live session of the user spares none.
        `TypeError` and `ValueError` as in `loadNewSession`.
        """
        _require_username(username)
        ended = self._store.remove_user(username, exceptKey)
        self._announce_all(ended, "deleted")
        return len(ended)

    def renewSessionKey(self, key: object, overlap: float = 0) -> str | Literal[False]:
        """Give the session a new key, emit `sessionRenewed(oldKey, newKey)`, and return it; `False` after an `error`.

        Call it after a re-authentication and a change of privileges (OWASP ASVS 5.0, 7.2.4). The old key is rejected at
        once, or after `overlap` seconds, so that requests that are under way survive; so are the keys before it. Until
        then they are as good as the new one: keep that short. `createdAt` and the deadlines stay, `authenticatedAt` is
        now. `TypeError` or `ValueError` for an `overlap` that is no number of seconds; then nothing changes.
        """
        require_seconds("the overlap", overlap)
        keys = self._store.renew_key(key, overlap)
        if keys is None:
            return self._reject(key)
        _say("Session key renewed", keys[0])
        self.emit("sessionRenewed", *keys)
        return keys[1]

    # Timers

    def createNewSessionTimer(self, key: object, username: str) -> SessionTimer:
        """Give the session a new timer, started with the full timeout, in place of the old one; return it.

        It ends that session when it runs out. The `username` is for the log. Without a live session of that key the
        timer runs too, and ends nothing.
        """
        timer: SessionTimer = self._store.renew_timer(key, self.settings["SESSION_TIMEOUT"], self._policy)
        if _is_logged(DEBUG):
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

    def _session_ended(self, session: Session, reason: Reason) -> None:
        self.sendLogoutMessage(session.key)
        self._announce_end(session, reason)

    def _session_expires(self, session: Session, left: float) -> None:
        _say("Session expiring", session.key)
        self.emit("sessionExpiring", session.key, left)

    def _announce_all(self, ended: Sequence[Session], reason: Reason) -> None:
        rest = iter(ended)
        try:
            self._announce_each(rest, reason)
        finally:  # what is no Exception passes, and the rest have ended all the same
            self._announce_each(rest, reason)
            if self._store.acknowledge is not None:
                self._store.acknowledge(ended)

    def _announce_each(self, ended: Iterator[Session], reason: Reason) -> None:
        for session in ended:
            self._announce_end(session, reason)
            self.sendLogoutMessage(session.key)

    def _announce_end(self, session: Session, reason: Reason) -> None:
        if _is_logged(DEBUG):
            _say(f"Session {reason}", session.key)
        heard = self._heard
        if "sessionDeleted" in heard:
            self.emit("sessionDeleted", session.key)
        if "activeUserDeleted" in heard:
            self.emit("activeUserDeleted", session.key)
        if "sessionEnded" in heard:
            self.emit("sessionEnded", session, reason)

    def _reject(self, key: object) -> Literal[False]:
        _say("Session rejected", key)
        self.emit("sessionRejected", key)
        self.emit("error", SessionRejected(), {"key": key})
        return False


def _say(what: str, key: object) -> None:
    if _is_logged(DEBUG):
        log.debug("%s: %s", what, label(key))


def _require_username(username: object) -> None:
    if not isinstance(username, str):
        raise TypeError(f"username must be a non-empty str, got {type(username).__name__}")
    if not username:
        raise ValueError("username must be a non-empty str, got ''")


def _open_store(store: str | Store | None) -> Store:
    if store is None:
        return MemoryStore()
    if isinstance(store, str):
        scheme = store.partition(":")[0]
        if scheme not in ("redis", "rediss", "unix"):
            # The rest of an address may hold a password.
            raise ValueError(f"store must be a Store or the address of a Redis, got one of {scheme[:20]!r}")
        from .stores.redis import RedisStore  # an extra, for those alone who name it

        return RedisStore.from_url(store)
    if not callable(getattr(store, "open", None)):
        raise TypeError(f"store must be None, an address or a Store, got {type(store).__name__}")
    return store


def _after_fork_in_child() -> None:
    if _instance is not None:
        _instance._revive()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)
