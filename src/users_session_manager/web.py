"""What every web framework needs of a manager: where a request carries its key, and the session it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from .errors import AuthenticationTooOld, SessionRejected
from .keys import label
from .manager import SessionManager
from .policy import require_timeout
from .session import Session

LOGGED_OUT: Final = {"logout": True}
"""The body of an answer 401: the session has ended, or there is none. The npm package's front end looks for it."""

UNAVAILABLE: Final = {"unavailable": True}
"""The body of an answer 503: the store is away, so nobody knows whether the session is alive."""

TOO_OLD: Final = {"reauthenticate": True}
"""The body of an answer 403: the session is alive, but this takes the password again."""

RETRY_AFTER: Final = 5
"""The seconds in the `Retry-After` header of that answer."""

_LONGEST_COOKIE: Final = 400 * 24 * 60 * 60
# What RFC 9110, 5.6.2, allows in the name of a header, and RFC 6265 in that of a cookie.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class KeyCarrier:
    """Where a request carries its session key: in a header, else in a cookie. Never in a URL (OWASP ASVS 5.0, 14.2.1).

    | option | default | |
    |---|---|---|
    | `header` | `"Session-Key"` | the name of the header; `None` for cookies alone |
    | `cookie` | `"session_key"` | the name of the cookie, without a prefix; `None` for headers alone |
    | `secure` | `True` | whether the cookie is for https alone; then its name begins with `__Host-` |

    A cookie is HttpOnly and SameSite=Lax in any case (ASVS 3.3.1 to 3.3.4). Raises `ValueError` for a name that cannot
    work: most servers drop a header with an underscore in its name, and some join its value with another's.
    """

    def __init__(
        self, *, header: str | None = "Session-Key", cookie: str | None = "session_key", secure: bool = True
    ) -> None:
        if header is None and cookie is None:
            raise ValueError("a session key needs a header or a cookie to travel in; both are None")
        for what, name in (("header", header), ("cookie", cookie)):
            if name is not None and not (isinstance(name, str) and _TOKEN.fullmatch(name)):
                raise ValueError(f"the name of the {what} cannot be {name!r}")
        if header is not None and "_" in header:
            raise ValueError(f"the name of the header cannot be {header!r}: many servers drop names with an underscore")
        self.header = header
        self.cookie = None if cookie is None else f"__Host-{cookie}" if secure else cookie
        self.secure = bool(secure)

    def key(self, headers: Sequence[str], cookie: str | None) -> str | None:
        """Return the key that a request carries, or `None` if it carries none.

        `headers` are the values of the header, `cookie` that of the cookie. A header comes before a cookie. One that
        stands twice, or whose value is two joined by a comma, is no key anybody was given, and is rejected like one.
        """
        if not headers:
            return cookie or None
        return headers[0].strip() if len(headers) == 1 else ",".join(headers)

    def cookie_options(self, session: RequestSession | None = None) -> dict[str, Any]:
        """Return how the cookie is to be set, in the words that Werkzeug, Django and Starlette share.

        The browser forgets it at its own end; that of a `session` with a timeout of its own it keeps as long as
        browsers keep anything. The session's own deadlines are what counts.
        """
        options = {"httponly": True, "samesite": "Lax", "secure": self.secure, "path": "/"}
        lasts = session is not None and session.timeout is not None
        return options | {"max_age": _LONGEST_COOKIE} if lasts else options


