"""The extension: sign-in and sign-out, and what it adds to an application."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

from flask import Flask, Response, current_app, request, send_file

from ...errors import SessionError
from ...manager import SessionManager
from .._cookies import KeyCarrier
from .._refusals import REFUSED
from .._script import SCRIPT, SCRIPT_MAX_AGE
from .._settings import DEFAULTS, ConfiguredManager, nearest
from .._streams import Item, stream
from .._urls import OWN_PATH
from .answers import answer_ours, refuse
from .guards import guards, passive
from .settings import PREFIX, read_settings, settings_of
from .state import (
    EXTENSION,
    Installation,
    current_session,
    current_state,
    finish,
    finish_late,
    installation,
    require_own_form,
)


class UserSessions:
    """The sessions of a Flask application: sign-in, sign-out, and what `session_required` and `current_session` need.

    `UserSessions(app)`, or `sessions = UserSessions()` and `sessions.init_app(app)` in a factory, for any number of
    applications.

    | setting | default | |
    |---|---|---|
    | `USER_SESSIONS_STORE` | `None` | where the sessions are, as for `SessionManager(store=...)`; a relative path \
    of a SQLite file is in the instance folder |
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
    is not set and signs no user in. Each request that asks for the user restarts the idle timeout, but for `passive`
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
            raise SessionError(
                "this application has its UserSessions already: call init_app(app) once, see docs/frameworks/flask.md"
            )
        taken = [app.config["SESSION_COOKIE_NAME"]]
        if self._login_manager is not None:
            taken.append(app.config.get("REMEMBER_COOKIE_NAME", "remember_token"))  # which Flask-Login deletes for us
        options = read_settings(app, taken)
        if self._given is not None and options["STORE"] is not None:
            raise ValueError(
                "USER_SESSIONS_STORE: the manager that UserSessions was given has a store already: leave out one of "
                "the two"
            )
        app.extensions[EXTENSION] = installed = Installation(self, options)
        self._carrier = installed.carrier
        if self._login_manager is not None:
            from .login import Bridge, LoginState  # a package that only its users have

            installed.bridge = Bridge(app, self._login_manager, state=current_state, answer=finish, refuse=refuse)
            installed.state_class = LoginState
        self._manager = ConfiguredManager(options, self._given, app.instance_path)
        for error in REFUSED:
            app.register_error_handler(error, refuse)
        app.before_request(_check_once)
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
        from ..socketio import attach  # an extra of its own

        if self._carrier is None:
            raise SessionError(
                "call init_app(app) before attach(io): the name of the cookie is a setting, see "
                "docs/frameworks/flask.md"
            )
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
            raise TypeError(f"Flask streams what a plain generator yields: pass one, not {type(items).__name__}")
        return stream(current_state().find_session(), items)

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
            securityStamp: A text that represents the user's credentials; see `loadNewSession`.

        Raises:
            TypeError, ValueError, TooManySessions, StoreUnavailable: As `loadNewSession`.
            CrossOriginRequest: A form of another origin has made the request; see `USER_SESSIONS_TRUSTED_ORIGINS`.
        """
        options = {"data": data, "timeout": timeout, "userId": userId, "securityStamp": securityStamp}
        require_own_form()
        return current_state().sign_in(username, **options).key

    def renew_key(self, *, overlap: float = 0) -> str:
        """Give the session of this request a new key, set its cookie, and return the key; see `renewSessionKey`.

        Call it after its user has authenticated again or has got other rights.

        Args:
            overlap: For how many seconds the old key stays valid, 0 by default.

        Raises:
            SessionRejected: There is no live session.
        """
        return current_state().renew_key(overlap).key

    def sign_out_elsewhere(self) -> int:
        """End all other sessions of this request's user, and return how many (OWASP ASVS 5.0, 7.4.3).

        For a button, and for a changed password.

        Raises:
            SessionRejected: There is no live session.
            CrossOriginRequest: As for `sign_in`.
        """
        require_own_form()
        return current_state().sign_out_others()

    def sign_out(self) -> bool:
        """End the session of this request and delete its cookie; return whether there was a session.

        Raises:
            CrossOriginRequest: As for `sign_in`.
        """
        require_own_form()
        return current_state().sign_out()

    def next_page(self, default: str = "/") -> str:
        """Return the page to go to after the login.

        It is the `next` in the query or the form of this request, which an attacker can write: a link to the login page
        must not lead to another site (OWASP ASVS 5.0, 3.7.2).

        Args:
            default: What to return if that is no path of this site.
        """
        path = request.values.get("next", "")
        return path if OWN_PATH.fullmatch(path) else default


def _send_script() -> Response:
    return send_file(SCRIPT, mimetype="text/javascript", max_age=SCRIPT_MAX_AGE)


def _check_once() -> None:
    """Raise `SessionError`, before the first request, for what shows only when the application is complete."""
    app, installed = current_app, installation()
    changed = [name for name, value in settings_of(app).items() if value != installed.options.get(name, EXTENSION)]
    if changed:
        names = ", ".join(f"{PREFIX}{name}" for name in changed)
        raise SessionError(
            f"set {names} before UserSessions(app) or init_app(app): they are read there, see docs/frameworks/flask.md"
        )
    endpoints = {rule.endpoint for rule in app.url_map.iter_rules()}
    login = installed.login_url
    if login is None and not installed.has_api and (installed.bridge is None or installed.bridge.login_view is None):
        raise SessionError(
            "USER_SESSIONS_API = False needs USER_SESSIONS_LOGIN_URL, to which it redirects: set both, see "
            "docs/frameworks/flask.md"
        )
    if login is not None and "/" not in login and login not in endpoints:
        raise SessionError(
            f"USER_SESSIONS_LOGIN_URL: there is no endpoint {login!r}, name one that there is, or a URL (see "
            f"docs/frameworks/flask.md); {nearest(login, endpoints)}"
        )
    if installed.bridge is not None:
        installed.bridge.check(app)
    _require_guards(app)
    # Outside of what extensions such as Flask-RESTful have put in its place.
    app.handle_user_exception = partial(answer_ours, app.handle_user_exception)  # type: ignore[method-assign]
    app.process_response = partial(finish_late, app.process_response)  # type: ignore[method-assign]
    # Another list, since this one is being gone through: no later request pays for the check.
    hooks = app.before_request_funcs[None]
    app.before_request_funcs[None] = [hook for hook in hooks if hook is not _check_once]


def _require_guards(app: Flask) -> None:
    """Raise `SessionError` if a view that has a guard is registered without one, and so open to all."""
    # By their ids, since not each callable has a hash.
    with_guard, bare = {id(guard) for guard in guards}, {id(guard.__wrapped__) for guard in guards}
    chains = [_chain(view) for view in app.view_functions.values()]
    guarded = [chain for chain in chains if any(id(function) in with_guard for function in chain)]
    bare -= {id(function) for chain in guarded for function in chain}  # a view may have another route without it
    for function in (function for chain in chains if chain not in guarded for function in chain):
        if id(function) in bare:
            raise SessionError(
                f"the view {getattr(function, '__name__', function)} is registered without its guard: put "
                "session_required, session_optional and passive below the decorator of the route, see "
                "docs/frameworks/flask.md"
            )


def _chain(view: Any) -> list[Any]:
    """Return a view and the functions that its decorators have wrapped."""
    chain = []
    while view is not None:
        chain.append(view)
        view = getattr(view, "__wrapped__", None)
    return chain
