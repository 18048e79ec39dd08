"""The Flask extension: the session of a request, a guard for routes, a login and a logout."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, NamedTuple, TypeVar, cast, overload
from urllib.parse import urlencode

from .. import web
from ..errors import AuthenticationTooOld, MissingDependency, SessionError, SessionRejected, StoreUnavailable
from ..manager import SessionManager
from ..policy import require_seconds
from ..web import KeyCarrier, RequestSession

try:
    from flask import Flask, Response, after_this_request, current_app, jsonify, redirect, request, url_for
    from werkzeug.http import parse_cookie
    from werkzeug.local import LocalProxy
except ImportError as missing:
    raise MissingDependency("flask", "flask") from missing

EXTENSION: Final = "users_session_manager"
"""Where `app.extensions` holds what `init_app` has put together: its `carrier`, and its `sessions`."""

View = TypeVar("View", bound=Callable[..., Any])

# A path on this site. Browsers take "//" and a backslash for the beginning of a host, and skip control characters.
_OWN_PATH = re.compile(r"/(?!/)[^\\\x00-\x20\x7f]*")


class UserSessions:
    """The sessions of a Flask application: a login, a logout, and what `session_required` and `current_session` need.

    `UserSessions(app)`, or `sessions = UserSessions()` and `sessions.init_app(app)` in a factory, for any number of
    applications. `manager` is `SessionManager()` as it is when it is needed, unless given.

    | setting | default | |
    |---|---|---|
    | `USER_SESSIONS_HEADER` | `"Session-Key"` | the header that carries the key; `None` for the cookie alone |
    | `USER_SESSIONS_COOKIE` | `"session_key"` | the cookie that does, without a prefix; `None` for the header alone |
    | `USER_SESSIONS_COOKIE_SECURE` | not `app.debug` | whether that is for https alone, and begins with `__Host-` |
    | `USER_SESSIONS_LOGIN_URL` | `None` | an endpoint or a URL, to send browsers to that have no session |
    """

    def __init__(self, app: Flask | None = None, *, manager: SessionManager | None = None) -> None:
        self._manager = manager
        if app is not None:
            self.init_app(app)

    @property
    def manager(self) -> SessionManager:
        """The manager that is asked."""
        return SessionManager() if self._manager is None else self._manager

    def init_app(self, app: Flask) -> None:
        """Read the settings of `app`; from now on it answers a rejection with 401, and a store that is away with 503.

        A login that is too old for a view is 403. The answers are error handlers, which `app` may replace.
        Raises `ValueError` that names the setting for a value that cannot work, and `SessionError` the second time.
        """
        if EXTENSION in app.extensions:
            raise SessionError("this application has its UserSessions already")
        carrier, login_url = _carrier(app), app.config.setdefault("USER_SESSIONS_LOGIN_URL", None)
        if login_url is not None and not (isinstance(login_url, str) and login_url):
            raise ValueError(f"USER_SESSIONS_LOGIN_URL must be an endpoint, a URL or None, got {login_url!r}")
        variable = None if carrier.header is None else f"HTTP_{carrier.header.upper().replace('-', '_')}"
        app.extensions[EXTENSION] = _Installed(self, carrier, variable, login_url)
        app.register_error_handler(SessionRejected, _answer_rejection)
        app.register_error_handler(StoreUnavailable, _answer_unavailable)
        app.register_error_handler(AuthenticationTooOld, lambda _: (jsonify(web.TOO_OLD), 403))
        app.context_processor(lambda: {"current_session": current_session})

    def sign_in(self, username: str, *, data: Any = None, timeout: float | None = None) -> str:
        """Begin a session for `username`, set its cookie on the answer to this request, and return its key.

        Call it after the password was checked. `data` and `timeout` are `loadNewSession`'s; with a `timeout` of its own
        the browser keeps the cookie when it is closed. The key that the client had before is dead from now on (OWASP
        ASVS 5.0, 7.2.4): a session of the same user and timeout goes on under the new key, any other ends. Raises what
        `loadNewSession` raises.
        """
        visit = _visit()
        return visit.enter(web.sign_in(visit.manager, visit.shown(), username, data=data, timeout=timeout)).key

    def renew_key(self, *, overlap: float = 0) -> str:
        """Give the session of this request a new key, set its cookie, and return the key; see `renewSessionKey`.

        Call it when its user has proved again who they are, or has got other rights. Raises `SessionRejected` without a
        session.
        """
        visit = _visit()
        return visit.enter(web.renew_key(visit.manager, visit.key, overlap=overlap)).key

    def sign_out_elsewhere(self) -> int:
        """End all other sessions of this request's user, and return how many (OWASP ASVS 5.0, 7.4.3).

        For a button, and for after a password was changed. Raises `SessionRejected` without a session.
        """
        visit = _visit()
        return web.dismiss_elsewhere(visit.manager, visit.key)

    def sign_out(self) -> bool:
        """End the session of this request, take its cookie back, and tell whether there was a session."""
        visit = _visit()
        ended = [web.dismiss(visit.manager, key) for key in visit.shown()]
        visit.leave()
        return any(ended)

    def next_page(self, default: str = "/") -> str:
        """Return where this request wants to go after the login, `default` if it is no path of this site.

        That is what the `next` of its query or its form says, which anybody can write: a link to the login page must
        not lead to another site (OWASP ASVS 5.0, 3.7.2).
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
    """Let only those into a view who have logged in; their session begins its timeout again.

    A `passive` view prolongs nothing: for what a page asks for by itself. Everyone else is answered 401 with
    `{"logout": true}`, or sent to the login page, and 503 while the store is away. With a `max_age`, whoever has proved
    longer ago than that many seconds who they are is answered 403 with `{"reauthenticate": true}` (OWASP ASVS 5.0,
    7.5.1); `TypeError` or `ValueError` for one that is no number of seconds. It stands below the route:

        @app.get("/profile")
        @session_required
        def profile(): ...
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
        visit = _visit()
        visit.session = web.admit(visit.manager, visit.key, prolong=not passive, max_age=max_age)
        return current_app.ensure_sync(view)(*args, **kwargs) if is_async else view(*args, **kwargs)

    return cast(View, guarded)


class _Installed(NamedTuple):
    """What `init_app` has put together for one application."""

    sessions: UserSessions
    carrier: KeyCarrier
    variable: str | None  # the name of the header in WSGI
    login_url: str | None


_UNASKED: Final = cast(RequestSession, object())


class _Visit:
    """What one request has to do with sessions. It is the request's own: `flask.g` may be that of several."""

    __slots__ = ("_moved", "installed", "key", "manager", "session")

    def __init__(self, installed: _Installed, environ: dict[str, Any]) -> None:
        carrier = installed.carrier
        # At most one: a WSGI server has joined a header that stands twice, or dropped it.
        values = [environ[installed.variable]] if installed.variable in environ else []
        self.key = carrier.key(values, None if values else _cookie(environ, carrier.cookie))
        self.manager = installed.sessions.manager
        self.session: RequestSession | None = _UNASKED
        self.installed = installed
        self._moved = False
        after_this_request(self._finish)

    def enter(self, session: RequestSession) -> RequestSession:
        """Go on with another session, or under another key, and tell the client."""
        self.key, self.session, self._moved = session.key, session, True
        return session

    def leave(self) -> None:
        """Go on without a session, and tell the client."""
        self.key, self.session, self._moved = None, None, True

    def shown(self) -> list[str | None]:
        """Return all keys that the client shows; first the one of its session by now."""
        return [self.key, _cookie(request.environ, self.installed.carrier.cookie)]

    def look(self) -> RequestSession | None:
        """Return the session, if there is one; asks once."""
        if self.session is _UNASKED:
            try:
                self.session = web.admit(self.manager, self.key, prolong=False)
            except SessionRejected:
                self.session = None
        return self.session

    def drop_dead_cookie(self) -> None:
        """Take the client's cookie back if its session has ended.

        What was rejected may be another key: that of a header, or one that the view has looked up.
        """
        key = None if self._moved else self.shown()[1]
        try:
            if key is not None and self.manager.getUsernameFromSessionKey(key) is False:
                self.leave()
        except StoreUnavailable:
            pass  # not known to have ended

    def _finish(self, response: Response) -> Response:
        carrier, headers = self.installed.carrier, response.headers
        if self._moved:
            headers["Cache-Control"] = "no-store"
            if carrier.cookie is not None and self.session is None:
                response.delete_cookie(carrier.cookie, **carrier.cookie_options())
            elif carrier.cookie is not None and self.session is not None:
                response.set_cookie(carrier.cookie, self.session.key, **carrier.cookie_options(self.session))
        elif headers.get("Cache-Control") is None:
            headers.add("Cache-Control", "no-store")
        else:  # the view knows better; then still not for everyone
            response.vary.update(name for name in (carrier.header, carrier.cookie and "Cookie") if name)
        return response


