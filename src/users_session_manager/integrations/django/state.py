"""The state of one request: its session, its user, and its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, get_user
from django.contrib.auth import SESSION_KEY as USER_IN_SESSION
from django.contrib.sessions.backends.base import UpdateError
from django.core.exceptions import SynchronousOnlyOperation
from django.urls import Resolver404, resolve
from django.utils.cache import patch_vary_headers

from ...errors import SessionRejected, StoreUnavailable
from ...events import running_loop
from ...session import Session
from .._cookies import KeyCarrier, read_cookie
from .._refusals import NO_STORE
from .._request import RequestSession, RequestState
from .._urls import is_forwarded_https
from . import conf, testing, users
from .answers import answer_to

Verdict = Literal["live", "ended", "set aside"]
"""Whether a login in Django's session counts: yes; no, so it is removed; not for this request, so it stays."""

KEY_IN_SESSION = "_user_session_key"
"""Where Django's own session stores the key of its login."""

LOGIN = (USER_IN_SESSION, BACKEND_SESSION_KEY, HASH_SESSION_KEY, KEY_IN_SESSION)
"""Where Django's own session stores its login."""

current: ContextVar[DjangoState | None] = ContextVar("users_session_manager_request", default=None)
"""The state of the request that is being answered, for signals that come without a request."""


