"""Store: what `SessionManager` asks of whatever keeps its sessions."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from ..errors import SessionError
from ..policy import OwnLimits, Policy
from ..session import Reason, Session


class Notice(NamedTuple):
    """A change of a session, for each process that has clients: they get a logout whichever process announces the end.

    | kind | |
    |---|---|
    | `"ended"` | it has ended |
    | `"deleted"` | it has ended by `deleteSession`, of which npm sends no `notifyClientToLogout` |
    | `"logout"` | its clients are to be logged out, by `sendLogoutMessage` |
    | `"renewed"` | it has a new key |
    | `"expiring"` | it expires in `left` seconds |
    | `"unreachable"` | of no session: the store has not answered for some time, so any of them may have ended |
    | `"created"` | it has begun; for followers alone |
    | `"missed"` | notices of any sessions may have been lost until now; for followers alone |
    """

    kind: Literal["ended", "deleted", "logout", "renewed", "expiring", "unreachable", "created", "missed"]
    session_id: Any
    """The id of the session in its store; `None` for a key that is not that of a live session."""
    key: Any
    """The present key of the session; `None` until the `NoticeReader` of a shared store has added it."""
    left: float | None = None
    reason: Reason | None = None
    """Why the session has ended; `None` if that is not known, or it has not."""


class Interest(NamedTuple):
    """The kinds of events for which this process has listeners."""

    ends: bool = True
    warnings: bool = True
    notices: bool = False
    logouts: bool = False
    """Whether there are listeners of `notifyClientToLogout`, which need the key of every session that ends."""
    logins: bool = False
    """Whether there are followers, which need to know of every session that begins or ends."""


class Callbacks(NamedTuple):
    """The methods of the manager that its store calls.

    | callable | |
    |---|---|
    | `on_ended(session, reason)` | announces the end of a session that has expired, or that another process handed \
    on; returns the async listeners that are under way |
    | `on_expiring(session, left)` | announces that a session expires in `left` seconds |
    | `on_notice(notice)` | passes a notice to the clients of this process |
    | `on_change(notice)` | passes a notice that a session has begun or ended to the followers of all sessions |
    | `interest()` | returns the `Interest` of this process |
    | `watched()` | returns the present keys of the sessions that have clients in this process, by their ids |
    """

    on_ended: Callable[[Session, Reason], Collection[Any] | None] = lambda *_: None
    on_expiring: Callable[[Session, float], object] = lambda *_: None
    on_notice: Callable[[Notice], object] = lambda _: None
    interest: Callable[[], Interest] = Interest
    watched: Callable[[], Mapping[Any, str]] = dict
    on_change: Callable[[Notice], object] = lambda _: None


NO_LIMITS: Final = Policy()
NOT_OWN: Final = OwnLimits()
MAX_FORMER_KEYS: Final = 8


class Store(ABC):
    """Keeps sessions, owns their time, and returns each one that ends to exactly one caller.

    **Keys.** Missing, ended and malformed are one case: a key without a live session, be it unknown, expired or no
    string at all, is answered with `None` or `False`, and nothing changes. The store's own clock decides what is live,
    at the instant of the call. A key that a renewal has replaced is as good as the new one until its overlap is over.

    **Users.** A session belongs to a user id, a non-empty `str`. Caps, `of_user` and `remove_user` go by it; the
    username is only shown.

    **Time.** A session ends at the earlier of two deadlines: its idle timeout, counted from its last restart, and its
    lifetime, counted from its creation, which no restart moves. `timeout` is the manager's idle timeout in seconds; a
    session with `own` limits keeps to those. `policy` holds all other settings, as they are at the
    call.

    **Ends.** The caller that takes a session out announces its end: `add`, `remove`, `remove_user` and `clear` return
    what they took out, and what expires is passed to `on_ended`. After announcing an end, the caller acknowledges it:
    a shared store gives a session whose end is not acknowledged in time to another process. Where this process has no
    listener for ends, a shared store hands them on at once.

    **Notices.** The clients of a session are notified in each process, whichever announces. A store with
    `sends_notices` does that by itself; for any other the manager does, as its sessions are those of one process.

    Each method is atomic and may be called from any thread. A store never emits, and calls nothing while it holds a
    lock. A store that cannot be reached raises `StoreUnavailable` from any method: then the answer is not known, nor is
    whether the change was made.
    """

    sends_notices = False
    """Whether the store passes notices on by itself."""

    _is_open = False
    _callbacks = Callbacks()

    @property
    @abstractmethod
    def sessions(self) -> Mapping[str, Session]:
        """The sessions by key; it may still contain some that have just expired."""

    @property
    def blocking(self) -> bool:
        """Whether a call may wait for something outside the process, so that an event loop leaves it to a thread.

        `False` by default.
        """
        return False

    def open(self, callbacks: Callbacks) -> None:
        """Begin to pass on what happens by itself, on a thread of the store's own.

        `on_expiring` is called `policy.warning` seconds before a session expires, at once where that is shorter; once
        per countdown, and not at all once the session has ended.

        Raises:
            SessionError: The store was opened before.
        """
        if self._is_open:
            raise SessionError(
                f"this {type(self).__name__} has been opened by a SessionManager before; make a new one, see "
                "docs/how-to/production.md"
            )
        self._is_open, self._callbacks = True, callbacks

    def serve(self) -> None:  # noqa: B027  # a default, not a gap
        """Start what runs by itself: this process serves users. Called without any lock held; twice is harmless.

        `add` and `restart` call it too. Does nothing unless a store needs it.
        """

    def stop(self) -> None:  # noqa: B027  # a default, not a gap
        """Stop threads and connections; sessions stay, and the next use starts what it needs. Twice is harmless.

        Does nothing unless a store needs it.
        """

    def interest_changed(self) -> None:  # noqa: B027  # a default, not a gap
        """Ask for the `Interest` of this process again. Does nothing unless a store needs it."""

    @abstractmethod
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
        """Store a new session; return its key and the sessions that were evicted for it.

        Its user id is `user_id`; `None`, the default, is for the username. `security_stamp` is only kept. At no moment
        has the user more than `policy.max_sessions` live sessions: the oldest are evicted.

        Raises:
            TooManySessions: `policy.overflow` is `"reject"` and the user has that many; then nothing has changed.
            SessionError: The store is closed.
        """

    @abstractmethod
    def get(self, key: object) -> Session | None:
        """Return the live session of that key; reading never prolongs it."""

    @abstractmethod
    def restart(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> Session | None:
        """Restart a live session's countdown, and return the session.

        A session older than a `policy.lifetime` that was set after its creation expires here.
        """

    @abstractmethod
    def renew_timer(self, key: object, timeout: float, policy: Policy = NO_LIMITS) -> threading.Timer:
        """Do what `restart` does with a new timer in place of the old one; return that timer, started.

        Without a live session of that key the timer is started as well, and ends nothing.
        """

    @abstractmethod
    def renew_key(self, key: object, overlap: float, security_stamp: str | None = None) -> tuple[str, str, Any] | None:
        """Give a live session a new key; return the key that it replaces, the new one, and the session's id.

        The old key, and those that it has replaced, are good for at most `overlap` more seconds. No deadline moves;
        `authenticatedAt` is now. A `security_stamp` replaces that of the session; `None`, the default, keeps it. Of the
        former keys those that are not good any more are forgotten; then the old key is added, also with an `overlap` of
        0. At most `MAX_FORMER_KEYS` are kept: for one more, the overlap of the oldest ends early.
        """

    @abstractmethod
    def time_left(self, key: object) -> float | None:
        """Return the seconds until a live session expires."""

    @abstractmethod
    def set_data(self, key: object, data: Any) -> bool:
        """Store `data` with a live session; return whether there is one."""

    @abstractmethod
    def update_data(self, key: object, change: Callable[[Any], Any]) -> tuple[bool, Any]:
        """Store what `change(data)` returns with a live session; return whether there is one, and its new data.

        `change` gets a copy of the data, which it may change in place. It is called again if the data was changed in
        the meantime, so that no change is lost. No lock is held while it runs. What it raises passes through, and
        nothing has changed. Without a live session of that key when it has returned, its answer is not stored.
        """

    @abstractmethod
    def set_stamp(self, key: object, security_stamp: str) -> bool:
        """Replace the security stamp of a live session; return whether there is one."""

    @abstractmethod
    def of_user(self, user_id: str) -> Sequence[tuple[Session, float]]:
        """Return the live sessions of a user, oldest first, each with the seconds until it expires."""

    @abstractmethod
    def remove(self, key: object, kind: Literal["deleted", "ended"] = "deleted") -> Session | None:
        """Take a live session out and return it. `kind` is that of the notice."""

    @abstractmethod
    def remove_user(self, user_id: str, except_key: object = None) -> Sequence[Session]:
        """Take all live sessions of a user out but that of `except_key`, and return them, oldest first."""

    @abstractmethod
    def clear(self, *, silent: bool = False) -> Sequence[Session]:
        """Take all live sessions out and return them, in the order of creation.

        With `silent` also those that have expired and were not announced; no process announces an end of these, and
        there is no notice of it.
        """

    @abstractmethod
    def present_keys(self, session_ids: Sequence[Any]) -> list[str | None]:
        """Return the present key of each of these sessions, `None` for one that has ended."""

    @abstractmethod
    def find(self, session_ids: Sequence[Any]) -> list[Session | None]:
        """Return each of these sessions, `None` for one that has ended."""

    @abstractmethod
    def pages(self) -> Iterator[Sequence[Session]]:
        """Yield the live sessions, some at a time.

        A session that begins or ends during that may be among them or not, and one may come twice.
        """

    def send_logout(self, key: object) -> None:
        """Pass on a `"logout"` notice for the session of a key; without a live session, to `on_notice` alone."""
        session = self.get(key)
        self._callbacks.on_notice(Notice("logout", session and session._id, key))

    def is_foreign(self, key: object) -> bool:  # noqa: ARG002
        """Return whether `key` may be that of a session of another process, which this store does not have.

        `False` by default.
        """
        return False

    @abstractmethod
    def usernames(self) -> list[str]:
        """Return the username of each live session, in the order of creation."""

    def has_to_announce(self, session: Session) -> bool:  # noqa: ARG002
        """Return whether the caller that has taken this session out announces its end; else another process does.

        `True` by default.
        """
        return True

    def acknowledge(self, ended: Iterable[Session], pending: Collection[Any] = ()) -> None:  # noqa: B027  # a default
        """Note that the ends of these sessions have been announced, once all `pending` async listeners have run.

        Never fails; a session that is not known is ignored.

        Does nothing unless a store needs it: where the sessions end with the process, there is no other to announce it.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop for good and release everything, without announcing anything. Calling it twice is harmless.

        Afterwards `add` raises `SessionError`, and no key has a live session.
        """
