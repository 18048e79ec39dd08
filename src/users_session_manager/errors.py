"""The exceptions, one class for each reason; each one is a `SessionError`. All survive pickle and `copy`."""

from __future__ import annotations

from typing import Any


class SessionError(Exception):
    """The base of every error that this library raises on its own account."""


class SessionRejected(SessionError, LookupError):
    """The key is unknown or its session has expired.

    The text is the npm package's and never contains the key; `error` listeners find that in the details that they are
    given with it.
    """

    def __init__(self, text: str = "[Session Manager]: ⚠ !Session rejected! ⚠") -> None:
        super().__init__(text)


class AuthenticationTooOld(SessionError):
    """The session is alive, but its user authenticated longer ago than was asked for.

    The session goes on: ask for the password again, then call `renewSessionKey` (OWASP ASVS 5.0, 7.5.1).
    """


class TooManySessions(SessionError):
    """A login was refused because the user has the maximum number of sessions; no session was ended."""


class CrossOriginRequest(SessionError):
    """A page of another origin tried to sign in or out, or to open a WebSocket; nothing was changed.

    A browser sends the user's cookies with requests of any page (OWASP ASVS 5.0, 3.5.1, 4.4.2).
    """


class StoreUnavailable(SessionError):
    """The store could not be reached, so the answer is not known, nor is whether the change was made.

    That is never taken for "logged in" (OWASP ASVS 5.0, 16.5.3: nothing fails open).
    """


class MissingDependency(SessionError, ImportError):
    """A module was imported without the package that it needs.

    Args:
        package: The package that could not be imported.
        extra: The extra of this library that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed: pip install 'users-session-manager[{extra}]', see docs/reference/errors.md",
            name=package,
        )
        self.package = package
        self.extra = extra

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.package, self.extra)
