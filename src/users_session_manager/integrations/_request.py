"""One request, for all web frameworks: its session, the keys that it presents, and its cookie."""

from __future__ import annotations

from collections.abc import Callable
from http.cookies import Morsel
from typing import Any, Final
from uuid import UUID

from ..errors import AuthenticationTooOld, SessionRejected
from ..keys import label
from ..log import log
from ..manager import SessionManager
from ..policy import require_timeout
from ..session import Session, user_id_of
from ._cookies import MAX_COOKIE_AGE, KeyCarrier
from ._refusals import Refusal, refusal_of

HAS_BEGUN: Final = (
    "the answer to this request has its cookies already: sign in, and renew keys, in a view, and not in what runs "
    "after it, such as the generator of a stream, a background task or an `after_request` function, see "
    "docs/reference/errors.md"
)
"""Why a request is given no new key: the client would not learn it, and be logged out."""


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

            >>> session.update(lambda cart: [*(cart or []), "lasagne"])

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
            raise AuthenticationTooOld(
                f"the user authenticated {session.authenticationAge:.0f} seconds ago, and {max_age:g} are allowed: ask "
                "for the password again, then renew the key, see docs/how-to/step-up.md"
            )
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
        user_id = username if userId is None else user_id_of(userId)
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
        return refusal_of(error)

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
            max_age = None if self._session.timeout is None else MAX_COOKIE_AGE
            set_cookie(self.carrier.make_cookie(self._session.key, max_age))
            if self.carrier.secure and not is_https:
                self._warn_of_http()

    def _warn_of_http(self) -> None:
        if not self.carrier.has_warned:
            log.warning(
                "The cookie of the session key is for https alone, and a client has come over http, so it drops "
                "the cookie, but for some browsers on localhost. Serve https; behind a proxy that does so, set "
                "PROXIES to 1; for plain http, set COOKIE_SECURE (FastAPI: secure) to False. Starlette's test "
                "client needs base_url='https://testserver'; see docs/how-to/behind-a-proxy.md"
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
