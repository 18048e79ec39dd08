"""What can go wrong, one class a reason; every one is a `SessionError`."""

from __future__ import annotations

from typing import Final

REJECTED: Final = "[Session Manager]: ⚠ !Session rejected! ⚠"


class SessionError(Exception):
    """The base of every error this library raises on its own account."""


class SessionRejected(SessionError, LookupError):
    """The key is unknown or its session has run out.

    Its text is the npm package's, and never holds the key; `error` listeners find that in the details
    they are given beside it.
    """

    def __init__(self) -> None:
        super().__init__(REJECTED)


class AuthenticationTooOld(SessionError):
    """The session is alive, but its user has proved who they are longer ago than what was asked for allows.

    Nobody is logged out for it: ask for the password again, then call `renewSessionKey` (OWASP ASVS 5.0, 7.5.1).
    """


class TooManySessions(SessionError):
    """A login was refused because the user has as many sessions as one may have; nobody was logged out for it."""


class StoreUnavailable(SessionError):
    """The store could not be reached, so whether the session is alive is not known.

    That is never taken for "logged in" (OWASP ASVS 5.0, 16.5.3: nothing fails open). Nothing was changed.
    """


class MissingDependency(SessionError, ImportError):
    """An integration was imported without the package it is for.

    Takes the `package` that could not be imported and the `extra` of this library that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'users-session-manager[{extra}]'", name=package)
