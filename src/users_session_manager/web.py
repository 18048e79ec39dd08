"""What every web framework needs of a manager: where a request carries its key, and the session it belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from .errors import SessionRejected
from .keys import label
from .manager import SessionManager

LOGGED_OUT: Final = {"logout": True}
"""The body of an answer 401: the session has ended, or there is none. The npm package's front end looks for it."""

UNAVAILABLE: Final = {"unavailable": True}
"""The body of an answer 503: the store is away, so nobody knows whether the session is alive."""

RETRY_AFTER: Final = 5
"""The seconds in the `Retry-After` header of that answer."""

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

    def cookie_options(self) -> dict[str, Any]:
        """Return how the cookie is to be set, in the words that Werkzeug, Django and Starlette share.

        It has no `max_age`: the browser forgets it at its end, and the session's own timeout is what counts.
        """
        return {"httponly": True, "samesite": "Lax", "secure": self.secure, "path": "/"}


class RequestSession:
    """The session a request belongs to.

    What is read of it is asked for once a request, when it is first read; if the session has ended by then, that is a
    `SessionRejected`. `key` is the secret that logs in.
    """

    __slots__ = ("_details", "_manager", "key")

    def __init__(self, manager: SessionManager, key: str) -> None:
        self._manager = manager
        self._details: dict[str, Any] | None = None
        self.key = key

    @property
    def username(self) -> str:
        """Who has logged in."""
        return str(self._read()["username"])

    @property
    def createdAt(self) -> float:
        """When that was, in seconds of Unix time."""
        return float(self._read()["createdAt"])

    @property
    def data(self) -> Any:
        """What the application keeps with the session; `None` until it is set. Set it to keep something else."""
        return self._read()["data"]

    @data.setter
    def data(self, data: Any) -> None:
        if not self._manager.setSessionData(self.key, data):
            raise SessionRejected
        if self._details is not None:
            self._details["data"] = data

    def _read(self) -> dict[str, Any]:
        if self._details is None:
            self._details = self._manager.getSessionDetails(self.key) or None
            if self._details is None:
                raise SessionRejected
        return self._details

    def __repr__(self) -> str:
        return f"<RequestSession {label(self.key)}>"


def admit(manager: SessionManager, key: str | None, *, prolong: bool = True) -> RequestSession:
    """Return the session of a request that carries `key`; a live one begins its timeout again if `prolong`.

    Raises `SessionRejected` for any other key, whether somebody listens to `error` or not, and for none at all, which
    is no event: somebody has not logged in. Raises `StoreUnavailable` when the answer is not known.
    """
    if key is None:
        raise SessionRejected
    if not (manager.restartSessionTimer(key) if prolong else manager.checkSessionStatus(key)):
        raise SessionRejected
    return RequestSession(manager, key)


def dismiss(manager: SessionManager, key: str | None) -> bool:
    """End the session of a request that carries `key`; tell whether there was one. One that has ended is no event.

    For a logout, and for a login: whoever used this client before goes first (OWASP ASVS 5.0, 7.2.4).
    """
    if key is None or manager.getUsernameFromSessionKey(key) is False:
        return False
    try:
        return manager.deleteSession(key)
    except SessionRejected:
        return False  # it has ended meanwhile


def show_loop(manager: SessionManager) -> None:
    """Let the manager see the event loop that runs here, for the `async def` listeners of events that start elsewhere.

    It looks whenever an `async def` listener is added.
    """

    async def nobody() -> None: ...

    manager.on("loop", nobody)
    manager.remove_listener("loop", nobody)
