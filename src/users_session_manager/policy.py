"""The session policy: how long a session may last, how many a user may have, and the methods that set it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from .clock import MAX_TIMEOUT
from .log import log

Overflow = Literal["evict", "reject"]


class Policy(NamedTuple):
    """The limits that a store applies beside the idle timeout; a limit is `None` where there is none.

    | attribute | |
    |---|---|
    | `lifetime` | seconds from the login after which a session expires, however often it is restarted |
    | `max_sessions` | how many live sessions one user id may have |
    | `overflow` | what a login beyond that does: `"evict"` ends the user's oldest, `"reject"` is `TooManySessions` |
    | `warning` | seconds before its deadline at which a session is announced as expiring |
    """

    lifetime: float | None = None
    max_sessions: int | None = None
    overflow: Overflow = "evict"
    warning: float | None = None


class OwnLimits(NamedTuple):
    """The idle timeout and the lifetime of one session, in seconds; `None` for those of the manager."""

    timeout: float | None = None
    lifetime: float | None = None


class PolicySettings:
    """The settings of a `SessionManager`.

    A change applies to sessions started or restarted afterwards; it ends no session. Of the idle timeout, a timeout of
    the session's own in its place, and the lifetime, the earliest deadline wins. The settings belong to the process;
    processes that share a store are to be set alike.
    """

    MIN_SESSION_TIMEOUT = 2
    """The shortest timeout that `setSessionTimeOut` accepts, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, float] = {"SESSION_TIMEOUT": 3000}
        self._policy = Policy()

    def setSessionTimeOut(self, seconds: float) -> bool:
        """Set the idle timeout of the sessions started or restarted afterwards (OWASP ASVS 5.0, 7.3.1).

        A session with a timeout of its own keeps that.

        Args:
            seconds: A finite `int` or `float`, no `bool`, of at least `MIN_SESSION_TIMEOUT` and at most
                `threading.TIMEOUT_MAX`, which is what a timer can hold.

        Returns:
            `True`. For anything else `False`, as in npm; then nothing changes, and the log has a warning.
        """
        try:
            require_timeout("the timeout", seconds)
        except (TypeError, ValueError) as reason:
            log.warning("setSessionTimeOut changed nothing: %s, see docs/guide.md", reason)
            return False
        self.settings["SESSION_TIMEOUT"] = seconds
        return True

    def getSessionTimeout(self) -> float:
        """Return the idle timeout in seconds; 3000 unless set."""
        return self.settings["SESSION_TIMEOUT"]

    getSessionTimeOut = getSessionTimeout

    def setMaxSessionLifetime(self, seconds: float | None) -> Literal[True]:
        """Set how long after its login a session expires, however often it is restarted (OWASP ASVS 5.0, 7.3.2).

        No restart and no renewal prolongs it. A shorter lifetime reaches a live session at its next restart, which is
        rejected if it is too old by then; a longer one applies to sessions started afterwards. A session with a
        lifetime of its own keeps that.

        Args:
            seconds: What `setSessionTimeOut` accepts; `None`, the default, for no limit.

        Raises:
            TypeError, ValueError: For anything else; then nothing changes.
        """
        if seconds is not None:
            require_timeout("the lifetime of a session", seconds)
        self._policy = self._policy._replace(lifetime=seconds)
        return True

    def getMaxSessionLifetime(self) -> float | None:
        """Return the lifetime in seconds; `None` for no limit."""
        return self._policy.lifetime

    def setMaxSessionsPerUser(self, count: int | None, overflow: Overflow = "evict") -> Literal[True]:
        """Set how many live sessions a user may have, also under simultaneous logins (OWASP ASVS 5.0, 7.1.2).

        Existing sessions above a new limit stay until that user's next login.

        Args:
            count: At least 1; `None`, the default, for any number.
            overflow: With `"evict"`, the default, a login beyond the limit ends as many of the user's oldest sessions
                as it takes, with the reason `"evicted"`; with `"reject"` it is refused with `TooManySessions`.

        Raises:
            TypeError, ValueError: For a `count` that is no `int` of at least 1, or another `overflow`; then nothing
                changes.
        """
        if count is not None:
            if not isinstance(count, int) or isinstance(count, bool):
                raise TypeError(f"the number of sessions must be an int or None, got {type(count).__name__}")
            if count < 1:
                raise ValueError(f"the number of sessions must be at least 1, got {count}")
        if overflow not in ("evict", "reject"):
            raise ValueError(f"overflow must be 'evict' or 'reject', got {overflow!r}")
        self._policy = self._policy._replace(max_sessions=count, overflow=overflow)
        return True

    def setExpiryWarning(self, seconds: float | None) -> Literal[True]:
        """Set how long before its deadline a session emits `sessionExpiring`, once per countdown.

        Args:
            seconds: A finite number above 0; where a countdown is shorter, the warning comes at once. `None`, the
                default, for no warning.

        Raises:
            TypeError, ValueError: For anything else; then nothing changes.
        """
        if seconds is not None:
            require_seconds("the warning", seconds)
            if seconds == 0:
                raise ValueError("the warning must be more than 0 seconds, got 0; None is for no warning")
        self._policy = self._policy._replace(warning=seconds)
        return True


def require_timeout(what: str, seconds: Any) -> None:
    """Raise `TypeError` or `ValueError` for what `setSessionTimeOut` does not accept."""
    require_seconds(what, seconds)
    if seconds < PolicySettings.MIN_SESSION_TIMEOUT:
        raise ValueError(f"{what} must be at least {PolicySettings.MIN_SESSION_TIMEOUT} seconds, got {seconds!r:.24}")


def require_seconds(what: str, seconds: Any) -> None:
    """Raise `TypeError` or `ValueError` for anything but a number of seconds that a timer can hold; 0 is one."""
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"{what} must be a number of seconds, got {type(seconds).__name__}")
    if not 0 <= seconds <= MAX_TIMEOUT:
        raise ValueError(f"{what} must be between 0 and {MAX_TIMEOUT} seconds, got {seconds!r:.24}")
