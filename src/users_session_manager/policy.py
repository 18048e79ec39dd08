"""The session policy: how long a session may last and how many a user may have, and the methods that set it."""

from __future__ import annotations

from typing import Any, Literal

from .clock import LONGEST

Overflow = Literal["evict", "reject"]


class Policy:
    """What a store keeps to beside the idle timeout; each limit is `None` where there is none. Never changes.

    | attribute | |
    |---|---|
    | `lifetime` | seconds from the login after which a session ends, whatever is done with it |
    | `max_sessions` | how many live sessions one user may have |
    | `overflow` | what a login beyond that does: `"evict"` ends the user's oldest, `"reject"` is `TooManySessions` |
    | `warning` | seconds before its end at which a session is announced to be running out |
    """

    # No NamedTuple, since each login looks at three of them.
    __slots__ = ("lifetime", "max_sessions", "overflow", "warning")

    def __init__(
        self,
        lifetime: float | None = None,
        max_sessions: int | None = None,
        overflow: Overflow = "evict",
        warning: float | None = None,
    ) -> None:
        self.lifetime = lifetime
        self.max_sessions = max_sessions
        self.overflow = overflow
        self.warning = warning

    def replace(self, **changes: Any) -> Policy:
        """Return one that differs in that."""
        return Policy(**{name: getattr(self, name) for name in self.__slots__} | changes)


class PolicySettings:
    """The settings of a `SessionManager`.

    A change counts for the countdowns that begin from then on, which a login and a restart do; nobody is logged out by
    it. Of the idle timeout, a timeout of the session's own in its place, and the lifetime, the earliest end wins. The
    settings are the process'; several processes that share a store are to be set alike.
    """

    MIN_SESSION_TIMEOUT = 2
    """The shortest timeout `setSessionTimeOut` takes, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, float] = {"SESSION_TIMEOUT": 3000}
        self._policy = Policy()

    def setSessionTimeOut(self, seconds: float) -> bool:
        """Set the idle timeout of the sessions started or restarted from now on, in seconds; tell whether it was taken.

        Taken is a finite `int` or `float`, no `bool`, of at least `MIN_SESSION_TIMEOUT` and at most
        `threading.TIMEOUT_MAX`, which is what a timer can hold. Anything else changes nothing, and is `False` as in
        npm. A session with a timeout of its own keeps that (OWASP ASVS 5.0, 7.3.1).
        """
        taken = is_number(seconds) and self.MIN_SESSION_TIMEOUT <= seconds <= LONGEST
        if taken:
            self.settings["SESSION_TIMEOUT"] = seconds
        return taken

    def getSessionTimeout(self) -> float:
        """Return the idle timeout in seconds; 3000 unless set."""
        return self.settings["SESSION_TIMEOUT"]

    getSessionTimeOut = getSessionTimeout

    def setMaxSessionLifetime(self, seconds: float | None) -> Literal[True]:
        """Set the seconds after its login at which a session ends, however busy it is; `None`, the default, for never.

        No restart and no renewal prolongs it (OWASP ASVS 5.0, 7.3.2). A shorter lifetime reaches a session that lives
        already at its next restart, and ends it there if it is too old; a longer one is for sessions that begin from
        now on. `TypeError` or `ValueError` for what `setSessionTimeOut` would not take, and nothing changes.
        """
        if seconds is not None:
            require_timeout("the lifetime of a session", seconds)
        self._policy = self._policy.replace(lifetime=seconds)
        return True

    def getMaxSessionLifetime(self) -> float | None:
        """Return the longest lifetime in seconds; `None` for no limit."""
        return self._policy.lifetime

    def setMaxSessionsPerUser(self, count: int | None, overflow: Overflow = "evict") -> Literal[True]:
        """Set how many live sessions a user may have; `None`, the default, for any number (OWASP ASVS 5.0, 7.1.2).

        With `overflow="evict"` a login beyond that ends as many of the user's oldest sessions as it takes, with the
        reason `"evicted"`; with `"reject"` it is refused with `TooManySessions`. That holds whoever logs in at the same
        time. A user who has more already keeps them until the next login. `TypeError` or `ValueError` for a `count`
        that is no `int` of at least 1, or another `overflow`; then nothing changes.
        """
        if count is not None:
            if not isinstance(count, int) or isinstance(count, bool):
                raise TypeError(f"the number of sessions must be an int or None, got {type(count).__name__}")
            if count < 1:
                raise ValueError(f"the number of sessions must be at least 1, got {count}")
        if overflow not in ("evict", "reject"):
            raise ValueError(f"overflow must be 'evict' or 'reject', got {overflow!r}")
        self._policy = self._policy.replace(max_sessions=count, overflow=overflow)
        return True

    def setExpiryWarning(self, seconds: float | None) -> Literal[True]:
        """Set how many seconds before its end a session emits `sessionExpiring`; `None`, the default, for no warning.

        It comes once a countdown, and at once where that is shorter than `seconds`. `TypeError` or `ValueError` for
        anything but a finite number above 0; then nothing changes.
        """
        if seconds is not None:
            require_seconds("the warning", seconds)
            if seconds == 0:
                raise ValueError("the warning must be more than 0 seconds, got 0; None is for no warning")
        self._policy = self._policy.replace(warning=seconds)
        return True


def is_number(value: object) -> bool:
    """Tell whether `value` is an `int` or a `float`; a `bool` is neither here."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def require_timeout(what: str, seconds: Any) -> None:
    """Raise `TypeError` or `ValueError` for what `setSessionTimeOut` would not take."""
    require_seconds(what, seconds)
    if seconds < PolicySettings.MIN_SESSION_TIMEOUT:
        raise ValueError(f"{what} must be at least {PolicySettings.MIN_SESSION_TIMEOUT} seconds, got {seconds!r}")


def require_seconds(what: str, seconds: Any) -> None:
    """Raise `TypeError` or `ValueError` for anything but a number of seconds that a timer can hold; 0 is one."""
    if not is_number(seconds):
        raise TypeError(f"{what} must be a number of seconds, got {type(seconds).__name__}")
    if not 0 <= seconds <= LONGEST:
        raise ValueError(f"{what} must be between 0 and {LONGEST} seconds, got {seconds!r}")
