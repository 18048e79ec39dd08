"""The Flask extension: the session of a request, a guard for routes, sign-in and sign-out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, NamedTuple, TypeVar, cast, overload
from urllib.parse import urlencode

from ..errors import MissingDependency, SessionError, SessionRejected
from ..manager import SessionManager
from ..policy import require_seconds
from ._web import REFUSED, KeyCarrier, RequestSession, RequestState

try:
    from flask import Flask, Response, after_this_request, current_app, jsonify, redirect, request, url_for
    from werkzeug.http import parse_cookie
    from werkzeug.local import LocalProxy
except ImportError as missing:
    raise MissingDependency("flask", "flask") from missing

EXTENSION: Final = "users_session_manager"
"""Where `app.extensions` holds what `init_app` has made: its `carrier` and its `sessions`."""

View = TypeVar("View", bound=Callable[..., Any])

# A path on this site. Browsers take "//" and a backslash for the beginning of a host, and skip control characters.
_OWN_PATH = re.compile(r"/(?!/)[^\\\x00-\x20\x7f]*")


class UserSessions:
    """The sessions of a Flask application: sign-in, sign-out, and what `session_required` and `current_session` need.

    `UserSessions(app)`, or `sessions = UserSessions()` and `sessions.init_app(app)` in a factory, for any number of
    applications.

    | setting | default | |
    |---|---|---|
    | `USER_SESSIONS_HEADER` | `"Session-Key"` | the header that carries the key; `None` for the cookie alone |
    | `USER_SESSIONS_COOKIE` | `"session_key"` | the cookie that does, without a prefix; `None` for the header alone |
    | `USER_SESSIONS_COOKIE_SECURE` | not `app.debug` | whether that is for https alone, and begins with `__Host-` |
    | `USER_SESSIONS_LOGIN_URL` | `None` | an endpoint or a URL, to which browsers without a session are redirected |

    Args:
        app: The application, as for `init_app`; `None` to call that later.
        manager: The manager of the sessions; `SessionManager()`, at the moment when it is needed, by default.
    """

    def __init__(self, app: Flask | None = None, *, manager: SessionManager | None = None) -> None:
        self._manager = manager
        if app is not None:
            self.init_app(app)

    @property
    def manager(self) -> SessionManager:
        """The manager of the sessions."""
        return SessionManager() if self._manager is None else self._manager

    def init_app(self, app: Flask) -> None:
        """Read the settings of `app`, and register its error handlers.

        From now on `app` answers a rejection with 401, an unavailable store with 503, and an authentication that is too
        old for a view with 403. `app` may replace these error handlers.

        Raises:
            ValueError: A setting cannot work; the text names it.
            SessionError: `app` has its `UserSessions` already.
        """
        if EXTENSION in app.extensions:
            raise SessionError("this application has its UserSessions already")
        carrier, login_url = _carrier(app), app.config.setdefault("USER_SESSIONS_LOGIN_URL", None)
        if login_url is not None and not (isinstance(login_url, str) and login_url):
            raise ValueError(f"USER_SESSIONS_LOGIN_URL must be an endpoint, a URL or None, got {login_url!r}")
        app.extensions[EXTENSION] = _Installed(self, carrier, login_url)
        for error in REFUSED:
            app.register_error_handler(error, _refuse)
        app.context_processor(lambda: {"current_session": current_session})

    def sign_in(self, username: str, *, data: Any = None, timeout: float | None = None) -> str:
        """Sign a user in on this request's client: set the cookie on the answer, and return the session key.

        Call it after the password was checked. The key that the client had before is rejected from now on (OWASP ASVS
        5.0, 7.2.4): a session of the same user and timeout goes on under the new key, any other session of the client
        ends. To start a fresh session, sign out first.

        Args:
            username: Whose session it is.
            data: What to store with the session; `None`, the default, keeps the data of one that goes on.
            timeout: An idle timeout of this session alone, in seconds; the browser then keeps the cookie when it is
                closed. `None`, the default, for that of the manager.

        Raises:
            TypeError, ValueError, TooManySessions, StoreUnavailable: As `loadNewSession`.
        """
        return _state().sign_in(username, data=data, timeout=timeout).key

    def renew_key(self, *, overlap: float = 0) -> str:
        """Give the session of this request a new key, set its cookie, and return the key; see `renewSessionKey`.

        Call it after its user has authenticated again or has got other rights.

        Args:
            overlap: For how many seconds the old key stays valid, 0 by default.

        Raises:
            SessionRejected: There is no live session.
        """
        return _state().renew_key(overlap).key

    def sign_out_elsewhere(self) -> int:
        """End all other sessions of this request's user, and return how many (OWASP ASVS 5.0, 7.4.3).

        For a button, and for a changed password.

        Raises:
            SessionRejected: There is no live session.
        """
        return _state().sign_out_others()

    def sign_out(self) -> bool:
        """End the session of this request and delete its cookie; return whether there was a session."""
        return _state().sign_out()

    def next_page(self, default: str = "/") -> str:
        """Return the page to go to after the login.

        It is the `next` in the query or the form of this request, which an attacker can write: a link to the login page
        must not lead to another site (OWASP ASVS 5.0, 3.7.2).

        Args:
            default: What to return if that is no path of this site.
        """
        path = request.values.get("next", "")
        return path if _OWN_PATH.fullmatch(path) else default


@overload
def session_required(view: View, /) -> View: ...
@overload
def session_required(*, passive: bool = False, max_age: float | None = None) -> Callable[[View], View]: ...
def session_required(
    view: Callable[..., Any] | None = None, /, *, passive: bool = False, max_age: float | None = None
) -> Callable[..., Any]:
    """Guard a view: only requests with a live session reach it, and restart its idle timeout.

    Without one the answer is 401 with `{"logout": true}`, or a redirect to the login page; 503 while the store is
    unavailable. Put the decorator below that of the route:

        @app.get("/profile")
        @session_required
        def profile(): ...

    Args:
        view: The view, also an `async def`.
        passive: Whether the idle timeout does not restart: for what a page requests by itself.
        max_age: How many seconds ago the user may have authenticated at most; later the answer is 403 with
            `{"reauthenticate": true}` (OWASP ASVS 5.0, 7.5.1). `None`, the default, for any.

    Raises:
        TypeError, ValueError: `max_age` is no number of seconds.
    """
    if view is None:
        return lambda view: _guard(view, passive, max_age)
    return _guard(view, passive, max_age)


def _guard(view: View, passive: bool, max_age: float | None) -> View:
    is_async = inspect.iscoroutinefunction(view)
    if max_age is not None:
        require_seconds("max_age", max_age)

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        _state().authenticate(prolong=not passive, max_age=max_age)
        return current_app.ensure_sync(view)(*args, **kwargs) if is_async else view(*args, **kwargs)

    return cast(View, guarded)


class _Installed(NamedTuple):
    """What `init_app` has made for one application."""

    sessions: UserSessions
    carrier: KeyCarrier
    login_url: str | None


def _state() -> RequestState:
    """Return the state of this request. It is the request's own: `flask.g` may be that of several."""
    # Each access through a proxy costs more than all of this.
    this = request._get_current_object()  # type: ignore[attr-defined]
    state: RequestState | None = vars(this).get(EXTENSION)
    if state is None:
        installed, environ = _installed(), this.environ
        carrier = installed.carrier
        cookie = None if carrier.cookie is None else parse_cookie(environ).get(carrier.cookie)
        state = RequestState(lambda: installed.sessions.manager, carrier, environ.get(carrier.variable), cookie)
        vars(this)[EXTENSION] = state
        after_this_request(_finish)
    return state


