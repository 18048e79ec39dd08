"""The Flask extension: the session of a request, a guard for routes, sign-in and sign-out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, overload
from urllib.parse import urlencode
from uuid import UUID

from ..errors import MissingDependency, SessionError, SessionRejected
from ..manager import SessionManager
from ..policy import require_seconds
from ..session import Session
from ._cookies import KeyCarrier, read_cookie
from ._forgery import OriginCheck
from ._refusals import NO_STORE, REFUSED, prefers_html
from ._request import HAS_BEGUN, RequestSession, RequestState
from ._script import SCRIPT, SCRIPT_MAX_AGE, SCRIPT_PATH, SCRIPT_URL
from ._settings import DEFAULTS, ConfiguredManager, carrier_of, nearest, wrong_values
from ._streams import Item, stream
from ._urls import OWN_PATH, is_forwarded_https

try:
    from flask import Flask, Response, after_this_request, current_app, jsonify, redirect, request, send_file, url_for
    from werkzeug.local import LocalProxy
except ImportError as missing:
    raise MissingDependency("flask", "flask") from missing

if TYPE_CHECKING:
    from ._flask_login import Bridge

EXTENSION: Final = "users_session_manager"
"""Where `app.extensions` holds what `init_app` has made: its `carrier` and its `sessions`."""

PREFIX: Final = "USER_SESSIONS_"

# The settings that other frameworks do not have.
_OWN_DEFAULTS: Final[dict[str, Any]] = {"LOGIN_URL": None, "API": True, "USERNAME": "username", "SCRIPT": SCRIPT_URL}

View = TypeVar("View", bound=Callable[..., Any])


class UserSessions:
    """The sessions of a Flask application: sign-in, sign-out, and what `session_required` and `current_session` need.

    `UserSessions(app)`, or `sessions = UserSessions()` and `sessions.init_app(app)` in a factory, for any number of
    applications.

    | setting | default | |
    |---|---|---|
    | `USER_SESSIONS_STORE` | `None` | where the sessions are, as for `SessionManager(store=...)` |
    | `USER_SESSIONS_TIMEOUT` | `None` | the idle timeout in seconds, as for `setSessionTimeOut` |
    | `USER_SESSIONS_LIFETIME` | `None` | as for `setMaxSessionLifetime` |
    | `USER_SESSIONS_MAX_SESSIONS_PER_USER` | `None` | as for `setMaxSessionsPerUser` |
    | `USER_SESSIONS_OVERFLOW` | `"evict"` | what a login beyond that does: `"evict"` or `"reject"` |
    | `USER_SESSIONS_WARNING` | `None` | as for `setExpiryWarning` |
    | `USER_SESSIONS_HEADER` | `"Session-Key"` | the header that carries the key; `None` for the cookie alone |
    | `USER_SESSIONS_COOKIE` | `"session_key"` | the cookie that does, without a prefix; `None` for the header alone |
    | `USER_SESSIONS_COOKIE_SECURE` | not `app.debug` | whether that is for https alone, and begins with `__Host-` |
    | `USER_SESSIONS_COOKIE_SAMESITE` | `"Lax"` | which requests of other sites bring it; or `"Strict"`, or `"None"` |
    | `USER_SESSIONS_COOKIE_DOMAIN` | `None` | the domain whose hosts all get it; it then begins with `__Secure-` |
    | `USER_SESSIONS_COOKIE_PARTITIONED` | `False` | whether each site that embeds the application has one of its own |
    | `USER_SESSIONS_PROXIES` | `0` | how many proxies add `X-Forwarded-Proto` in front of the application |
    | `USER_SESSIONS_TRUSTED_ORIGINS` | `()` | other origins whose forms may sign in and out |
    | `USER_SESSIONS_LOGIN_URL` | `None` | an endpoint or a URL, to which browsers without a session are redirected |
    | `USER_SESSIONS_API` | `True` | whether some clients take JSON; else every client is redirected, or gets a page |
    | `USER_SESSIONS_SCRIPT` | `"/user-sessions.js"` | where the script for pages is served, by the endpoint \
