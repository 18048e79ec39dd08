"""SessionManager: the npm package's API, what goes beyond it, and the events."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from logging import DEBUG
from typing import Any, Final, Literal, Protocol, TypeVar
from uuid import UUID

from .callers import caller, importing_module
from .clock import LOCK, notice_fork
from .errors import SessionError, SessionRejected
from .events import IsolatedEmitter, Pending
from .keys import label
from .log import log
from .policy import OwnLimits, Policy, PolicySettings, require_seconds, require_timeout
from .session import Reason, Session, require_stamp, require_text, user_id_of
from .stores import open_store, store_class
from .stores.base import Callbacks, Interest, Notice, Store

Found = TypeVar("Found")

_is_logged: Final = log.isEnabledFor

# The events of an end. A process without a listener for one of them leaves announcing to the others.
_ENDS: Final = ("sessionDeleted", "activeUserDeleted", "sessionEnded")
# How often `updateSessionData` calls `change`. Among a hundred threads one has a turn in a hundred.
_MAX_CHANGES: Final = 10_000

_instance: SessionManager | None = None
# Makes the store of every manager within a test, see `testing.isolation`.
_new_store: Callable[[], Store] | None = None


class Watcher(Protocol):
    """Follows the sessions that have clients in this process; see `SessionManager.addWatcher`."""

    def watched(self) -> Mapping[Any, str]:
        """Return the present keys of these sessions, as far as known, by their ids in the store."""

    def noticed(self, notice: Notice) -> object:
        """Pass a notice on. Called from any thread, with the notices of all sessions."""


class _Singleton(type):
    """Makes one instance for the process; a later call returns it."""

    def __call__(cls, *args: Any, store: str | Store | None = None, **options: Any) -> Any:
        global _instance
        if args or options:
            got = ", ".join([*(type(arg).__name__ for arg in args), *options])
            raise TypeError(f"SessionManager() takes only store=..., got {got}; call setSessionTimeOut() and the like")
        if isinstance(store, str) and _instance is None:
            store_class(store)  # imported without LOCK, since the import system has locks of its own
        notice_fork()
        with LOCK:
            if _instance is None:
                _instance = super().__call__(store=store)
            elif not isinstance(_instance, cls):
                raise SessionError(
                    f"the one SessionManager is a {type(_instance).__name__}: close() it first, see "
                    "docs/reference/errors.md"
                )
            elif store is not None and store != _instance._requested_store:
                raise SessionError(
                    f"the SessionManager made at {_instance._made_at} has chosen the store, and this one names "
                    "another: name it there, or close() that one first, see docs/how-to/production.md"
                )
            return _instance


class SessionManager(PolicySettings, IsolatedEmitter, metaclass=_Singleton):
    """Tracks who is logged in, and logs users out the moment their session ends. There is one for the whole process.

    Args:
        store: Where sessions are kept: `None`, the default, for this process's memory, the address of a Redis or Valkey
            (`redis://`, `rediss://`, `unix://`) that any number of processes share, or a ready `Store`. The first
            construction decides; a later one that names another store is a `SessionError`.

    A key that is unknown or expired, or no key at all, is rejected: `sessionRejected` and `error` are emitted. Then the
    npm package's methods return `False`, or, without an `error` listener, raise `SessionRejected`. All other methods
    but `findSession` raise it in any case, so that a listener that only logs cannot open a guard.

    | event | when |
    |---|---|
    | `sessionCreated(key)` | after a login |
    | `sessionDeleted(key)` | a session was deleted or expired: exactly once for each |
    | `activeUserDeleted(key)` | after each `sessionDeleted` |
    | `sessionEnded(session, reason)` | after each `activeUserDeleted`: the `Session` that has ended, and \
    `"deleted"`, `"expired"` or `"evicted"` |
    | `sessionRenewed(oldKey, newKey)` | a session has a new key |
    | `sessionExpiring(key, secondsLeft)` | a session is about to expire, see `setExpiryWarning`; once per countdown |
    | `notifyClientToLogout(io, key)` | only with a socket reference: before the `sessionDeleted` of a session that \
    expired, after that of one ended by `deleteAllSessions`, by `deleteUserSessions` or evicted, and by \
    `sendLogoutMessage` |
    | `sessionRejected(key)` | before the `error` of a rejection |
    | `error(exception, details)` | a rejection: a `SessionRejected` and `{"key": key}` |
    | `listenerFailed(exception, event, listener)` | a listener raised an exception |

    Threads: any thread may call any method, listeners included, since no lock is held while they run. Listeners run on
    the thread of the call, or on the store's when a session expires.
    """

    def __init__(self, *, store: str | Store | None = None) -> None:
        _warn_of_import()
        super().__init__()
        self._io: Any = None
        self._watchers: list[Watcher] = []
        self._followers: list[Callable[[Notice], object]] = []
        self._is_open = True  # then it is the singleton
        self._has_warned = False  # whether the log says that async listeners have no loop
        self._made_at = caller()
        self._requested_store = store
        requested = open_store(store)
        self._open(requested if _new_store is None else _new_store())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._store!r}>"

    # The callables that undo changes at the end of a test; `None` outside of one.
    _to_undo: list[Callable[[], object]] | None = None

    def _open(self, store: Store) -> None:
        self._opened_store = store
        callbacks = (self._session_ended, self._session_expires, self._noticed, self._interest, self._watched)
        store.open(Callbacks(*callbacks, on_change=self._changed))

    @property
    def _store(self) -> Store:
        notice_fork()  # each method comes this way
        return self._opened_store

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The sessions by key, to read; a `dict` in the memory store.

        A session that has just expired may still be in it; `checkSessionStatus` decides.
        """
        return self._store.sessions

    @property
    def blocking(self) -> bool:
        """Whether a method may wait for something outside the process, so that an event loop leaves it to a thread."""
        return self._store.blocking

    def serve(self) -> None:
        """Begin to announce what expires, and to notify clients: this process serves users.

        The first sign-in, guarded request or connected client does this by itself; `loadNewSession`, `resumeSession`
        and `restartSessionTimer` count as such. Call it in a process that only listens, such as one that writes an
        audit log. In a shared store, a process that does not serve takes no announcement away from those that do: a
        shell, a cron job, the parent of a reloader, the master of gunicorn. Calling it twice is harmless.
        """
        self._store.serve()

    def stop(self) -> None:
        """Stop threads and connections, as at the end of a server; `close` ends the manager for good.

        Sessions, listeners and settings stay, and the next call starts again what it needs. What this process has to
        announce is handed to others. Calling it twice is harmless.
        """
        self._store.stop()

    # Sessions

    def loadNewSession(
        self,
        username: str,
        *,
        data: Any = None,
        timeout: float | None = None,
        lifetime: float | None = None,
        userId: str | int | UUID | None = None,
        securityStamp: str | None = None,
    ) -> str:
        """Create a session after a successful login, start its timer, and emit `sessionCreated(key)`.

        Sessions that have to make room for it, see `setMaxSessionsPerUser`, end first.

        Args:
            username: A non-empty `str`; what is shown.
            data: What is stored with it, as by `setSessionData`; `None` by default.
            timeout: An idle timeout of this session alone, in seconds, in place of the manager's ("remember me").
            lifetime: A lifetime of this session alone, in seconds, in place of that of `setMaxSessionLifetime`.
            userId: Whose session it is, if usernames can change: a non-empty `str`, an `int` or a `UUID`, kept as
                `str`. `setMaxSessionsPerUser` and the methods of one user go by it. `None`, the default, for the
                username.
            securityStamp: A `str` that represents the user's credentials and changes when they change, such as a digest
                of the hash of the password. It is only kept, as `Session.securityStamp`: compare it with the present
                one to refuse sessions from before a change. `None`, the default, for none.

        Returns:
            The session key.

        Raises:
            TypeError, ValueError: For another `username`, `userId` or `securityStamp`, for a `timeout` or a `lifetime`
                that `setSessionTimeOut` does not accept, and for what the store cannot hold; then there is no session.
            TooManySessions: See `setMaxSessionsPerUser`.
        """
        return self._load_session(self._policy, username, data, timeout, lifetime, userId, securityStamp)

    addSession = loadNewSession

    def _load_uncapped_session(self, username: str, **options: Any) -> str:
        """As `loadNewSession`, whatever `setMaxSessionsPerUser` says: for a login that was let in before."""
        return self._load_session(self._policy._replace(max_sessions=None), username, **options)

    def _load_session(
        self,
        policy: Policy,
        username: str,
        data: Any = None,
        timeout: float | None = None,
        lifetime: float | None = None,
        userId: str | int | UUID | None = None,
        securityStamp: str | None = None,
    ) -> str:
        require_text("username", username)
        user_id = None if userId is None else user_id_of(userId)
        require_stamp(securityStamp)
        if timeout is not None:
            require_timeout("the timeout of a session", timeout)
        if lifetime is not None:
            require_timeout("the lifetime of a session", lifetime)
        own, idle = OwnLimits(timeout, lifetime), self.settings["SESSION_TIMEOUT"]
        key, evicted = self._store.add(username, idle, policy, data, own, user_id, securityStamp)
        if evicted:
            self._announce_all(evicted, "evicted", "ended")
        _debug("Session created", key)
        if self._followers and not self._store.sends_notices and (session := self._store.get(key)) is not None:
            self._changed(Notice("created", session._id, key))
        self.emit("sessionCreated", key)
        return key

    def checkSessionStatus(self, key: object) -> bool:
        """Return whether the session is alive, to the instant; `False` after an `error` event. Prolongs nothing."""
        return self._store.get(key) is not None or self._reject(key)

    def restartSessionTimer(self, key: object) -> bool:
        """Restart the full timeout, with the length that is set now; `True`, or `False` after an `error` event.

        A session with a timeout of its own restarts that. No restart prolongs the lifetime.
        """
        return self._resume(key) is not None or self._reject(key)

    def resumeSession(self, key: object) -> Session:
        """Restart the session's timeout, as `restartSessionTimer` does, and return the `Session`.

        This is what a guard calls for each request: one question to the store in place of two.

        Raises:
            SessionRejected: There is no live session of that key.
        """
        return self._require(self._resume(key), key)

    def _resume(self, key: object) -> Session | None:
        """Restart the session's timeout and return it, or `None` without any event."""
        return self._store.restart(key, self.settings["SESSION_TIMEOUT"], self._policy)

    def getSession(self, key: object) -> Session:
        """Return the `Session`. Prolongs nothing.

        Raises:
            SessionRejected: There is no live session of that key.
        """
        return self._require(self._store.get(key), key)

    def findSession(self, key: object) -> Session | None:
        """Return the live `Session`, or `None` without any event. Prolongs nothing."""
        return self._store.get(key)

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
        """Store `data` with the session, in place of what was there; `True`, or `False` after an `error` event."""
        return self._store.set_data(key, data) or self._reject(key)

    def updateSessionData(self, key: object, change: Callable[[Any], Any]) -> Any:
        """Store what `change(data)` returns with the session, so that no simultaneous change is lost.

            >>> manager.updateSessionData(key, lambda cart: [*(cart or []), "lasagne"])

        Args:
            key: The key of a live session.
            change: Is called with a copy of the data, `None` until it is set, and returns the new data; it may change
                the copy in place and return that. It is called again if the data was changed in the meantime, so it
                should do nothing else. No lock is held while it runs. In memory the data must be what `copy.deepcopy`
                can copy.

        Returns:
            The new data.

        Raises:
            TypeError, ValueError: `change` is not callable, or the store cannot hold what it has returned.
            SessionRejected: There is no live session of that key, or it has ended while `change` ran.
            SessionError: `change` itself changes the data of this session each time it is called.

        What `change` raises passes through, and nothing has changed.
        """
        if not callable(change):
            raise TypeError(f"change must be callable, got {type(change).__name__}")
        calls = count(1)

        def counted(data: Any) -> Any:
            if next(calls) > _MAX_CHANGES:
                raise SessionError(
                    "the data was changed each time while `change` ran: let it return the new data, and change "
                    "nothing itself, see docs/reference/errors.md"
                )
            return change(data)

        is_live, data = self._store.update_data(key, counted)
        return data if is_live else self._require(None, key)

    def getSessionData(self, key: object) -> Any:
        """Return what `setSessionData` stored, `None` until then; `False` after an `error` event."""
        session = self._store.get(key)
        return self._reject(key) if session is None else session.data

    def getSessionTimeLeft(self, key: object) -> float:
        """Return the seconds until the session expires. Prolongs nothing.

        Raises:
            SessionRejected: There is no live session of that key.
        """
        return self._require(self._store.time_left(key), key)

    def getLoggedUsers(self) -> list[str]:
        """Return one username per live session, in the order of creation; a user with two sessions appears twice."""
        return self._store.usernames()

    def deleteSession(self, key: object) -> bool:
        """Log out: end the session and emit `sessionDeleted(key)`. `True`, or `False` after an `error` event."""
        session = self._store.remove(key)
        if session is None:
            return self._reject(key)
        self._announce_all([session], "deleted", "deleted")
        return True

    def deleteAllSessions(self) -> Literal[True]:
        """Log everyone out: for each session emit `sessionDeleted(key)`, then `notifyClientToLogout(io, key)`.

        All of them have ended before the first event. Without any session nothing is emitted, and the answer is `True`
        as well (OWASP ASVS 5.0, 7.4.5).
        """
        self._announce_all(self._store.clear(), "deleted", "ended")
        return True

    def _forget_all(self) -> None:
        """End all sessions without an event or a notice; settings and listeners stay. For runs of tests."""
        self._store.clear(silent=True)

    # The sessions of one user

    def getUserSessions(self, user: str | int | UUID) -> list[dict[str, Any]]:
        """Return the details of a user's live sessions, oldest first; an empty list without any.

        The first call in a process looks at every session in memory once; later calls do not.

        Args:
            user: The user id, as for `loadNewSession`; that is the username unless one was given there.

        Returns:
            Dictionaries of `"key"`, `"username"`, `"userId"`, `"createdAt"`, `"authenticatedAt"`, `"data"` and
            `"timeLeft"`: times are Unix times and seconds. The `key` is for `deleteSession`; show only the part before
            the underscore (OWASP ASVS 5.0, 7.5.2).

        Raises:
            TypeError, ValueError: `user` is no user id.
        """
        names = ("key", "username", "userId", "createdAt", "authenticatedAt", "data")
        return [
            {name: getattr(session, name) for name in names} | {"timeLeft": left}
            for session, left in self._store.of_user(user_id_of(user))
        ]

    def deleteUserSessions(self, user: str | int | UUID, exceptKey: object = None) -> int:
        """Log a user out everywhere, or everywhere but in the session of `exceptKey`; with `deleteAllSessions`' events.

        Call it when an account is disabled and when a password is changed (OWASP ASVS 5.0, 7.4.2, 7.4.3).

        Args:
            user: The user id, as for `getUserSessions`.
            exceptKey: The key of the session to spare. One that is not that of a live session of this user spares none.

        Returns:
            How many sessions ended.

        Raises:
            TypeError, ValueError: `user` is no user id.
        """
        ended = self._store.remove_user(user_id_of(user), exceptKey)
        self._announce_all(ended, "deleted", "ended")
        return len(ended)

    def _end_stale_sessions(
        self, user_id: str | int | UUID, is_current: Callable[[str], bool], except_key: object = None
    ) -> int:
        """End those sessions of a user whose security stamp is not current; return how many.

        The events are those of `deleteUserSessions`. A session without a stamp stays, and so does that of `except_key`.
        """
        kept, count = self._store.get(except_key), 0
        for session, _ in self._store.of_user(user_id_of(user_id)):
            stamp = session.securityStamp
            if stamp is None or is_current(stamp) or (kept is not None and session._id == kept._id):
                continue
            ended = self._store.remove(session.key, "ended")
            if ended is not None:
                self._announce_all([ended], "deleted", "ended")
                count += 1
        return count

    def _set_security_stamp(self, key: object, stamp: str) -> bool:
        """Replace the security stamp of a session whose user has not authenticated again; return whether it is live."""
        return self._store.set_stamp(key, stamp)

    def renewSessionKey(self, key: object, overlap: float = 0, *, securityStamp: str | None = None) -> str:
        """Give the session a new key and emit `sessionRenewed(oldKey, newKey)`; `createdAt` and the deadlines stay.

        Call it after a re-authentication and a change of privileges (OWASP ASVS 5.0, 7.2.4). `authenticatedAt` is now.

        Args:
            key: The present key of the session, or a former one in its overlap.
            overlap: How many seconds the old key, and the keys before it, are still good, so that requests that are
                under way survive; 0, the default, for none. Keep it short: until then they are as good as the new one.
                At most 8 keys are in their overlap: for one more, that of the oldest ends early.
            securityStamp: Replaces that of `loadNewSession`, in the same step; `None`, the default, keeps it.

        Returns:
            The new key.

        Raises:
            TypeError, ValueError: `overlap` is no number of seconds, or `securityStamp` nothing that the store can
                hold; then nothing changes.
            SessionRejected: There is no live session of that key.
        """
        require_seconds("the overlap", overlap)
        require_stamp(securityStamp)
        old, new, session_id = self._require(self._store.renew_key(key, overlap, securityStamp), key)
        _debug("Session key renewed", old)
        # First: a listener may emit to the new room.
        if self._store.sends_notices:
            self._noticed(Notice("renewed", session_id, new))  # to the clients of this process, without a delay
        else:
            self._notify_renewal(session_id)
        self.emit("sessionRenewed", old, new)
        return new

    # Timers

    def createNewSessionTimer(self, key: object, username: str) -> threading.Timer:
        """Give the session a new timer, started with the full timeout, in place of the old one; return it.

        It ends that session when it expires. The `username` is for the log. Without a live session of that key the
        timer runs as well, and ends nothing.
        """
        timer = self._store.renew_timer(key, self.settings["SESSION_TIMEOUT"], self._policy)
        log.debug("Timer of %s s started for %r: %s", timer.interval, username, label(key))
        return timer

    # Sockets

    def initSocketReference(self, io: Any) -> Literal[True]:
        """Keep `io`, any object, as the socket reference that `notifyClientToLogout` carries; `None` removes it.

        With a shared store, each process that serves and has a reference emits `notifyClientToLogout`, whichever
        process has ended the session.
        """
        self._io = io
        self._store.interest_changed()
        return True

    initSocketReferences = initSocketReference

    def getSocketReference(self) -> Any:
        """Return the socket reference, or `None`."""
        return self._io

    def sendLogoutMessage(self, key: object) -> bool:
        """Emit `notifyClientToLogout(io, key)`; return whether this process has a socket reference.

        With a shared store, each process that serves and has one emits it, if the key is that of a live session.
        """
        self._store.send_logout(key)
        return self._io is not None

    def addWatcher(self, watcher: Watcher) -> None:
        """Pass the notices of all sessions to `watcher`, for an integration that pushes to clients of its own.

        However and wherever a session ends, `watcher.noticed(notice)` is called in each process that serves. A shared
        store may lose a notice; so it also looks every few seconds at the sessions in `watcher.watched()`, and sends
        the notices that are missing.
        """
        _warn_of_import()
        self._watchers = [*self._watchers, watcher]
        self._store.interest_changed()

    def removeWatcher(self, watcher: Watcher) -> None:
        """Pass no more notices to `watcher`; does nothing if it was not added."""
        self._watchers = [each for each in self._watchers if each is not watcher]
        self._store.interest_changed()

    def addFollower(self, follow: Callable[[Notice], object]) -> None:
        """Call `follow(notice)` for each session that begins or ends, for an integration that shows who is signed in.

        It is called from any thread, in each process that serves, wherever a session begins or ends. After a
        `"missed"` notice, ask `listSessions` once more.
        """
        self._followers = [*self._followers, follow]
        self._store.interest_changed()

    def removeFollower(self, follow: Callable[[Notice], object]) -> None:
        """Call `follow` no more; does nothing if it was not added."""
        self._followers = [each for each in self._followers if each != follow]
        self._store.interest_changed()

    def listSessions(self) -> Iterator[Sequence[Session]]:
        """Yield the live sessions of all users, some at a time; one that begins or ends during that may be missing.

        One session may come twice. With a shared store, a hundred thousand of them take seconds.
        """
        return self._store.pages()

    def findSessions(self, sessionIds: Sequence[Any]) -> list[Session | None]:
        """Return the sessions with these `sessionIds` in the store, `None` for one that has ended."""
        return self._store.find(sessionIds)

    def presentKeys(self, sessionIds: Sequence[Any]) -> list[str | None]:
        """Return the present keys of the sessions with these `sessionIds`, `None` for one that has ended."""
        return self._store.present_keys(sessionIds)

    def isForeign(self, key: object) -> bool:
        """Return whether a key that is rejected may be live in another process, which keeps its own sessions in memory.

        Then a framework's own session should keep the login that has this key.
        """
        return self._store.is_foreign(key)

    def close(self) -> None:
        """Stop the threads, close the store, and free the singleton: the next `SessionManager()` is a new one.

        Sessions in memory are gone, without an event; their keys are rejected. Calling it twice is harmless.
        """
        global _instance
        with LOCK:
            if _instance is self:
                _instance = None
        self._is_open = False
        self._store.close()

    def _isolate(self, store: Store) -> dict[str, Any]:
        """Keep sessions in another store from now on, for a test; return what `_restore` takes."""
        self._opened_store.stop()
        with LOCK:
            kept = {"_to_undo": None, **vars(self)}
            # The collections that are changed in place are copies, so that the old ones stay as they are.
            self._events = {event: listeners.copy() for event, listeners in self._events.items()}
            self._async_events, self.settings = {*self._async_events}, {**self.settings}
            self._tasks, self._to_undo = set(), []
            self._open(store)
        self._changed(Notice("missed", None, None))
        return kept

    def _restore(self, kept: dict[str, Any]) -> None:
        """Be as before `_isolate`, which has returned `kept`: the store, the listeners, the settings, the watchers."""
        self._opened_store.close()
        undo = self._to_undo or []
        with LOCK:
            vars(self).update(kept)
        for each in undo:
            each()
        self._changed(Notice("missed", None, None))

    # Called by the store

    def _session_ended(self, session: Session, reason: Reason) -> list[Pending]:
        self._notify(Notice("ended", session._id, session.key, reason=reason))
        return self._announce_end(session, reason)

    def _session_expires(self, session: Session, left: float) -> None:
        _debug("Session expiring", session.key)
        self.emit("sessionExpiring", session.key, left)
        self._notify(Notice("expiring", session._id, session.key, left))

    def _noticed(self, notice: Notice) -> None:
        if self._io is not None and notice.kind in ("ended", "logout"):
            self.emit("notifyClientToLogout", self._io, notice.key)
        for watcher in self._watchers:
            self._call("notice", watcher.noticed, watcher.noticed, notice)

    def _changed(self, notice: Notice) -> None:
        for follow in self._followers:
            self._call("notice", follow, follow, notice)

    def _interest(self) -> Interest:
        return Interest(
            ends=any(map(self._events.get, _ENDS)) and self._can_run_listeners(),
            warnings=bool(self._events.get("sessionExpiring")),
            notices=self._io is not None or bool(self._watchers or self._followers),
            logouts=self._io is not None and bool(self._events.get("notifyClientToLogout")),
            logins=bool(self._followers),
        )

    def _can_run_listeners(self) -> bool:
        """Return whether the listeners for ends have the event loop that they need."""
        if self._async_events.isdisjoint(_ENDS) or self._find_loop() is not None:
            return True
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "This process has async listeners for ends and knows no event loop, so it leaves announcing to "
                "others: call bindLoop() on the loop of the application; a script without one needs nothing, see "
                "docs/guide.md"
            )
        return False

    def _watched(self) -> Mapping[Any, str]:
        return {session_id: key for watcher in self._watchers for session_id, key in watcher.watched().items()}

    def _check_listener(self, event: str, listener: Any) -> None:
        _warn_of_import()
        super()._check_listener(event, listener)

    # Announcements

    def _notify(self, notice: Notice) -> None:
        if not self._store.sends_notices:
            self._noticed(notice)
            if notice.kind in ("ended", "deleted"):
                self._changed(notice)

    def _notify_renewal(self, session_id: Any) -> None:
        """Pass on the present key of a session; again if a listener or another thread has renewed it in between."""
        last = None
        while (key := self._store.present_keys([session_id])[0]) not in (None, last):
            last = key
            self._noticed(Notice("renewed", session_id, key))

    def _announce_all(self, ended: Sequence[Session], reason: Reason, kind: Literal["ended", "deleted"]) -> None:
        store, interrupt, announced = self._store, None, []
        for session in ended:
            pending = []
            try:
                if store.has_to_announce(session):
                    pending = self._announce_end(session, reason)
                self._notify(Notice(kind, session._id, session.key, reason=reason))
            except BaseException as raised:  # noqa: BLE001  # the rest have ended all the same
                interrupt = interrupt or raised
            if pending:
                store.acknowledge([session], pending)
            else:
                announced.append(session)
        store.acknowledge(announced)
        if interrupt is not None:
            raise interrupt

    def _announce_end(self, session: Session, reason: Reason) -> list[Pending]:
        """Emit the events of an end; return the async listeners that are under way."""
        _debug("Session " + reason, session.key)
        pending: list[Pending] = []
        for event in ("sessionDeleted", "activeUserDeleted"):
            if event in self._events:
                pending += self._emit(event, session.key)
        if "sessionEnded" in self._events:
            pending += self._emit("sessionEnded", session, reason)
        return pending

    def _require(self, found: Found | None, key: object) -> Found:
        """Return what the store has found for a key, or raise `SessionRejected`."""
        if found is None:
            raise self._rejection(key)
        return found

    def _rejection(self, key: object) -> SessionRejected:
        """Emit a rejection; return its exception, which an `error` without a listener raises here already."""
        _debug("Session rejected", key)
        self.emit("sessionRejected", key)
        rejection = SessionRejected()
        self.emit("error", rejection, {"key": key})
        return rejection

    def _reject(self, key: object) -> Literal[False]:
        self._rejection(key)
        return False


def _warn_of_import() -> None:
    """Warn, within a test, of a module that sets the manager up while it is being imported: no later test does that."""
    if _new_store is not None and (module := importing_module()) is not None:
        warnings.warn(
            f"{module} is imported within a test, and what it adds to the SessionManager ends with that test: "
            "import it before, at the top of a test module or of conftest.py, see docs/how-to/tests.md",
            RuntimeWarning,
            stacklevel=3,
        )


def _debug(what: str, key: object) -> None:
    if _is_logged(DEBUG):
        log.debug("%s: %s", what, label(key))