def _cookie(environ: dict[str, Any], name: str | None) -> str | None:
    return None if name is None else parse_cookie(environ).get(name)


def _visit() -> _Visit:
    # Each look through a proxy costs more than all of this.
    asked = request._get_current_object()  # type: ignore[attr-defined]
    visit: _Visit | None = vars(asked).get(EXTENSION)
    if visit is None:
        installed = current_app._get_current_object().extensions.get(EXTENSION)  # type: ignore[attr-defined]
        if installed is None:
            raise SessionError("UserSessions(app) has not been called for the application of this request")
        visit = vars(asked)[EXTENSION] = _Visit(installed, asked.environ)
    return visit


current_session: RequestSession = LocalProxy(lambda: _visit().look())  # type: ignore[assignment]
"""The session of this request; false if there is none, which a view under `session_required` need not ask."""


def _carrier(app: Flask) -> KeyCarrier:
    header = app.config.setdefault("USER_SESSIONS_HEADER", "Session-Key")
    cookie = app.config.setdefault("USER_SESSIONS_COOKIE", "session_key")
    secure = app.config.setdefault("USER_SESSIONS_COOKIE_SECURE", not app.debug)
    if not isinstance(secure, bool):
        raise ValueError(f"USER_SESSIONS_COOKIE_SECURE must be True or False, got {secure!r}")
    if cookie is not None and cookie == app.config["SESSION_COOKIE_NAME"]:
        raise ValueError(f"USER_SESSIONS_COOKIE cannot be {cookie!r}: that is the cookie of Flask's own session")
    setting = "USER_SESSIONS_HEADER"
    try:
        KeyCarrier(header=header)
        setting = "USER_SESSIONS_COOKIE"
        KeyCarrier(cookie=cookie)
        setting = "USER_SESSIONS_HEADER and USER_SESSIONS_COOKIE"
        return KeyCarrier(header=header, cookie=cookie, secure=secure)
    except ValueError as wrong:
        raise ValueError(f"{setting}: {wrong}") from None


def _answer_rejection(_: SessionRejected) -> Any:
    visit = _visit()
    visit.drop_dead_cookie()
    login, accepted = visit.installed.login_url, request.accept_mimetypes
    if login is None or accepted.quality("text/html") <= accepted.quality("application/json"):
        return jsonify(web.LOGGED_OUT), 401
    here = request.script_root + request.full_path.removesuffix("?")
    back = {"next": here} if request.method == "GET" and _OWN_PATH.fullmatch(here) else {}
    url = login if "/" in login else url_for(login)
    if back:
        url += ("&" if "?" in url else "?") + urlencode(back)
    return redirect(url, 303)


def _answer_unavailable(_: StoreUnavailable) -> Any:
    return jsonify(web.UNAVAILABLE), 503, {"Retry-After": str(web.RETRY_AFTER), "Cache-Control": "no-store"}