`"user_sessions_script"`; `None` for nowhere |
    | `USER_SESSIONS_USERNAME` | `"username"` | the attribute or method of a user of Flask-Login that is shown |

    Args:
        app: The application, as for `init_app`; `None` to call that later.
        manager: The manager of the sessions; `SessionManager()`, at the moment when it is needed, by default.
        login_manager: The `LoginManager` of Flask-Login, whose logins then have sessions; `None`, the default, for an
            application without it.

    With a `login_manager`, `login_user` starts a session and `logout_user` ends it, and without a live session there is
    no `current_user`. A user whom the `user_loader` does not return, or who is not active, is refused by cookie and by
    header. `remember=True` makes the idle timeout `REMEMBER_COOKIE_DURATION` and keeps our cookie; that of Flask-Login
    is not set and signs nobody in. Each request that asks for the user restarts the idle timeout, but for `passive`
    views.
    """

    def __init__(
        self, app: Flask | None = None, *, manager: SessionManager | None = None, login_manager: Any = None
    ) -> None:
        self._given = manager
        self._login_manager = login_manager
        self._manager = ConfiguredManager(DEFAULTS, manager)
        self._carrier: KeyCarrier | None = None
        if app is not None:
            self.init_app(app)

    @property
    def manager(self) -> SessionManager:
        """The manager of the sessions, with the settings of the application that `init_app` was given last."""
        return self._manager()

    def init_app(self, app: Flask) -> None:
        """Read the settings of `app`, and register its error handlers.

        From now on `app` answers a rejection with 401, an unavailable store with 503, a login too many with 409, and
        with 403 an authentication that is too old for a view, or a form of another origin: JSON, or a page for a
        browser. `app` may replace these error handlers.

        Its first request is a `SessionError` if the login page is no endpoint of `app`, or a setting was changed after
        this call.

        Raises:
            ValueError: A setting does not exist, or cannot work; the text names it.
            SessionError: `app` has its `UserSessions` already, or another store was chosen before.
        """
        if EXTENSION in app.extensions:
            raise SessionError("this application has its UserSessions already")
        taken = [app.config["SESSION_COOKIE_NAME"]]
        if self._login_manager is not None:
            taken.append(app.config.get("REMEMBER_COOKIE_NAME", "remember_token"))  # which Flask-Login deletes for us
        options = _read(app, taken)
        if self._given is not None and options["STORE"] is not None:
            raise ValueError("USER_SESSIONS_STORE: the manager that UserSessions was given has a store already")
        app.extensions[EXTENSION] = installed = _Installed(self, options)
        self._carrier = installed.carrier
        if self._login_manager is not None:
            from ._flask_login import Bridge, LoginState  # a package that only its users have

            installed.bridge = Bridge(app, self._login_manager, state=_state, answer=_finish, refuse=_refuse)
            installed.state_class = LoginState
        self._manager = ConfiguredManager(options, self._given)
        for error in REFUSED:
            app.register_error_handler(error, _refuse)
        app.before_request(installed.check_once)
        if options["SCRIPT"] is not None:
            app.add_url_rule(options["SCRIPT"], "user_sessions_script", passive(_send_script))
        app.context_processor(lambda: {"current_session": current_session})

    def attach(self, io: Any, *, namespace: str = "/") -> Callable[[], None]:
        """Send the Socket.IO clients of a session a `logout` when it ends; return a callable that detaches.

        As `users_session_manager.integrations.socketio.attach`, with this manager and the cookie of the application
        that `init_app` was given last.

        Args:
            io: The server, see there.
            namespace: The namespace of the clients.

        Raises:
            SessionError: `init_app` has not been called; and as there.
            TypeError: As there.
        """
        from .socketio import attach  # an extra of its own

        if self._carrier is None:
            raise SessionError("call init_app(app) before attach(io): the name of the cookie is a setting")
        return attach(self.manager, io, namespace=namespace, cookie=self._carrier.cookie)

    def stream(self, items: Iterable[Item]) -> Iterator[Item]:
        """Return an iterator over `items` that ends at its next item once the session of this request has ended.

        For an answer that is streamed: `Response(sessions.stream(events()))`. Then `items` is closed, and so it is when
        the server finds that the client has left. Nothing of this prolongs the session.

        Args:
            items: A generator, or anything else to iterate over.

        Raises:
            SessionError: This request has no live session.
            TypeError: `items` cannot be iterated over, or only on an event loop, which Flask does not have.
        """
        if not isinstance(items, Iterable):
            raise TypeError(f"Flask streams what a plain generator yields, not {type(items).__name__}")
        return stream(_state().find_session(), items)

    def sign_in(
        self,
        username: str,
        *,
        data: Any = None,
        timeout: float | None = None,
        userId: str | int | UUID | None = None,
        securityStamp: str | None = None,
    ) -> str:
        """Sign a user in on this request's client: set the cookie on the answer, and return the session key.

        Call it after the password was checked. The key that the client had before is rejected from now on (OWASP ASVS
        5.0, 7.2.4): a session of the same user and timeout goes on under the new key, any other session of the client
        ends. To start a fresh session, sign out first.

        Args:
            username: What is shown; whose session it is, unless there is a `userId`.
            data: What to store with the session; `None`, the default, keeps the data of one that goes on.
            timeout: An idle timeout of this session alone, in seconds; the browser then keeps the cookie when it is
                closed. `None`, the default, for that of the manager.
            userId: Whose session it is, if usernames can change; see `loadNewSession`.
            securityStamp: What stands for the user's credentials; see `loadNewSession`.

        Raises:
            TypeError, ValueError, TooManySessions, StoreUnavailable: As `loadNewSession`.
            CrossOriginRequest: A form of another origin has made the request; see `USER_SESSIONS_TRUSTED_ORIGINS`.
        """
        options = {"data": data, "timeout": timeout, "userId": userId, "securityStamp": securityStamp}
        require_own_form()
        return _state().sign_in(username, **options).key

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
        """End the session of this request and delete its cookie; return whether there was a session.

        Raises:
            CrossOriginRequest: As for `sign_in`.
        """
        require_own_form()
        return _state().sign_out()

    def next_page(self, default: str = "/") -> str:
        """Return the page to go to after the login.

        It is the `next` in the query or the form of this request, which an attacker can write: a link to the login page
        must not lead to another site (OWASP ASVS 5.0, 3.7.2).

        Args:
            default: What to return if that is no path of this site.
        """
        path = request.values.get("next", "")
        return path if OWN_PATH.fullmatch(path) else default


@overload
def session_required(view: View, /) -> View: ...
@overload
def session_required(*, passive: bool = False, max_age: float | None = None) -> Callable[[View], View]: ...
def session_required(
    view: Callable[..., Any] | None = None, /, *, passive: bool = False, max_age: float | None = None
) -> Callable[..., Any]:
    """Guard a view: only requests with a live session reach it, and restart its idle timeout.

    Without one the answer is 401 with `{"logout": true}`, or a redirect to the login page; 503 while the store is
    unavailable. It comes from the guard itself, whatever else handles errors, and so does the answer to an exception of
    ours that the view raises. A CORS preflight is answered without a session, and without the view, unless that has
    `provide_automatic_options = False` or a method `options`. Put the decorator below that of the route:

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


