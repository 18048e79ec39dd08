"""The FastAPI dependency: the session of a request, 401 without one, 503 when nobody knows."""

# Without `from __future__ import annotations`: FastAPI reads the annotations of a dependency.

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .. import web
from ..errors import AuthenticationTooOld, MissingDependency, SessionError, SessionRejected, StoreUnavailable
from ..manager import SessionManager
from ..policy import require_seconds
from ..web import KeyCarrier, RequestSession

try:
    from fastapi import FastAPI
    from fastapi.openapi.models import APIKey, APIKeyIn
    from fastapi.security.base import SecurityBase
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import HTTPConnection
    from starlette.responses import JSONResponse, Response
except ImportError as missing:
    raise MissingDependency("fastapi", "fastapi") from missing

HEADER_SCHEME = "SessionKeyHeader"
COOKIE_SCHEME = "SessionKeyCookie"


class UserSessions:
    """The sessions of a FastAPI application: dependencies for its routes, a login and a logout.

    `install(app)` comes first; then a route that has `session: CurrentSession` among its parameters is for those who
    have logged in, and everyone else is answered 401 with `{"logout": true}`:

        sessions = UserSessions()
        sessions.install(app)
        CurrentSession = Annotated[RequestSession, Depends(sessions.current)]

    | dependency | gives | |
    |---|---|---|
    | `current` | a `RequestSession` | the session begins its timeout again |
    | `passive` | a `RequestSession` | the session goes on as it was: for what a page asks for by itself |
    | `optional` | a `RequestSession` or `None` | as `current`, and nobody is sent away |
    | `recent(max_age)` | a `RequestSession` | as `current`; 403 with `{"reauthenticate": true}` for whoever proved \
    longer ago than that many seconds who they are |

    `manager` is `SessionManager()` as it is when it is needed, unless given; `header`, `cookie` and `secure` are
    `KeyCarrier`'s, and so is the `ValueError` for what cannot work.

    The manager is asked on the event loop if its store never waits, else in a thread. Threads: any thread may call any
    method.
    """

    def __init__(
        self,
        manager: SessionManager | None = None,
        *,
        header: str | None = "Session-Key",
        cookie: str | None = "session_key",
        secure: bool = True,
    ) -> None:
        self._manager = manager
        self.carrier = KeyCarrier(header=header, cookie=cookie, secure=secure)
        # Where the scope of a request keeps its session: several of these may serve one request.
        self._place = f"users_session_manager.{id(self)}"
        self.current = _Guard(self)
        self.passive = _Guard(self, prolong=False)
        self.optional = _Guard(self, optional=True)

    def recent(self, max_age: float) -> Any:
        """Return a dependency for what takes a login of at most `max_age` seconds ago (OWASP ASVS 5.0, 7.5.1).

        `TypeError` or `ValueError` for anything but a number of seconds.
        """
        require_seconds("max_age", max_age)
        return _Guard(self, max_age=max_age)

    @property
    def manager(self) -> SessionManager:
        """The manager that is asked."""
        return SessionManager() if self._manager is None else self._manager

    def install(self, app: FastAPI) -> None:
        """Answer rejections of `app` with 401 and a store that is away with 503; say in its document how to log in.

        A login that is too old for a route is 403.

        From its start-up on, `async def` listeners run on its event loop, wherever events are emitted. An application
        that is mounted on another one needs a call of its own, but has no start-up.
        """
        app.add_exception_handler(SessionRejected, self._answer_rejection)
        app.add_exception_handler(StoreUnavailable, _answer_unavailable)
        app.add_exception_handler(AuthenticationTooOld, lambda *_: JSONResponse(web.TOO_OLD, 403))
        if self.carrier.header is not None and self.carrier.cookie is not None:
            _document_cookie(app, self.carrier.cookie)
        lifespan = app.router.lifespan_context

        @asynccontextmanager
        async def with_loop(app: FastAPI) -> AsyncIterator[Any]:
            self.manager.bindLoop()
            async with lifespan(app) as state:
                yield state

        app.router.lifespan_context = with_loop

    def sign_in(
        self,
        request: HTTPConnection,
        response: Response,
        username: str,
        *,
        data: Any = None,
        timeout: float | None = None,
    ) -> str:
        """Begin a session for `username`, set its cookie on `response`, and return its key.

        Call it after a successful login. `data` and `timeout` are `loadNewSession`'s; with a `timeout` of its own the
        browser keeps the cookie when it is closed. The key that the client had before is dead from now on (OWASP ASVS
        5.0, 7.2.4): a session of the same user and timeout goes on under the new key, any other ends. Raises what
        `loadNewSession` raises. With a store that blocks, on a thread with a running event loop, it is a
        `SessionError`: in an `async def` route say `await run_in_threadpool(sessions.sign_in, ...)`.
        """
        self._keep_off_the_loop()
        session = web.sign_in(self.manager, self._shown(request), username, data=data, timeout=timeout)
        return self._enter(request, response, session)

    def renew_key(self, request: HTTPConnection, response: Response, *, overlap: float = 0) -> str:
        """Give the session of `request` a new key, set its cookie on `response`, and return it; see `renewSessionKey`.

        Call it when its user has proved again who they are, or has got other rights. Raises `SessionRejected` without a
        session. With a store that blocks it is as for `sign_in`.
        """
        self._keep_off_the_loop()
        return self._enter(request, response, web.renew_key(self.manager, self._shown(request)[0], overlap=overlap))

    def sign_out_elsewhere(self, request: HTTPConnection) -> int:
        """End all other sessions of the user of `request`, and return how many (OWASP ASVS 5.0, 7.4.3).

        For a button, and for after a password was changed. Raises `SessionRejected` without a session. With a store
        that blocks it is as for `sign_in`.
        """
        self._keep_off_the_loop()
        return web.dismiss_elsewhere(self.manager, self._shown(request)[0])

    def sign_out(self, request: HTTPConnection, response: Response) -> bool:
        """End the session of `request`, take the cookie back on `response`, and tell whether there was a session.

        With a store that blocks it is as for `sign_in`.
        """
        self._keep_off_the_loop()
        ended = [web.dismiss(self.manager, key) for key in self._shown(request)]
        request.scope.pop(self._place, None)
        self._delete_cookie(response)
        return any(ended)

    def key(self, request: HTTPConnection) -> str | None:
        """Return the key that `request` carries, alive or not; `None` if it carries none."""
        header, cookie = self.carrier.header, self.carrier.cookie
        values = [] if header is None else request.headers.getlist(header)
        return self.carrier.key(values, None if values or cookie is None else request.cookies.get(cookie))

    def _shown(self, request: HTTPConnection) -> list[str | None]:
        """Return all keys that the client shows; first the one of its session by now."""
        session, cookie = request.scope.get(self._place), self.carrier.cookie
        key = self.key(request) if session is None else session.key
        return [key, None if cookie is None else request.cookies.get(cookie)]

    # A plain function, so that Starlette calls it in a thread: it asks the store.
    def _answer_rejection(self, request: HTTPConnection, _: Exception) -> Response:
        response = JSONResponse(web.LOGGED_OUT, 401)
        cookie = None if self.carrier.cookie is None else request.cookies.get(self.carrier.cookie)
        # What was rejected may be another key than the client's own: that of a header, or one a route has looked up.
        try:
            if cookie is not None and self.manager.getUsernameFromSessionKey(cookie) is False:
                self._delete_cookie(response)
        except StoreUnavailable:
            pass  # not known to be dead
        return response

    def _enter(self, request: HTTPConnection, response: Response, session: RequestSession) -> str:
        self._keep(request, session)
        if self.carrier.cookie is not None:
            response.set_cookie(self.carrier.cookie, session.key, **self.carrier.cookie_options(session))
        return session.key

    def _keep(self, request: HTTPConnection, session: RequestSession) -> RequestSession:
        """Let `session` be that of the request, also in the hands of a route that has been given one before."""
        kept: RequestSession = request.scope.setdefault(self._place, session)
        if kept is not session:
            kept.become(session)
        return kept

    def _delete_cookie(self, response: Response) -> None:
        if self.carrier.cookie is not None:
            response.delete_cookie(self.carrier.cookie, **self.carrier.cookie_options())

    def _keep_off_the_loop(self) -> None:
        if not self.manager.blocking:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise SessionError(
            "this would hold up the event loop, since the store may wait: make the route a plain def, "
            "or hand it to a thread, as await run_in_threadpool(sessions.sign_in, request, response, username) does"
        )


