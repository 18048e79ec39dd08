"""The bridge to Flask-Login: a login of its own gets a session, and ends with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from flask import Flask, Request, Response, after_this_request, current_app, request, session
from flask_login import (
    COOKIE_DURATION,
    COOKIE_NAME,
    current_user,
    logout_user,
    session_protected,
    user_accessed,
    user_logged_in,
    user_logged_out,
    user_login_confirmed,
)

from ...errors import CrossOriginRequest, SessionError, SessionRejected, StoreUnavailable
from ...log import log
from ...manager import SessionManager
from ...session import Session
from .._cookies import KeyCarrier
from .._request import RequestSession
from .guards import is_passive
from .state import EXTENSION, FlaskState, require_own_form

KEY_IN_SESSION: Final = "_user_session_key"
"""Where Flask's own session keeps the key of its login."""
STAMP: Final = "Flask-Login"
"""The security stamp of a session whose user id is one of Flask-Login's."""
# The names under which Flask-Login keeps a login in Flask's session; `_id` is that of the client.
_LOGIN: Final = ("_user_id", "_fresh", KEY_IN_SESSION)


class LoginState(FlaskState):
    """One request of an application with Flask-Login.

    Without a key in the header, the login in Flask's own session decides which session the request has. The cookie
    alone signs in a session with a timeout of its own ("remember me"): any other ends with Flask's own session.

    A login whose session has ended does not count, but it stays in Flask's session: to remove it would send Flask's
    cookie again, in place of one that the client may have got from a login meanwhile.
    """

    def __init__(
        self, manager: Callable[[], SessionManager], carrier: KeyCarrier, header: str | None, cookie: str | None
    ) -> None:
        super().__init__(manager, carrier, header, cookie)
        self.is_undoing = False  # whether a login has failed and is being removed
        self._aside: dict[str, Any] = {}  # see `put_aside`

    @property
    def key(self) -> str | None:
        login = None if self.has_header or "_user_id" not in session else session.get(KEY_IN_SESSION)
        if login in (None, self.presented):
            return self.presented
        return self.presented if self._has_replaced(login) else login

    def _has_replaced(self, login: str) -> bool:
        """Return whether our cookie has the key that counts, since it came after the one in Flask's session.

        A request that was under way during a login or a renewal may have given the key of before back to that.
        """
        found = None if self.presented is None else self.manager.findSession(self.presented)
        if found is None:
            return False
        if login in (found.key, *found.formerKeys):
            return True
        manager = self.manager
        return found.securityStamp == STAMP and manager.findSession(login) is None and not manager.isForeign(login)

    def presented_keys(self) -> list[str | None]:
        return [*super().presented_keys(), session.get(KEY_IN_SESSION)]

    def find_session(self, *, prolong: bool | None = None) -> RequestSession | None:
        return super().find_session(prolong=not is_passive() if prolong is None else prolong)

    def find_login(self) -> Session | None:
        """Return the live session that signs a user of Flask-Login in, or `None`; ask the store once."""
        key = self.key
        if key is None:
            return None
        try:
            found = self._find(key, prolong=not is_passive())
        except SessionRejected:
            return None
        return found if found.securityStamp == STAMP and self._is_login(found) else None

    def begin(self, user: Any, timeout: float | None = None) -> None:
        """Start the session of a login, or go on with that of the same user under a new key (OWASP ASVS 5.0, 7.2.4)."""
        user_id = id_of(user)
        self.sign_in(name_of(user, user_id), timeout=timeout, userId=user_id, securityStamp=STAMP)
        self._is_prolonged = True

    def restore_cookie(self, found: Session) -> None:
        """Set our cookie again if the client has lost it, as it does before a permanent session of Flask's.

        Without it the Socket.IO clients of the login could not join its session.
        """
        if self.has_header or self.cookie_changed or self._cookie in (found.key, *found.formerKeys):
            return
        if session[KEY_IN_SESSION] == found.key:  # a former one, which may be a copy, gets no new one
            self._cookie_change = "set"
            self._load(found)

    def end_login(self) -> None:
        """End the session of a user whom Flask-Login does not know any more."""
        if self._found is not None:
            self._end(self._found.key)
        self._found = None
        self.put_aside()

    def restore_login(self, found: Session) -> None:
        """Let Flask's session have the login of our cookie again, in place of one that a late answer has brought."""
        session.update(_user_id=found.userId, _fresh=False)
        session[KEY_IN_SESSION] = found.key

    def put_aside(self) -> None:
        """Hide the login in Flask's session from Flask-Login until the answer."""
        was_modified = session.modified
        self._aside |= {name: session.pop(name) for name in _LOGIN if name in session}
        session.modified = was_modified

        @after_this_request
        def put_back(response: Response) -> Response:
            is_cleared = session.modified and not session and not self.has_header
            if "_user_id" not in session and not is_cleared:
                was_modified = session.modified
                session.update(self._aside)
                session.modified = was_modified
            return response

    def drop_aside(self) -> None:
        """Remove the login that is hidden from Flask's session, at a logout of that login."""
        if self._aside and not self.has_header:
            self._aside, session.modified = {}, True

    def _is_login(self, found: Session) -> bool:
        """Return whether the keys that the request presents sign in, and not a cookie that has outlived its login."""
        return self.has_header or found.timeout is not None or "_user_id" in session

    def _require_user(self, found: Session) -> None:
        if found.securityStamp != STAMP:
            return  # the application has made it, with users of its own
        if not self._is_login(found):
            raise SessionRejected
        user = current_user._get_current_object()
        if not user.is_authenticated or id_of(user) != found.userId:  # `flask.g` may be that of several requests
            user = current_app.login_manager.user_callback(found.userId)  # type: ignore[attr-defined]
        if user is None:
            self.end_login()
        if user is None or not user.is_authenticated:
            raise SessionRejected

    def _replace(self, found: Session) -> RequestSession:
        if str(session.get("_user_id")) == found.userId:
            session[KEY_IN_SESSION] = found.key
        elif not self.has_header:
            forget_login()  # the application has signed in another user, by `sign_in`
        return super()._replace(found)