class RequestSession:
    """The session a request belongs to, as it was when the request was let in.

    | attribute | |
    |---|---|
    | `username` | who has logged in |
    | `createdAt` | when that was, in seconds of Unix time |
    | `authenticatedAt` | when they last proved who they are: as `createdAt`, or when the key was last renewed |
    | `data` | what the application keeps with the session, `None` until then; set it to keep something else |
    | `timeout` | an idle timeout of its own in seconds, or `None` |
    | `key` | the secret that logs in |

    Setting `data` once the session has ended is a `SessionRejected`.
    """

    __slots__ = ("_data", "_manager", "authenticatedAt", "createdAt", "key", "timeout", "username")

    def __init__(self, manager: SessionManager, session: Session) -> None:
        self._manager = manager
        self._data = session.data
        self.key = session.key
        self.username = session.username
        self.createdAt = session.createdAt
        self.authenticatedAt = session.authenticatedAt
        self.timeout = session.timeout

    @property
    def data(self) -> Any:
        return self._data

    @data.setter
    def data(self, data: Any) -> None:
        if not self._manager.setSessionData(self.key, data):
            raise SessionRejected  # an `error` listener has turned it into `False`
        self._data = data

    def become(self, other: RequestSession) -> None:
        """Stand for what `other` does from now on: the request has another session, or its session another key."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def __repr__(self) -> str:
        return f"<RequestSession {label(self.key)}>"


def admit(
    manager: SessionManager, key: str | None, *, prolong: bool = True, max_age: float | None = None
) -> RequestSession:
    """Return the session of a request that carries `key`; a live one begins its timeout again if `prolong`.

    Raises `SessionRejected` for any other key, whether somebody listens to `error` or not, and for none at all, which
    is no event: somebody has not logged in. Raises `AuthenticationTooOld` if the user has last proved who they are more
    than `max_age` seconds ago, as OpenID Connect calls it, and `StoreUnavailable` when the answer is not known.
    """
    if key is None:
        raise SessionRejected
    session = manager.resumeSession(key) if prolong else manager.getSession(key)
    # A clock that was set back would make everything fresh; what lies in the future is not.
    if max_age is not None and not 0 <= session.authenticationAge <= max_age:
        raise AuthenticationTooOld("the user has to prove again who they are")
    return RequestSession(manager, session)


def sign_in(
    manager: SessionManager,
    keys: Iterable[str | None],
    username: str,
    *,
    data: Any = None,
    timeout: float | None = None,
) -> RequestSession:
    """Return the session of `username` who has just logged in on a client that has shown `keys`; none of them lives on.

    A session that this user had here, with the same `timeout`, goes on under a new key, with its data unless `data` is
    given; its idle timeout begins again. Otherwise it is a new one, and sessions that others had here end. So nobody
    can have fixed the key (OWASP ASVS 5.0, 7.2.4). Raises what `loadNewSession` raises, and then nothing has changed
    for anybody else.
    """
    if timeout is not None:
        require_timeout("the timeout of a session", timeout)
    owners = {key: manager.getUsernameFromSessionKey(key) for key in keys if key}
    session = None
    for key, owner in owners.items():
        if owner == username:
            session = session or _go_on(manager, key, data, timeout)
            dismiss(manager, key)  # it may have another timeout, and must not be in its own user's way
    if session is None:
        session = admit(manager, manager.loadNewSession(username, data=data, timeout=timeout), prolong=False)
    for key in owners:  # those of others, who keep them if this login is refused
        dismiss(manager, key)
    return session


def _go_on(manager: SessionManager, key: str, data: Any, timeout: float | None) -> RequestSession | None:
    """Let a session go on under a new key, if it is alive and has that timeout."""
    try:
        if admit(manager, key).timeout != timeout:
            return None
        session = renew_key(manager, key)
        if data is not None:
            session.data = data
        return session
    except SessionRejected:
        return None  # it has ended meanwhile


def renew_key(manager: SessionManager, key: str | None, *, overlap: float = 0) -> RequestSession:
    """Return the session of a request that carries `key`, under a new key; see `renewSessionKey`.

    Raises `SessionRejected` where there is no live one.
    """
    if key is None:
        raise SessionRejected
    return admit(manager, manager.renewSessionKey(key, overlap), prolong=False)


def dismiss(manager: SessionManager, key: str | None) -> bool:
    """End the session of a request that carries `key`; tell whether there was one. One that has ended is no event."""
    if key is None or manager.getUsernameFromSessionKey(key) is False:
        return False
    try:
        return manager.deleteSession(key)
    except SessionRejected:
        return False  # it has ended meanwhile


def dismiss_elsewhere(manager: SessionManager, key: str | None) -> int:
    """End the other sessions of the user to whom `key` belongs; return how many (OWASP ASVS 5.0, 7.4.3, 7.5.2).

    Raises `SessionRejected` where `key` is that of no live session.
    """
    session = admit(manager, key, prolong=False)
    return manager.deleteUserSessions(session.username, session.key)