class _Guard(SecurityBase):
    """The session of a request, as a dependency."""

    def __init__(
        self, sessions: UserSessions, *, prolong: bool = True, optional: bool = False, max_age: float | None = None
    ) -> None:
        self._sessions = sessions
        self._max_age = max_age
        self._prolong = prolong
        self._optional = optional
        # FastAPI knows one scheme a dependency, and a second dependency would double what this one costs a request:
        # where there are two ways to log in, `_document_cookie` adds the other one.
        place, name = APIKeyIn.header, sessions.carrier.header
        self.scheme_name = HEADER_SCHEME
        if name is None:
            place, name = APIKeyIn.cookie, str(sessions.carrier.cookie)
            self.scheme_name = COOKIE_SCHEME
        self.model = APIKey.model_validate({"in": place, "name": name})

    async def __call__(self, connection: HTTPConnection) -> RequestSession | None:
        # Looked at here, where it costs next to nothing, because a forgotten call would show only when somebody is
        # rejected, as a 500: then no request gets through at all.
        if SessionRejected not in connection.app.exception_handlers:
            raise SessionError("sessions.install(app) has not been called for the application of this route")
        manager, key = self._sessions.manager, self._sessions.key(connection)
        try:
            if manager.blocking:
                session = await run_in_threadpool(web.admit, manager, key, prolong=self._prolong, max_age=self._max_age)
            else:
                session = web.admit(manager, key, prolong=self._prolong, max_age=self._max_age)
        except SessionRejected:
            if self._optional:
                return None
            raise
        return self._sessions._keep(connection, session)


def _answer_unavailable(_: HTTPConnection, __: Exception) -> Response:
    return JSONResponse(web.UNAVAILABLE, 503, headers={"Retry-After": str(web.RETRY_AFTER)})


def _document_cookie(app: FastAPI, cookie: str) -> None:
    """Let the OpenAPI document of `app` say that a guarded route takes the cookie in place of the header."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schemes = document.get("components", {}).get("securitySchemes", {})
        if HEADER_SCHEME in schemes and COOKIE_SCHEME not in schemes:  # not yet: FastAPI makes the document once
            schemes[COOKIE_SCHEME] = {"type": "apiKey", "in": "cookie", "name": cookie}
            for path in document["paths"].values():
                for operation in path.values():
                    if {HEADER_SCHEME: []} in operation.get("security", []):
                        operation["security"].append({COOKIE_SCHEME: []})
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