class Bridge:
    """Listens to Flask-Login in one application.

    Args:
        app: The application.
        login_manager: Its `LoginManager`.
        state: Returns the state of the request.
        answer: Writes the cookie of the state to a response.
        refuse: Returns what a view would return for an exception of ours.
    """

    def __init__(
        self,
        app: Flask,
        login_manager: Any,
        *,
        state: Callable[[], Any],
        answer: Callable[[Response], Response],
        refuse: Callable[[Exception], Any],
    ) -> None:
        self._login_manager: Any = login_manager
        self._refuse = refuse
        self._state: Callable[[], LoginState] = state
        self._answer = answer
        self._has_warned = False
        user_accessed.connect(self._accessed, app)
        user_logged_in.connect(self._logged_in, app)
        user_logged_out.connect(self._logged_out, app)
        user_login_confirmed.connect(self._confirmed, app)
        session_protected.connect(self._protected, app)
        app.after_request(self._follow)

    @property
    def login_view(self) -> str | None:
        """The login page of Flask-Login, if there is one."""
        return self._login_manager.login_view  # type: ignore[no-any-return]

    def check(self, app: Flask) -> None:
        """Ask the sessions for the user of a request, now that the application is complete."""
        manager = self._login_manager
        is_initialised = vars(app).get("login_manager") is manager
        if not is_initialised:
            raise SessionError(
                "login_manager.init_app(app) has not been called for the one that UserSessions was given: call "
                "it, see docs/frameworks/flask.md"
            )
        if manager.user_callback is None:
            raise SessionError(
                "the login manager that UserSessions was given needs a user_loader: give it one, see "
                "docs/frameworks/flask.md"
            )
        if not isinstance(manager.request_callback, _RequestLoader):
            manager.request_loader(_RequestLoader(manager.request_callback, manager, self._state))

    def _accessed(self, app: Flask, **_: Any) -> None:
        """Remove a login from Flask's session that has ended, before Flask-Login looks for it."""
        state = self._state()
        found = state.find_login()
        # Our own cookie remembers: one that no store knows of would sign in after a logout everywhere.
        if app.config.get("REMEMBER_COOKIE_NAME", COOKIE_NAME) in request.cookies:
            session["_remember"] = "clear"
        if "_user_id" not in session:
            return
        key = session.get(KEY_IN_SESSION)
        is_of_login = found is not None and key in (found.key, *found.formerKeys)
        if found is not None and is_of_login and str(session["_user_id"]) == found.userId:
            state.restore_cookie(found)
        elif state.has_header:
            state.put_aside()
        elif found is not None and not is_of_login:
            state.restore_login(found)
        elif found is not None:
            forget_login()  # the application has put the id of another user beside the key
        elif key is None and (app.testing or _TEST_CLIENT in request.environ):
            user = self._login_manager.user_callback(session["_user_id"])  # as `FlaskLoginClient` signs in
            if user is not None:
                state.begin(user)
        else:
            state.put_aside()
            if key is None:
                self._warn()

    def _warn(self) -> None:
        if not self._has_warned:
            log.warning(
                "A login of Flask-Login has no session: it is from before UserSessions, or login_user has not "
                "made it. Its user has to sign in again, see docs/frameworks/flask.md"
            )
        self._has_warned = True

    def _logged_in(self, app: Flask, user: Any, **_: Any) -> None:
        state, timeout = self._state(), None
        if session.get("_remember") == "set":
            del session["_remember"]
            duration = session.pop("_remember_seconds", app.config.get("REMEMBER_COOKIE_DURATION", COOKIE_DURATION))
            timeout = duration.total_seconds() if isinstance(duration, timedelta) else duration
        try:
            require_own_form()
            state.begin(user, timeout)
        except Exception:
            state.is_undoing = True  # Flask-Login has stored its login already; without a session there is none
            logout_user()
            state.is_undoing = False
            _restore_login()
            raise

    def _logged_out(self, _: Flask, **__: Any) -> None:
        if not self._state().is_undoing:
            try:
                require_own_form()
            except CrossOriginRequest:
                _restore_login()  # Flask-Login has removed it already
                raise
        self._end_login()

    def _end_login(self) -> None:
        state = self._state()
        if not state.is_undoing:
            state.sign_out()
        state.drop_aside()
        session.pop(KEY_IN_SESSION, None)

    def _confirmed(self, _: Flask, **__: Any) -> None:
        state = self._state()
        if state.find_login() is not None:
            state.renew_key()

    def _protected(self, _: Flask, **__: Any) -> None:
        """End the session of a login that Flask-Login has removed, since the client looks like another one."""
        if KEY_IN_SESSION in session and "_user_id" not in session:
            self._end_login()

    def _follow(self, response: Response) -> Response:
        """End the session of a login that the application has removed, as `session.clear()` does."""
        if not session.modified or KEY_IN_SESSION in session:
            return response
        login = _login_that_came()
        try:
            if KEY_IN_SESSION in login and self._state().manager.findSession(login[KEY_IN_SESSION]) is not None:
                session[KEY_IN_SESSION] = login[KEY_IN_SESSION]
                self._end_login()
                self._answer(response)
        except StoreUnavailable as error:
            session.update(login)
            return current_app.make_response(self._refuse(error))
        return response


