"""What the web frameworks share: where a request carries its session key, and the state of one request."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from contextlib import suppress
from http.cookies import CookieError, Morsel
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from ..errors import AuthenticationTooOld, CrossOriginRequest, SessionRejected, StoreUnavailable, TooManySessions
from ..keys import label
from ..log import log
from ..manager import SessionManager, _user_id
from ..policy import require_timeout
from ..session import Session

# What browsers keep a cookie for at most, in seconds.
_MAX_COOKIE_AGE: Final = 400 * 24 * 60 * 60
_LONG_AGO: Final = "Thu, 01 Jan 1970 00:00:00 GMT"
# What RFC 9110, 5.6.2, allows in the name of a header, and RFC 6265 in that of a cookie.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Headers that say something else already. Many of them no script may set, and some are changed on the way.
_TAKEN_HEADER = re.compile(
    "(accept|access-control|content|if|proxy|sec|x-forwarded)(-.*)?|authorization|cache-control|connection|cookie2?|"
    "date|dnt|expect|forwarded|from|host|keep-alive|max-forwards|origin|pragma|priority|range|referer|save-data|set-cookie2?|"
    "te|trailer|transfer-encoding|upgrade|upgrade-insecure-requests|user-agent|via|x-csrf-?token|x-requested-with",
    re.IGNORECASE,
)
# RFC 6265bis, 4.1.3. Browsers compare them without regard to case.
_PREFIXES: Final = ("__host-", "__secure-", "__http-")
# Two labels at least, the last of which no IP address has. Browsers ignore a dot before them.
_DOMAIN = re.compile(r"\.?([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]([a-z0-9-]*[a-z0-9])?", re.IGNORECASE)

_SECURE: Final = "set COOKIE_SECURE (FastAPI: secure) to True"

SameSite = Literal["Lax", "Strict", "None"]
"""Which requests from pages of other sites bring the cookie: links alone, none, or all."""

# Where Django finds the static files of its app.
SCRIPT: Final = Path(__file__).parent / "django" / "static" / "users_session_manager" / "user-sessions.js"
"""The script that signs a page out when its session ends."""
SCRIPT_URL: Final = "/user-sessions.js"
SCRIPT_PATH: Final = re.compile(r"/(?!/)[^\\\x00-\x20\x7f<>{}?#]+")
"""A path at which the script can be served: no parameters of a route, and no query."""
SCRIPT_MAX_AGE: Final = 3600
"""For how long a browser keeps the script, in seconds."""

OWN_PATH: Final = re.compile(r"/(?!/)[^\\\x00-\x20\x7f]*")
"""A path on this site. Browsers take "//" and a backslash for the beginning of a host, and skip control characters."""


class Refusal(NamedTuple):
    """The answer to a request that is refused."""

    status: int
    body: dict[str, bool]
    headers: dict[str, str]
    text: str = ""

    def page(self) -> str:
        """Return the answer as a page, for a browser."""
        return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{self.text}</title><h1>{self.text}</h1>'


HAS_BEGUN: Final = (
    "the answer to this request has its cookies already: sign in, and renew keys, in a view, and not in what runs "
    "after it, such as the generator of a stream, a background task or an `after_request` function"
)
"""Why a request is given no new key: the client would not learn it, and be logged out."""
TOO_MANY: Final = "You are signed in as often as you may be. Please sign out elsewhere first."
# Some caches, such as Django's of whole pages, obey `private` alone.
NO_STORE: Final = "no-store, private"
"""The `Cache-Control` of an answer that depends on a session."""
_NO_STORE: Final = {"Cache-Control": NO_STORE}
# The front end of the npm package looks for `logout`.
_REFUSALS: Final[dict[type[Exception], Refusal]] = {
    SessionRejected: Refusal(401, {"logout": True}, _NO_STORE, "Please sign in."),
    AuthenticationTooOld: Refusal(403, {"reauthenticate": True}, _NO_STORE, "Please enter your password again."),
    CrossOriginRequest: Refusal(403, {"crossOrigin": True}, _NO_STORE, "Please use a page of this site for that."),
    TooManySessions: Refusal(409, {"tooManySessions": True}, _NO_STORE, TOO_MANY),
    StoreUnavailable: Refusal(
        503, {"unavailable": True}, {"Retry-After": "5", **_NO_STORE}, "This is unavailable now. Please try again."
    ),
}
REFUSED: Final = tuple(_REFUSALS)
"""The exceptions that an integration answers with a `Refusal`."""


def prefers_html(accept: str) -> bool:
    """Return whether a client prefers HTML to JSON, by its `Accept` header; one without prefers nothing."""
    qualities: dict[str, float] = {}
    for each in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in each.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        with suppress(ValueError):
            qualities[kind] = float(quality)

    def quality_of(kind: str) -> float:
        ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        return next((qualities[each] for each in ranges if each in qualities), 0)

    return quality_of("text/html") > quality_of("application/json")


def read_cookie(header: str | None, name: str) -> str | None:
    """Return the value of a cookie in a `Cookie` header, `None` without one.

    The first value counts. Whatever else the header holds, such as values in JSON or in other alphabets, hides nothing:
    browsers send what scripts and other servers of the domain have set, which is seldom as RFC 6265 has it.

    Args:
        header: The header; several are joined by semicolons.
        name: The name of the cookie.
    """
    if header is None or name not in header:
        return None
    for pair in header.split(";"):
        found, separator, value = pair.partition("=")
        # Not `strip()`: a name after another kind of space is no name with a prefix to browsers, so anyone may set it.
        if separator and found.strip(" \t") == name:
            value = value.strip(" \t")
            return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return None


def is_forwarded_https(schemes: str, proxies: int) -> bool:
    """Return whether the client came over https to the first of that many proxies.

    Args:
        schemes: The value of the header `X-Forwarded-Proto`, to which each proxy adds what it was asked with: for a
            WebSocket some, such as Traefik, say `wss`.
        proxies: How many proxies there are in front of the application; a client can write the rest itself.
    """
    return proxies > 0 and schemes.split(",")[-proxies:][0].strip().lower() in ("https", "wss")


class KeyCarrier:
    """Where a request carries its session key: in a header, else in a cookie. Never in a URL (OWASP ASVS 5.0, 14.2.1).

    Args:
        header: The name of the header; `None` for the cookie alone.
        cookie: The name of the cookie, without a prefix; `None` for the header alone.
        secure: Whether the cookie is for https alone; its name then begins with `__Host-`, or with `__Secure-` if there
            is a `domain`.
        bearer: Whether `Authorization: Bearer` carries a key too, where the integration reads it.
        samesite: Which requests from pages of other sites bring the cookie: `"Lax"`, the default, links; `"Strict"`
            none; `"None"` all.
        domain: The domain whose hosts all get the cookie; `None`, the default, for the host that has set it alone.
        partitioned: Whether the cookie is another one in each site that embeds the application (CHIPS).

    Raises:
        ValueError: A name cannot work: most servers drop a header with an underscore, and some join its value with that
            of another header. Or browsers drop the cookie: one with SameSite=None has to be `secure` (RFC 6265bis),
            and one that is partitioned has to be both.

    The cookie is HttpOnly in any case (ASVS 3.3.1 to 3.3.4).
    """

    def __init__(
        self,
        *,
        header: str | None = "Session-Key",
        cookie: str | None = "session_key",
        secure: bool = True,
        bearer: bool = False,
        samesite: SameSite = "Lax",
        domain: str | None = None,
        partitioned: bool = False,
    ) -> None:
        if header is None and cookie is None and not bearer:
            raise ValueError("a session key needs a header or a cookie to travel in; both are None")
        _require_names(header, cookie)
        _require_attributes(secure=secure, samesite=samesite, domain=domain, partitioned=partitioned)
        prefix = "" if not secure else "__Host-" if domain is None else "__Secure-"
        self.header = header
        self.cookie = None if cookie is None else f"{prefix}{cookie}"
        self.secure = bool(secure)
        self._attributes: dict[str, Any] = {"path": "/", "httponly": True, "secure": self.secure, "samesite": samesite}
        self._attributes["domain"] = (domain or "").removeprefix(".")
        self._cookie_class: type[Morsel[str]] = PartitionedCookie if partitioned else Morsel
        self.bearer = bool(bearer)
        # The request headers that decide on a guarded answer.
        self.varies_by = [name for name in (header, bearer and "Authorization", cookie and "Cookie") if name]
        # Whether the log says that a client cannot keep the cookie.
        self.has_warned = False
        # The name of the header in WSGI; no variable has an empty name.
        self.variable = "" if header is None else f"HTTP_{header.upper().replace('-', '_')}"

    def make_cookie(self, value: str, max_age: int | None = None) -> Morsel[str]:
        """Return the cookie, as `Set-Cookie` has it; an empty one deletes the cookie, with the same attributes.

        Args:
            value: The key.
            max_age: For how many seconds the browser keeps the cookie; `None` to forget it when it is closed.
        """
        cookie = self._cookie_class()
        cookie.set(str(self.cookie), value, value)
        life: dict[str, Any] = {"max-age": 0, "expires": _LONG_AGO}
        if value:
            life = {} if max_age is None else {"max-age": max_age}
        cookie.update(self._attributes | life)
        return cookie


class PartitionedCookie(Morsel[str]):
    """A cookie with the attribute `Partitioned`, which Python knows from 3.14 on, and some frameworks do not."""

    def OutputString(self, attrs: Container[str] | None = None) -> str:
        return f"{super().OutputString(attrs)}; Partitioned"


def _require_names(header: Any, cookie: Any) -> None:
    """Raise `ValueError` for the name of a header or of a cookie that cannot work."""
    for what, name in (("header", header), ("cookie", cookie)):
        if name is not None and not (isinstance(name, str) and _TOKEN.fullmatch(name)):
            raise ValueError(f"the name of the {what} cannot be {name!r}")
    if header is not None and "_" in header:
        raise ValueError(f"the name of the header cannot be {header!r}: many servers drop names with an underscore")
    if header is not None and _TAKEN_HEADER.fullmatch(header):
        raise ValueError(f"the name of the header cannot be {header!r}: that header has a meaning of its own")
    if cookie is not None and cookie.lower().startswith(_PREFIXES):
        raise ValueError(f"the name of the cookie cannot be {cookie!r}: leave out the prefix, which `secure` adds")
    try:
        Morsel[str]().set(cookie or "x", "", "")
    except CookieError:
        raise ValueError(f"the name of the cookie cannot be {cookie!r}: an attribute of cookies is called so") from None


def _require_attributes(*, secure: bool, samesite: Any, domain: Any, partitioned: bool) -> None:
    """Raise `ValueError` for attributes with which browsers drop the cookie, or do not send it."""
    if samesite not in ("Lax", "Strict", "None"):
        raise ValueError(f"the SameSite of the cookie has to be 'Lax', 'Strict' or 'None', not {samesite!r}")
    if domain is not None and not (isinstance(domain, str) and _DOMAIN.fullmatch(domain)):
        raise ValueError(f"the domain of the cookie has to be one such as 'example.com', or None, not {domain!r}")
    if samesite == "None" and not secure:
        raise ValueError(f"browsers drop a cookie with SameSite=None that is not for https alone: {_SECURE}")
    if partitioned and not secure:
        raise ValueError(f"browsers drop a partitioned cookie that is not for https alone: {_SECURE}")
    if partitioned and samesite != "None":
        raise ValueError("browsers send a page in a frame no partitioned cookie, unless its SameSite is 'None' as well")


class RequestSession:
    """The session of a request, as it was when the store was asked last.

    | attribute | |
    |---|---|
    | `username` | as given at the login |
    | `userId` | whose session it is, `str`: the username, unless `loadNewSession` was given a user id |
    | `createdAt` | when it was created, in seconds of Unix time |
    | `authenticatedAt` | when its user last authenticated: as `createdAt`, or when the key was last renewed |
    | `data` | what the application stores with the session, `None` until then; set it to store something else, and \
    call `update` for a change that depends on what is there |
    | `timeout` | an idle timeout of its own in seconds, or `None` |
    | `key` | the secret that logs in |

    Setting `data` after the session has ended raises `SessionRejected`. A change in place, such as
    `session.data.append(...)`, is not stored.
    """

    __slots__ = ("_data", "_id", "_manager", "authenticatedAt", "createdAt", "key", "timeout", "userId", "username")

    def __init__(self, manager: SessionManager, session: Session) -> None:
        self._manager = manager
        self._data = session.data
        self._id = session._id
        self.key = session.key
        self.username = session.username
        self.userId = session.userId
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

    def update(self, change: Callable[[Any], Any]) -> Any:
        """Store what `change(data)` returns, so that no simultaneous change is lost; return it.

            session.update(lambda cart: [*(cart or []), "lasagne"])

        Args:
            change: Is called with a copy of the data, as it is in the store, and returns the new data; again if the
                data was changed in the meantime. See `SessionManager.updateSessionData`.

        Raises:
            SessionRejected: The session has ended.
        """
        self._data = self._manager.updateSessionData(self.key, change)
        return self._data

    def replace_with(self, other: RequestSession) -> None:
        """Have the values of `other`: the request has another session, or its session another key."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def __repr__(self) -> str:
        return f"<RequestSession {label(self.key)}>"