def _installed() -> _Installed:
    installed: _Installed | None = current_app.extensions.get(EXTENSION)
    if installed is None:
        raise SessionError("UserSessions(app) has not been called for this application")
    return installed


current_session: RequestSession = LocalProxy(lambda: _state().find_session())  # type: ignore[assignment]
"""The session of this request; false without one, which a view under `session_required` need not check."""


def _finish(response: Response) -> Response:
    state, headers = _state(), response.headers
    state.write_cookie(response.set_cookie)
    if state.cookie_changed or headers.get("Cache-Control") is None:
        headers["Cache-Control"] = "no-store"
    else:  # the view has decided; then still not the same for every client
        response.vary.update(name for name in (state.carrier.header, state.carrier.cookie and "Cookie") if name)
    return response


def _refuse(error: Exception) -> Any:
    refusal, login = _state().refuse(error), _installed().login_url
    if isinstance(error, SessionRejected) and login is not None and _wants_html():
        return _redirect_to(login)
    return jsonify(refusal.body), refusal.status, refusal.headers


def _wants_html() -> bool:
    return request.accept_mimetypes.quality("text/html") > request.accept_mimetypes.quality("application/json")


def _redirect_to(login: str) -> Any:
    here = request.script_root + request.full_path.removesuffix("?")
    url = login if "/" in login else url_for(login)
    if request.method == "GET" and _OWN_PATH.fullmatch(here):
        url += ("&" if "?" in url else "?") + urlencode({"next": here})
    return redirect(url, 303)


def _carrier(app: Flask) -> KeyCarrier:
    header = app.config.setdefault("USER_SESSIONS_HEADER", "Session-Key")
    cookie = app.config.setdefault("USER_SESSIONS_COOKIE", "session_key")
    secure = app.config.setdefault("USER_SESSIONS_COOKIE_SECURE", not app.debug)
    if not isinstance(secure, bool):
        raise ValueError(f"USER_SESSIONS_COOKIE_SECURE must be True or False, got {secure!r}")
    if cookie is not None and cookie == app.config["SESSION_COOKIE_NAME"]:
        raise ValueError(f"USER_SESSIONS_COOKIE cannot be {cookie!r}: that is the cookie of Flask's own session")
    try:
        return KeyCarrier(header=header, cookie=cookie, secure=secure)
    except ValueError as wrong:
        raise ValueError(f"USER_SESSIONS_HEADER or USER_SESSIONS_COOKIE: {wrong}") from None