def session_optional(view: View) -> View:
    """Restart the idle timeout of a request that has a live session, and let the others pass too.

    As with `session_required`, the view finds the session as `current_session`, and the answer is 503 while the store
    is unavailable. For a whole application, but for its static files and `passive` views:

        app.before_request(session_optional(lambda: None))

    Args:
        view: The view, also an `async def`.
    """
    return _guarded(view, _prolong_if_live)


def passive(view: View) -> View:
    """Let requests of a view leave the idle timeout as it is, whatever guards it: for what a page requests by itself.

    `session_required(passive=True)` does the same for what that guards.
    """
    if inspect.iscoroutinefunction(view):

        @wraps(view)
        async def marked(*args: Any, **kwargs: Any) -> Any:
            return await view(*args, **kwargs)
    else:

        @wraps(view)
        def marked(*args: Any, **kwargs: Any) -> Any:
            return view(*args, **kwargs)

    marked.is_passive_for_sessions = True  # type: ignore[attr-defined]
    return cast(View, marked)


def _send_script() -> Response:
    return send_file(SCRIPT, mimetype="text/javascript", max_age=SCRIPT_MAX_AGE)


def _guard(view: View, passive: bool, max_age: float | None) -> View:
    if max_age is not None:
        require_seconds("max_age", max_age)
    is_passive = passive or getattr(view, "is_passive_for_sessions", False)

    def let_in() -> Response | None:
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            # A preflight carries no key.
            return None if _answers_preflights() else current_app.make_default_options_response()
        _state().authenticate(prolong=not is_passive, max_age=max_age)
        return None

    guarded = _guarded(view, let_in)
    if is_passive:
        guarded.is_passive_for_sessions = True  # type: ignore[attr-defined]
    return guarded


def _guarded(view: View, let_in: Callable[[], Response | None]) -> View:
    """Return a view that calls `let_in` first, whose answer counts if there is one, and answers what either raises."""
    is_async = inspect.iscoroutinefunction(view)

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            answer = let_in()
            if answer is not None:
                return answer
            return current_app.ensure_sync(view)(*args, **kwargs) if is_async else view(*args, **kwargs)
        except REFUSED as error:
            return _answer(error)

    return cast(View, guarded)