class RequestState:
    """One request: the keys that it presents, its session, and what its answer does to the cookie.

    A header comes before a cookie. A header that is sent twice arrives as two values joined by a comma: that is no key.

    Args:
        manager: Returns the manager of the sessions, when it is needed.
        carrier: Where the key travels.
        header: The value of the header, `None` without one.
        cookie: The value of the cookie, `None` without one.

    Threads: one at a time.
    """

    def __init__(
        self, manager: Callable[[], SessionManager], carrier: KeyCarrier, header: str | None, cookie: str | None
    ) -> None:
        self._manager = manager
        self.carrier = carrier
        self.presented = (cookie or None) if header is None else header.strip()
        self.has_header = header is not None
        self._cookie = cookie

    _session: RequestSession | None = None
    _is_loaded = False
    _cookie_change: str | None = None  # "set" or "delete"

    @property
    def manager(self) -> SessionManager:
        """The manager of the sessions."""
        return self._manager()

    @property
    def key(self) -> str | None:
        """The presented key that counts."""
        return self.presented

    @property
    def cookie_changed(self) -> bool:
        """Whether the answer sets or deletes the cookie."""
        return self._cookie_change is not None

    def presented_keys(self) -> list[str | None]:
        """Return all keys that the client presents; first the one that counts."""
        return [self.key, self._cookie]

    def authenticate(self, *, prolong: bool = True, max_age: float | None = None) -> RequestSession:
        """Return the live session of the request.

        Args:
            prolong: Whether its idle timeout restarts.
            max_age: How many seconds ago its user may have authenticated at most, as in OpenID Connect; `None` for any.

        Raises:
            SessionRejected: There is no live session. If the request presents no key, no event is emitted.
            AuthenticationTooOld: Its user authenticated earlier than that.
            StoreUnavailable: The store cannot be asked.
        """
        key = self.key
        if key is None or not prolong:
            self.manager.serve()  # a restart does so by itself
        if key is None:
            raise SessionRejected
        session = self._find(key, prolong=prolong)
        self._require_user(session)
        if max_age is not None and session.authenticationAge > max_age:
            raise AuthenticationTooOld("the user has to authenticate again")
        return self._load(session)

    def _find(self, key: str, *, prolong: bool) -> Session:
        """Return the live session of a key, or raise `SessionRejected`."""
        return self.manager.resumeSession(key) if prolong else self.manager.getSession(key)

    def _require_user(self, session: Session) -> None:
        """Raise `SessionRejected` if the framework itself would refuse the user of a session."""

    def find_session(self, *, prolong: bool = False) -> RequestSession | None:
        """Return the live session of the request, or `None`. Asks the store once.

        Args:
            prolong: Whether its idle timeout restarts.
        """
        if not self._is_loaded:
            try:
                self.authenticate(prolong=prolong)
            except SessionRejected:
                self._is_loaded = True
        return self._session

    def sign_in(
        self,
        username: str,
        *,
        data: Any = None,
        timeout: float | None = None,
        userId: str | int | UUID | None = None,
        securityStamp: str | None = None,
        capped: bool = True,
    ) -> RequestSession:
        """Return a session of `username` under a new key; no key that the client presents stays valid.

        A session that this user has here, with the same `timeout`, goes on with its data, unless `data` is given, and
        its idle timeout restarts. Otherwise a session is created, and sessions of others that the client presents end.
        So no key can be fixed in advance (OWASP ASVS 5.0, 7.2.4).

        Raises:
            TypeError, ValueError, TooManySessions: As `loadNewSession`; the sessions of others are then as they were.
        """
        if timeout is not None:
            require_timeout("the timeout of a session", timeout)
        user_id = username if userId is None else _user_id(userId)
        found = {key: self.manager.findSession(key) for key in self.presented_keys() if key}
        owners = {key: session.userId for key, session in found.items() if session is not None}
        session = None
        for key, owner in owners.items():
            if owner == user_id:
                session = session or self._continue(key, data, timeout, securityStamp)
                self._end(key)  # it may have another timeout, and must not count as one session more
        if session is None:
            load = self.manager.loadNewSession if capped else self.manager._load_uncapped_session
            new = load(username, data=data, timeout=timeout, userId=userId, securityStamp=securityStamp)
            session = self.manager.getSession(new)
        for key in owners:
            self._end(key)
        return self._replace(session)

    def renew_key(self, overlap: float = 0, securityStamp: str | None = None) -> RequestSession:
        """Return the session of the request under a new key; see `renewSessionKey`.

        Raises:
            SessionRejected: There is no live session.
        """
        if self.key is None:
            raise SessionRejected
        new = self.manager.renewSessionKey(self.key, overlap, securityStamp=securityStamp)
        return self._replace(self.manager.getSession(new))

    def sign_out(self) -> bool:
        """End the sessions of all presented keys; return whether there were any."""
        ended = [self._end(key) for key in self.presented_keys()]
        self.presented, self._session, self._is_loaded = None, None, True
        # A cookie that was not presented stays: a request from another site must not delete it.
        self._cookie_change = "delete" if self._cookie is not None or self.cookie_changed else None
        return any(ended)

    def sign_out_others(self) -> int:
        """End the other sessions of the request's user; return how many (OWASP ASVS 5.0, 7.4.3, 7.5.2).

        Raises:
            SessionRejected: There is no live session.
        """
        session = self.authenticate(prolong=False)
        return self.manager.deleteUserSessions(session.userId, session.key)

    def refuse(self, error: Exception) -> Refusal:
        """Return the answer for one of the exceptions in `REFUSED`; a rejected request is given no session.

        The client keeps its cookie, also that of a session that has ended: the answer to another request may have
        replaced it meanwhile, and only `sign_out` deletes it.
        """
        if isinstance(error, SessionRejected) and self._cookie_change == "set":
            self._cookie_change = None
        return next(refusal for kind, refusal in _REFUSALS.items() if isinstance(error, kind))

    def write_cookie(self, set_cookie: Callable[[Morsel[str]], object], *, is_https: bool = True) -> None:
        """Set or delete the cookie by `set_cookie`, if that is to be done.

        The browser forgets the cookie when it is closed, or, if the session has a timeout of its own, keeps it as long
        as browsers keep any. The deadline of the session is what counts.

        Args:
            set_cookie: Adds a cookie to the answer.
            is_https: Whether the client came over https: else it drops a cookie that is for https alone, and the log
                says so once.
        """
        if self._cookie_change is None or self.carrier.cookie is None:
            return
        if self._cookie_change == "delete":
            set_cookie(self.carrier.make_cookie(""))
        elif self._session is not None:
            max_age = None if self._session.timeout is None else _MAX_COOKIE_AGE
            set_cookie(self.carrier.make_cookie(self._session.key, max_age))
            if self.carrier.secure and not is_https:
                self._warn_of_http()

    def _warn_of_http(self) -> None:
        if not self.carrier.has_warned:
            log.warning(
                "The cookie of the session key is for https alone, and a client has come over http, so it drops the "
                "cookie, but for some browsers on localhost. Serve https; behind a proxy that does so, set PROXIES to "
                "1; for plain http, set COOKIE_SECURE (FastAPI: secure) to False. Starlette's test client needs "
                "base_url='https://testserver'"
            )
        self.carrier.has_warned = True

    def _load(self, session: Session) -> RequestSession:
        new = RequestSession(self.manager, session)
        if self._session is None:
            self._session = new
        else:
            self._session.replace_with(new)  # the view may hold it
        self._is_loaded = True
        return self._session

    def _replace(self, session: Session) -> RequestSession:
        """Let the client have this session, under this key, from now on."""
        self.presented, self._cookie_change = session.key, "set"
        return self._load(session)

    def _continue(self, key: str, data: Any, timeout: float | None, securityStamp: str | None) -> Session | None:
        """Return a session under a new key, if it is live and has that timeout."""
        try:
            if self.manager.resumeSession(key).timeout != timeout:
                return None
            new = self.manager.renewSessionKey(key, securityStamp=securityStamp)
            if data is not None:
                self.manager.setSessionData(new, data)
            return self.manager.getSession(new)
        except SessionRejected:
            return None  # it has ended in between

    def _end(self, key: str | None) -> bool:
        """End the session of a key; return whether there was one. A key without a live session is no event."""
        try:
            return key is not None and self.manager.findSession(key) is not None and self.manager.deleteSession(key)
        except SessionRejected:
            return False  # it has ended in between