class _RequestLoader:
    """Loads the user of a session where Flask's own session has no login; without one asks the application's loader."""

    def __init__(
        self, previous: Callable[[Request], Any] | None, login_manager: Any, state: Callable[[], LoginState]
    ) -> None:
        self._previous = previous
        self._login_manager = login_manager
        self._state = state

    def __call__(self, request: Request) -> Any:
        # Several applications may share the login manager.
        state = self._state() if EXTENSION in current_app.extensions else None
        found = state.find_login() if isinstance(state, LoginState) else None
        if state is not None and found is not None:
            user = self._login_manager.user_callback(found.userId)
            if user is not None:
                return user
            state.end_login()
        return None if self._previous is None else self._previous(request)


# Flask's test client, in a `with`, adds this name to the environment of a request.
_TEST_CLIENT: Final = "werkzeug.debug.preserve_context"


def _session_that_came() -> dict[str, Any]:
    """Return what Flask's session was when the request came."""
    return dict(current_app.session_interface.open_session(current_app, request) or {})


def _login_that_came() -> dict[str, Any]:
    """Return the login that Flask's session had when the request came, empty without one."""
    came_with = _session_that_came()
    return {name: came_with[name] for name in (*_LOGIN, "_id") if name in came_with}


def _restore_login() -> None:
    """Let Flask's session have the login with which the request came, or none."""
    for name in (*_LOGIN, "_id", "_remember"):
        session.pop(name, None)
    session.update(_login_that_came())
    if dict(session) == _session_that_came():
        session.modified = (
            False  # an empty one that is modified deletes the cookie, which a forged request has not shown
        )


def forget_login() -> None:
    """Remove the login from Flask's session."""
    for name in _LOGIN:
        if name in session:
            del session[name]


def id_of(user: Any) -> str:
    """Return the user id of a user of Flask-Login."""
    return str(getattr(user, current_app.login_manager.id_attribute)())  # type: ignore[attr-defined]


def name_of(user: Any, user_id: str) -> str:
    """Return what is shown as the name, see `USER_SESSIONS_USERNAME`; the user id where that is empty."""
    found = getattr(user, current_app.config["USER_SESSIONS_USERNAME"], None)
    return str((found() if callable(found) else found) or user_id)