def _prolong_if_live() -> None:
    if (request.endpoint or "static").split(".")[-1] != "static" and not is_passive():  # those of blueprints have a dot
        with suppress(SessionRejected):
            _state_of_request().authenticate()


def is_passive() -> bool:
    """Return whether the view of this request leaves the idle timeout as it is."""
    view = current_app.view_functions.get(request.endpoint or "")
    return getattr(view, "is_passive_for_sessions", False)


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
        if self.is_answered and _installed().bridge is None:  # else Flask's own session, stored later, has the key
            raise SessionError(HAS_BEGUN)
        if {"sid", "namespace"} <= vars(request._get_current_object()).keys():  # type: ignore[attr-defined]
            raise SessionError(
                "a Socket.IO handler has no answer that could set the cookie: sign in, and renew keys, in a view, and "
                "let the page connect again; or set USER_SESSIONS_COOKIE to None, for clients that send a header alone"
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


def _answers_preflights() -> bool:
    """Return whether the view of the request says that it answers `OPTIONS` itself; others were not written for it."""
    view = current_app.view_functions.get(request.endpoint or "")
    is_own = getattr(view, "provide_automatic_options", None) is False
    return is_own or hasattr(getattr(view, "view_class", None), "options")


class _Installed:
    """What `init_app` has made for one application."""

    def __init__(self, sessions: UserSessions, options: dict[str, Any]) -> None:
        self.sessions = sessions
        self.carrier = carrier_of(options)
        self.login_url: str | None = options["LOGIN_URL"]
        self.has_api: bool = options["API"]
        self.proxies: int = options["PROXIES"]
        self.origins = OriginCheck(options["TRUSTED_ORIGINS"], self.proxies)
        self.bridge: Bridge | None = None
        self.state_class: type[FlaskState] = FlaskState
        self._options = options

    def check_once(self) -> None:
        """Raise `SessionError`, before the first request, for what shows only when the application is complete."""
        app = current_app
        changed = [name for name, value in _settings_of(app).items() if value != self._options.get(name, EXTENSION)]
        if changed:
            names = ", ".join(f"{PREFIX}{name}" for name in changed)
            raise SessionError(f"set {names} before UserSessions(app) or init_app(app): they are read there")
        endpoints = {rule.endpoint for rule in app.url_map.iter_rules()}
        login = self.login_url
        if login is None and not self.has_api and (self.bridge is None or self.bridge.login_view is None):
            raise SessionError("USER_SESSIONS_API = False needs USER_SESSIONS_LOGIN_URL, to which it redirects")
        if login is not None and "/" not in login and login not in endpoints:
            raise SessionError(f"USER_SESSIONS_LOGIN_URL: there is no endpoint {login!r}; {nearest(login, endpoints)}")
        if self.bridge is not None:
            self.bridge.check(app)
        # Outside of what extensions such as Flask-RESTful have put in its place.
        app.handle_user_exception = partial(_answer_ours, app.handle_user_exception)  # type: ignore[method-assign]
        app.process_response = partial(_finish_late, app.process_response)  # type: ignore[method-assign]
        # Another list, since this one is being gone through: no later request pays for the check.
        hooks = app.before_request_funcs[None]
        app.before_request_funcs[None] = [hook for hook in hooks if hook != self.check_once]


def _state() -> FlaskState:
    """Return the state of this request, whose answer then depends on the session."""
    state = _state_of_request()
    state.varies = True
    return state


def _state_of_request() -> FlaskState:
    """Return the state of this request. It is the request's own: `flask.g` may be that of several."""
    # Each access through a proxy costs more than all of this.
    this = request._get_current_object()  # type: ignore[attr-defined]
    state: FlaskState | None = vars(this).get(EXTENSION)
    if state is None:
        installed, environ = _installed(), this.environ
        carrier = installed.carrier
        cookie = None if carrier.cookie is None else read_cookie(environ.get("HTTP_COOKIE"), carrier.cookie)
        manager = installed.sessions.manager  # which is asked for several times
        state = installed.state_class(lambda: manager, carrier, environ.get(carrier.variable), cookie)
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
    state = _state_of_request()
    state.is_answered = True
    if state.cookie_changed:
        add = response.headers.add
        state.write_cookie(lambda cookie: add("Set-Cookie", cookie.OutputString()), is_https=_is_https())
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


def _finish_late(process: Callable[..., Response], *args: Any) -> Response:
    """Finish the answer of a request for whose session only an `after_request` function has asked."""
    response = process(*args)
    state: FlaskState | None = vars(request._get_current_object()).get(EXTENSION)  # type: ignore[attr-defined]
    return response if state is None or state.is_answered else _finish(response)


def _has_own_cache_control(response: Response) -> bool:
    """Return whether the view says what caches may do; `send_file` says something of its own in any case."""
    if not response.direct_passthrough:
        return True
    given, default = response.cache_control, current_app.get_send_file_max_age(None)
    return not given.no_cache and (default is None or given.max_age != default)


def _is_https() -> bool:
    """Return whether the client came over https, as far as that is known."""
    forwarded = request.headers.get("X-Forwarded-Proto", "")
    return request.is_secure or is_forwarded_https(forwarded, _installed().proxies)


def require_own_form() -> None:
    """Raise `CrossOriginRequest` if a form of another origin has made this request."""
    installed = _installed()
    # Without a cookie a form has nothing to set or to use; a header with the key takes a CORS preflight.
    has_cookie = installed.carrier.cookie is not None or installed.bridge is not None
    if has_cookie and not _state().has_header:
        installed.origins.require_own_form(request.method, request.headers.get, is_https=_is_https())


def _answer(error: Exception) -> Response:
    """Return the answer to a request that is refused: that of the application, if it has a handler for the error."""
    # Not for its base classes: who handles every exception has not thought of these.
    kind = next(kind for kind in REFUSED if isinstance(error, kind))
    specs = [current_app.error_handler_spec.get(name, {}).get(None, {}) for name in (*request.blueprints, None)]
    handler = next(spec[kind] for spec in specs if kind in spec)  # of the application it is ours, if no other
    return current_app.make_response(current_app.ensure_sync(handler)(error))


def _answer_ours(answer_others: Callable[[Exception], Any], error: Exception) -> Any:
    """Return the answer to what a view has raised."""
    return _answer(error) if isinstance(error, REFUSED) else answer_others(error)


def _refuse(error: Exception) -> Any:
    installed = _installed()
    refusal, login = _state().refuse(error), installed.login_url
    if login is None and installed.bridge is not None:
        login = installed.bridge.login_view
    if installed.has_api and not prefers_html(request.headers.get("Accept", "")):
        return jsonify(refusal.body), refusal.status, refusal.headers
    if isinstance(error, SessionRejected) and login is not None:
        return _redirect_to(login)
    return refusal.page(), refusal.status, refusal.headers


def _redirect_to(login: str) -> Any:
    here = request.script_root + request.full_path.removesuffix("?")
    url = login if "/" in login else url_for(login)
    if request.method == "GET" and OWN_PATH.fullmatch(here):
        url += ("&" if "?" in url else "?") + urlencode({"next": here})
    return redirect(url, 303)


def _settings_of(app: Flask) -> dict[str, Any]:
    """Return what the configuration of `app` has for this library, by names without the prefix."""
    return {name.removeprefix(PREFIX): value for name, value in app.config.items() if name.startswith(PREFIX)}


def _read(app: Flask, taken: list[str]) -> dict[str, Any]:
    """Return all settings of `app`, which has the `taken` cookies; raise `ValueError` for what cannot work."""
    for name, default in {**DEFAULTS, "COOKIE_SECURE": not app.debug, **_OWN_DEFAULTS}.items():
        app.config.setdefault(f"{PREFIX}{name}", default)
    options = _settings_of(app)
    names = [*DEFAULTS, *_OWN_DEFAULTS]
    problems = [(name, f"does not exist; {nearest(name, names, PREFIX)}") for name in options if name not in names]
    problems += wrong_values(options, taken)
    problems += _wrong_own_values(options)
    if problems:
        raise ValueError("; ".join(f"{PREFIX}{name}: {problem}" for name, problem in problems))
    return options


def _wrong_own_values(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    login, script = options["LOGIN_URL"], options["SCRIPT"]
    if login is not None and not (isinstance(login, str) and login):
        yield "LOGIN_URL", f"has to be an endpoint, a URL or None, not {login!r}"
    if script is not None and not (isinstance(script, str) and SCRIPT_PATH.fullmatch(script)):
        yield "SCRIPT", f"has to be a path that begins with a slash, or None, not {script!r}"
    if not isinstance(options["API"], bool):
        yield "API", f"has to be True or False, not {options['API']!r}"
    if not isinstance(options["USERNAME"], str):
        yield "USERNAME", f"has to be the name of an attribute or a method, not {options['USERNAME']!r}"
