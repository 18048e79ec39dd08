"""The state of one request: its session, and the cookie and the headers of its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from flask import Response, after_this_request, current_app, request
from werkzeug.local import LocalProxy

from ...errors import SessionError, SessionRejected
from ...session import Session
from .._cookies import read_cookie
from .._forgery import OriginCheck
from .._refusals import NO_STORE
from .._request import HAS_BEGUN, RequestSession, RequestState
from .._settings import carrier_of
from .._urls import is_forwarded_https

if TYPE_CHECKING:
    from .extension import UserSessions
    from .login import Bridge

EXTENSION: Final = "users_session_manager"
"""Where `app.extensions` holds what `init_app` has made: its `carrier` and its `sessions`."""


class FlaskState(RequestState):
    """One request in Flask. The store is asked once for each key, and once more for what prolongs it afterwards."""

    varies = False  # whether the answer depends on the session
    is_answered = False  # whether its answer takes no cookie any more
    _asked: str | None = None  # the key that the store was asked for last
    _found: Session | None = None  # and what it has answered
    _is_prolonged = False
    _is_repeated = False  # whether that answer is used once more

    def sign_in(self, username: str, **options: Any) -> RequestSession:
        self._require_answer()
        return super().sign_in(username, **options)

    def renew_key(self, overlap: float = 0, securityStamp: str | None = None) -> RequestSession:
        self._require_answer()
        return super().renew_key(overlap, securityStamp)

    def _require_answer(self) -> None:
        """Raise `SessionError` where no answer can set the cookie, as in a handler of flask_socketio."""
        if self.carrier.cookie is None:
            return
        if self.is_answered and installation().bridge is None:  # else Flask's own session, stored later, has the key
            raise SessionError(HAS_BEGUN)
        if {"sid", "namespace"} <= vars(request._get_current_object()).keys():  # type: ignore[attr-defined]
            raise SessionError(
                "a Socket.IO handler has no answer that could set the cookie: sign in, and renew keys, in a view, "
                "and let the page connect again; or set USER_SESSIONS_COOKIE to None, for clients that send a "
                "header alone, see docs/frameworks/flask.md"
            )

    def _find(self, key: str, *, prolong: bool) -> Session:
        self._is_repeated = key == self._asked and (self._found is None or self._is_prolonged or not prolong)
        if not self._is_repeated:
            self._asked, self._found = key, None
            self._found, self._is_prolonged = super()._find(key, prolong=prolong), prolong
        if self._found is None:
            raise SessionRejected  # it was announced already
        return self._found

    def _load(self, session: Session) -> RequestSession:
        if self._is_repeated and self._session is not None:
            return self._session  # with the data that the view has stored since
        return super()._load(session)

    def _replace(self, session: Session) -> RequestSession:
        self._asked, self._found, self._is_repeated = session.key, session, False
        return super()._replace(session)


class Installation:
    """The carrier, the settings and the bridge of one application, as `init_app` has made them."""

    def __init__(self, sessions: UserSessions, options: dict[str, Any]) -> None:
        self.sessions = sessions
        self.carrier = carrier_of(options)
        self.login_url: str | None = options["LOGIN_URL"]
        self.has_api: bool = options["API"]
        self.proxies: int = options["PROXIES"]
        self.origins = OriginCheck(options["TRUSTED_ORIGINS"], self.proxies)
        self.bridge: Bridge | None = None
        self.state_class: type[FlaskState] = FlaskState
        self.options = options


def installation() -> Installation:
    """Return what `init_app` has made for the application of this request; raise `SessionError` without it."""
    installed: Installation | None = current_app.extensions.get(EXTENSION)
    if installed is None:
        raise SessionError(
            "UserSessions(app) has not been called for this application: call it where the application is made, see "
            "docs/frameworks/flask.md"
        )
    return installed


def current_state() -> FlaskState:
    """Return the state of this request, whose answer then depends on the session."""
    state = state_of_request()
    state.varies = True
    return state


def state_of_request() -> FlaskState:
    """Return the state of this request. It is the request's own: `flask.g` may be that of several."""
    # Each access through a proxy costs more than all of this.
    this = request._get_current_object()  # type: ignore[attr-defined]
    state: FlaskState | None = vars(this).get(EXTENSION)
    if state is None:
        installed, environ = installation(), this.environ
        carrier = installed.carrier
        cookie = None if carrier.cookie is None else read_cookie(environ.get("HTTP_COOKIE"), carrier.cookie)
        manager = installed.sessions.manager  # which is asked for several times
        state = installed.state_class(lambda: manager, carrier, environ.get(carrier.variable), cookie)
        vars(this)[EXTENSION] = state
        after_this_request(finish)
    return state


class _CurrentSession(LocalProxy[RequestSession | None]):
    """The session of this request. A view that uses the session of a request without one learns what to do.

    Without a session `hasattr` is false, and a template shows nothing, as of `None`.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._require(name), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._require(name), name, value)

    def _require(self, name: str) -> RequestSession:
        session = self._get_current_object()
        if session is None:
            raise AttributeError(
                f"no user is signed in, so current_session has no {name!r}: guard the view with @session_required, or "
                "ask `if current_session` first, see docs/frameworks/flask.md"
            )
        return session


current_session: RequestSession = _CurrentSession(lambda: current_state().find_session())  # type: ignore[assignment]
"""The session of this request; false without one, which a view under `session_required` need not check."""


def finish(response: Response) -> Response:
    """Add to an answer the cookie, and what caches have to know."""
    state = state_of_request()
    state.is_answered = True
    if state.cookie_changed:
        add = response.headers.add
        state.write_cookie(lambda cookie: add("Set-Cookie", cookie.OutputString()), is_https=is_https())
    if not state.varies and not state.cookie_changed:
        return response
    headers = response.headers
    if "Cache-Control" not in headers:
        headers.add("Cache-Control", NO_STORE)
    elif state.cookie_changed or not _has_own_cache_control(response):
        headers["Cache-Control"] = NO_STORE
    if "Vary" not in headers:  # the usual case, which costs less so
        headers.add("Vary", ", ".join(state.carrier.varies_by))
    else:
        response.vary.update(state.carrier.varies_by)
    return response


def finish_late(process: Callable[..., Response], *args: Any) -> Response:
    """Finish the answer of a request for whose session only an `after_request` function has asked."""
    response = process(*args)
    state: FlaskState | None = vars(request._get_current_object()).get(EXTENSION)  # type: ignore[attr-defined]
    return response if state is None or state.is_answered else finish(response)


def _has_own_cache_control(response: Response) -> bool:
    """Return whether the view says what caches may do; `send_file` says something of its own in any case."""
    if not response.direct_passthrough:
        return True
    given, default = response.cache_control, current_app.get_send_file_max_age(None)
    return not given.no_cache and (default is None or given.max_age != default)


def is_https() -> bool:
    """Return whether the client came over https, as far as that is known."""
    forwarded = request.headers.get("X-Forwarded-Proto", "")
    return request.is_secure or is_forwarded_https(forwarded, installation().proxies)


def require_own_form() -> None:
    """Raise `CrossOriginRequest` if a form of another origin has made this request."""
    installed = installation()
    # Without a cookie a form has nothing to set or to use; a header with the key takes a CORS preflight.
    has_cookie = installed.carrier.cookie is not None or installed.bridge is not None
    if has_cookie and not current_state().has_header:
        installed.origins.require_own_form(request.method, request.headers.get, is_https=is_https())