class DjangoState(RequestState):
    """The state of one request, for the middleware.

    The login in Django's own session decides which session the request has, unless it presents a key in the header: a
    client that has lost our cookie, or a test client after `force_login`, is logged in all the same, and gets it again.

    Threads: those of the request, one at a time; `ask` keeps what may wait off an event loop.
    """

    options: Mapping[str, Any] = MappingProxyType({})  # for the session that a login starts
    failure: Exception | None = None  # what the store, or a login, has failed with
    _prolonged: frozenset[str] = frozenset()  # the keys of the sessions whose idle timeout has restarted
    _rejected: frozenset[str] = frozenset()  # keys without a live session
    _passive: bool | None = None
    _user_by_key: Any = None  # the user of a session without a login in Django's session
    _has_begun = False  # whether a login has begun in this request
    _is_rejected = False  # whether the answer is 401
    _loaded_with: Any = None  # the session of Django's that `_session` belongs to
    _login: Session | None = None  # see `login`
    _login_in: Any = None
    _varies = False  # whether the answer depends on the key
    has_begun_answer = False  # whether it takes no cookie any more

    def __init__(self, request: Any, carrier: KeyCarrier) -> None:
        cookie = None if carrier.cookie is None else read_cookie(request.META.get("HTTP_COOKIE"), carrier.cookie)
        # As the server has it; `request.headers` would first copy all headers.
        header = request.META.get(carrier.variable)
        super().__init__(conf.manager, carrier, header, cookie)
        self._request = request
        self._came_with = vars(request).get("session")  # Django's session of the client; a view may replace it
        self._found: dict[str, Session] = {}  # live sessions, by the keys that the store was asked for

    # The session of the request

    @property
    def key(self) -> str | None:
        login = None if self.has_header else self.login()
        if login is None:
            return self.presented if self.has_header or not self._is_swapped() else None
        return login.key

    def presented_keys(self) -> list[str | None]:
        presented = [] if self._is_swapped() else super().presented_keys()
        return [*presented, self._request.session.get(KEY_IN_SESSION)]

    def authenticate(self, *, prolong: bool = True, max_age: float | None = None) -> RequestSession:
        self._varies = True
        self._adopt()
        return super().authenticate(prolong=prolong, max_age=max_age)

    def let_in(self, *, prolong: bool, max_age: float | None) -> None:
        """Guard a view: authenticate the request, and let `request.user` be the user of its session."""
        self.authenticate(prolong=prolong and not self.is_passive(), max_age=max_age)
        if (user := self._user_by_key) is not None:

            async def auser() -> Any:
                return user

            self._request.user, self._request.auser = user, auser

    def find_session(self, *, prolong: bool | None = None) -> RequestSession | None:
        if self._loaded_with not in (None, self._request.session):  # the application has replaced it
            self._session, self._is_loaded = None, False
        self._loaded_with = self._request.session
        return super().find_session(prolong=not self.is_passive() if prolong is None else prolong)

    def is_passive(self) -> bool:
        """Return whether this request leaves the idle timeout as it is."""
        if self._passive is None:
            match = self._request.resolver_match
            if match is None:  # a middleware asks, before the view is known
                with suppress(Resolver404):
                    match = resolve(self._request.path_info, getattr(self._request, "urlconf", None))
            self._passive = conf.is_passive(self._request.path_info, match)
        return self._passive

    def user_session(self) -> RequestSession | None:
        """Return the live session, or `None`; `request.user_session`."""
        if not self._is_loaded and self.manager.blocking:
            self.require_sync_context("request.auser_session()")
        return self.find_session()

    async def auser_session(self) -> RequestSession | None:
        """As `user_session`, on an event loop; `request.auser_session`."""
        return await self.ask(self.find_session)  # type: ignore[no-any-return]

    async def ask(self, question: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `question` on a thread that may wait; on this one if the request presents nothing to ask for."""
        if self.presented is None and self._request.session.session_key is None:
            return question(*args, **kwargs)
        return await sync_to_async(question)(*args, **kwargs)

    def require_sync_context(self, instead: str) -> None:
        """Raise `SynchronousOnlyOperation` on an event loop, as Django does for its database."""
        if running_loop() is not None:
            raise SynchronousOnlyOperation(f"this may have to wait: say `await {instead}` here")

    def _find(self, key: str, *, prolong: bool) -> Session:
        session = self._found.get(key)
        if session is not None and (not prolong or session.key in self._prolonged):
            return session
        if key in self._rejected:
            raise SessionRejected  # it was announced already
        try:
            session = super()._find(key, prolong=prolong)
        except SessionRejected:
            self._rejected |= {key}
            raise
        except StoreUnavailable as error:
            self.failure = error
            raise
        self._found[key] = self._found[session.key] = session
        if prolong:
            self._prolonged |= {session.key}
        return session

    def _load(self, session: Session) -> RequestSession:
        # A former key in Django's session still leads to it, any other session has ended.
        self._found = {key: session for key, found in self._found.items() if found.key == session.key}
        self._found[session.key] = session
        if self._login is not None and self._login.key != session.key:
            self._login = None
        self._loaded_with = self._request.session
        return super()._load(session)

    def _replace(self, session: Session) -> RequestSession:
        if self._is_swapped():
            return self._load(session)  # the client's own keys stay as they are
        return super()._replace(session)

    def _require_user(self, session: Session) -> None:
        """Raise `SessionRejected` for a session whose user Django refuses: deleted, deactivated, another password."""
        login = self.login()
        if login is not None and login.key == session.key:
            if self._request.user.is_authenticated:
                return
            if get_user(self._request).is_authenticated:
                raise SessionRejected  # a middleware refuses the user for this request
        elif session.securityStamp is None:
            return  # the application has made it, with users of its own
        elif not self.has_header:
            # Our cookie alone is no login: Django's has expired or was removed, unless the cookie is not sent here.
            if settings.SESSION_COOKIE_NAME not in self._request.COOKIES:
                raise SessionRejected
        else:
            user = users.find(session.userId)
            if user is not None and users.is_stamp_of(session.securityStamp, user):
                self._user_by_key = user
                return
        self._end(session.key)
        raise SessionRejected

    # The login in Django's session

    def _is_swapped(self) -> bool:
        """Return whether a view has put another of Django's sessions under the request: not that of the client."""
        return self._request.session is not self._came_with

    def loads(self, store: Any) -> bool:
        """Return whether `store` is the session of this request."""
        return vars(self._request).get("session") is store

    def judge(self, data: dict[str, Any]) -> Verdict:
        """Return whether the login in Django's session, whose data this is, counts for this request.

        The key in Django's session may be a former one: a request that was under way during a renewal may have given it
        back to the client. Then the presented key, if it is that of the same session, proves the login.
        """
        key, prolong = data.get(KEY_IN_SESSION), not self.is_passive()
        if self.presented is not None and (self.has_header or not self._is_swapped()):
            with suppress(SessionRejected):
                session = self._find(self.presented, prolong=prolong)
                if key == session.key or key in session.formerKeys:
                    self._found[key] = session
                    return "live"
            if self.has_header:
                return "set aside"  # a request with the key of another session is not that of this login
        if key is None:
            return "live"  # and it is given a session, see `_adopt`
        try:
            self._find(key, prolong=prolong)
        except SessionRejected:
            return "set aside" if self.manager.isForeign(key) else "ended"
        return "live"

    def login(self, *, again: bool = False) -> Session | None:
        """Return the live session of the login in Django's session; `None` without one.

        What was found before counts, unless it is to be looked for `again`, or the session was replaced or flushed.
        """
        session = self._request.session
        if self._login is None or again or self._login_in is not session or not hasattr(session, "_login_key"):
            self._login, self._login_in = self._find_login(session), session
        return self._login

    def _find_login(self, session: Any) -> Session | None:
        key, user_id = session.get(KEY_IN_SESSION), session.get(USER_IN_SESSION)
        if key is None or user_id is None:
            return None
        try:
            found = self._found.get(key) or self._find(key, prolong=not self.is_passive())
        except SessionRejected:
            return None
        return found if found.userId == user_id else None

    def begin(self, user: Any, *, capped: bool = True) -> None:
        """Start the session of a login, or go on with that of the same user under a new key (OWASP ASVS 5.0, 7.2.4).

        Without `capped`, it is a login that was let in before: its user may have any number of sessions.
        """
        testing.watch()
        self._remove_data_of_another(user)
        who: dict[str, Any] = {"userId": users.id_of(user), "securityStamp": users.stamp_of(user)}
        session = self.sign_in(users.name_of(user), capped=capped, **who, **self.options)
        if KEY_IN_SESSION in self._request.session:  # the same user was logged in: Django keeps its session key
            self._request.session.cycle_key()
        self.set_login_key(session.key)
        self._prolonged |= {session.key}
        self._has_begun = True

    def require_own_form(self) -> None:
        """Raise `CrossOriginRequest` if a form of another origin has made this request, and Django has not looked."""
        request = self._request
        # A middleware may log a user in by a certificate, before Django's check has run, and at any request.
        is_in_view = request.resolver_match is not None
        has_looked = getattr(request, "csrf_processing_done", False) or _is_of_test_client(request)
        if is_in_view and not self.has_header and not has_looked:
            conf.origins().require_own_form(request.method, self._header, is_https=self._is_https())

    def _header(self, name: str) -> str | None:
        """Return a header of the request; without a `Host`, what the server says."""
        value: str | None = self._request.headers.get(name)
        return self._request.get_host() if value is None and name == "Host" else value

    def _remove_data_of_another(self, user: Any) -> None:
        """Remove the data of another user whose login was set aside; else Django's `login` removes it."""
        session = self._request.session
        aside = vars(session).pop("_login_aside", None)
        if aside is not None and aside[USER_IN_SESSION] != users.id_of(user):
            for name in set(session.keys()).difference(LOGIN):
                del session[name]

    def set_login_key(self, key: str) -> None:
        """Store the key of the login in Django's session."""
        self._request.session[KEY_IN_SESSION] = self._request.session._login_key = key
        self._login = None

    def _adopt(self) -> None:
        """Start a session for a login that has none: one made by hand, elsewhere, or before this library was there."""
        if self.has_header or self.login() is not None or USER_IN_SESSION not in self._request.session:
            return
        user = get_user(self._request)
        if user.is_authenticated and not self._was_adopted():
            self.begin(user, capped=False)
            with suppress(UpdateError):  # Django's session was removed meanwhile
                self._request.session.save()

    def _was_adopted(self) -> bool:
        """Take the key that another request has given the login meanwhile; return whether there is one."""
        session = self._request.session
        stored = type(session)(session.session_key)
        key = stored.get(KEY_IN_SESSION)
        if key is None or stored.get(USER_IN_SESSION) != session[USER_IN_SESSION]:
            return False
        self.set_login_key(key)
        return self.login() is not None

    # The answer

    def answer(self, error: Exception) -> Any:
        """Return the answer to a request that is refused."""
        self._varies = True
        self._is_rejected = isinstance(error, SessionRejected)
        refusal = self.refuse(error)
        return answer_to(self._request, refusal)

    async def afinish(self, response: Any) -> Any:
        """As `finish`, on an event loop."""
        if self._request.session.accessed or settings.SESSION_SAVE_EVERY_REQUEST:
            return await sync_to_async(self.finish)(response)
        return await self.ask(self.finish, response)

    def finish(self, response: Any) -> Any:
        """Make the session and Django's login consistent, and add to an answer what the client and caches need."""
        if not isinstance(self.failure, StoreUnavailable):
            try:
                self._finish_sessions(response.status_code)
            except StoreUnavailable:
                pass  # it is in the log, and a request that needs the answer gets a 503
        if self.failure is not None:
            if response.status_code == 500:
                response = self.answer(self.failure)
            if isinstance(self.failure, StoreUnavailable):
                self._leave_unloaded(response.status_code)
        self._keep_djangos_cookie()
        if self._varies:
            names = [name for name in (self.carrier.header, "Cookie") if name]
            if "Vary" in response.headers:
                patch_vary_headers(response, names)
            else:
                response.headers["Vary"] = ", ".join(names)
        self.has_begun_answer = True
        if self.cookie_changed:
            is_https = self._is_https() or _is_of_test_client(self._request)
            self.write_cookie(lambda each: response.cookies.update({each.key: each}), is_https=is_https)
            response.headers["Cache-Control"] = NO_STORE  # as Flask and FastAPI, whatever the view says
        return response

    def _keep_djangos_cookie(self) -> None:
        """Keep SessionMiddleware from deleting Django's cookie, unless the application has flushed its session.

        It would do so for a session that has ended, though the client may have got the cookie of another one meanwhile.
        """
        session = vars(self._request).get("session")
        if session is not None and session.is_empty() and not getattr(session, "_was_flushed", False):
            self._request.COOKIES.pop(settings.SESSION_COOKIE_NAME, None)

    def _leave_unloaded(self, status: int) -> None:
        """Keep SessionMiddleware and what is above it from asking the store again for a session that is not loaded."""
        if not hasattr(self._request.session, "_session_cache"):
            if status >= 500:  # then SessionMiddleware does not store it
                self._request.session._session_cache = {}
            else:
                del self._request.session

    def _finish_sessions(self, status: int) -> None:
        session = self._request.session
        if session.accessed and status < 500 and not self._has_begun and self._is_consistent(session):
            return
        if settings.SESSION_SAVE_EVERY_REQUEST:
            session.get(KEY_IN_SESSION)  # else SessionMiddleware loads it, where no code answers for the store
        if self._has_begun and (self._is_rejected or status >= 500):
            self.sign_out()
            self._cookie_change = None
            discard(session)
            return
        self._prolong()
        if not session.accessed or status >= 500:  # then SessionMiddleware does not store what follows
            return
        self.login(again=True)
        self._adopt()
        self._follow_django()
        self._put_login_back()

    def _is_consistent(self, session: Any) -> bool:
        """Return whether the login, Django's session and the cookie agree, as they do at most requests."""
        login, user, stored = self.login(), self._cached_user(), session._session
        return (
            login is not None
            and login.key == stored.get(KEY_IN_SESSION) == self._cookie
            and login.userId == stored.get(USER_IN_SESSION)
            and login.securityStamp == stored.get(HASH_SESSION_KEY)
            and (user is None or user.is_authenticated)
        )

    def _cached_user(self) -> Any:
        """Return the user that AuthenticationMiddleware has found, `None` if nothing has asked for it."""
        cached = vars(self._request)
        return cached.get("_cached_user", cached.get("_acached_user"))

    def _prolong(self) -> None:
        """Restart the idle timeout of the presented key, if the session in Django has not led to it already."""
        presented = self.presented
        if presented is None or presented in self._rejected or self.is_passive():
            return
        found = self._found.get(presented)
        if found is None or found.key not in self._prolonged:
            self.manager._resume(presented)  # a stale cookie at an open page is no rejection

    def _follow_django(self) -> None:
        """End the session of a login that Django has refused or removed; renew its key if the password has changed."""
        session, login = self._request.session, self.login()
        if login is None:
            if not hasattr(session, "_login_key") and session.session_key:  # it was cleared before it was read
                stored = type(session)(session.session_key)
                stored.load()
                session._login_key = stored._login_key
            if (key := getattr(session, "_login_key", None)) and not hasattr(session, "_login_aside"):
                self._end(key)
            return
        user = self._cached_user()
        stamp = session.get(HASH_SESSION_KEY)
        has_changed = login.securityStamp not in (None, stamp)
        if has_changed or (user is not None and not user.is_authenticated):
            user = get_user(self._request)
            if not user.is_authenticated:
                self._end(login.key)
            elif has_changed and users.is_stamp_of(str(login.securityStamp), user):
                self.manager._set_security_stamp(login.key, stamp)  # of the same password, with a new SECRET_KEY
            elif has_changed:
                self._renew_stamp(stamp)
        elif self.has_header or self.cookie_changed or self._cookie == login.key or self._is_swapped():
            return
        elif session[KEY_IN_SESSION] == login.key:  # a former one, which may be a copy, gets no new one
            self._replace(login)

    def _renew_stamp(self, stamp: str) -> None:
        try:
            self.set_login_key(self.renew_key(securityStamp=stamp).key)
        except SessionRejected:  # another request has come in between: Django refused its login until this is stored
            self.begin(get_user(self._request))

    def _put_login_back(self) -> None:
        """Let Django's session have the login again that did not count for this request alone."""
        session = self._request.session
        aside = vars(session).pop("_login_aside", None)
        if aside and USER_IN_SESSION not in session:
            is_modified = session.modified
            session.update(aside)
            session.modified = is_modified

    def _is_https(self) -> bool:
        """Return whether the client came over https, as far as that is known."""
        if self._request.is_secure():
            return True
        return is_forwarded_https(self._request.META.get("HTTP_X_FORWARDED_PROTO", ""), conf.read()["PROXIES"])


def _is_of_test_client(request: Any) -> bool:
    """Return whether a test client has made a request, to which Django lets forms of all origins in."""
    return getattr(request, "_dont_enforce_csrf_checks", False)


class UserSessionAttribute:
    """`request.user_session`, which the application may replace.

    It is not one of Django's lazy objects: `request.user_session is None` would never be true of one.
    """

    def __get__(self, request: Any, owner: type | None = None) -> Any:
        if request is None:
            return self
        state = state_of(request)
        if state is None:
            raise AttributeError(
                "this request did not come through UserSessionMiddleware: it has no user_session. Add it to "
                "MIDDLEWARE; in a test, use a Client in place of a RequestFactory, see docs/frameworks/django.md"
            )
        return state.user_session()


def state_of(request: Any) -> DjangoState | None:
    """Return the state of a request, or `None` if the middleware has not seen it, as with a `force_login`."""
    return getattr(request, "_user_session_state", None)


def discard(session: Any) -> None:
    """Flush one of Django's sessions without a request to sign out: the client keeps its cookie."""
    session.flush()
    session._was_flushed = False


def anonymous() -> Any:
    """Return the user of a request without a login."""
    from django.contrib.auth.models import AnonymousUser  # models wait for the applications

    return AnonymousUser()
