"""The FastAPI dependency: the session of a request, 401 without one, 503 while the store is unavailable."""

# Without `from __future__ import annotations`: FastAPI reads the annotations of a dependency.

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ..errors import MissingDependency, SessionError, SessionRejected
from ..events import running_loop
from ..manager import SessionManager
from ..policy import require_seconds
from ._web import REFUSED, KeyCarrier, RequestSession, RequestState

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
    """The sessions of a FastAPI application: dependencies for its routes, sign-in and sign-out.

    Call `install(app)` first. A route with a parameter `session: CurrentSession` then needs a live session; without one
    the answer is 401 with `{"logout": true}`:

        sessions = UserSessions()
        sessions.install(app)
        CurrentSession = Annotated[RequestSession, Depends(sessions.current)]

    | dependency | gives | |
    |---|---|---|
    | `current` | a `RequestSession` | restarts the idle timeout |
    | `passive` | a `RequestSession` | prolongs nothing: for what a page requests by itself |
    | `optional` | a `RequestSession` or `None` | as `current`; `None` without a live session |
    | `recent(max_age)` | a `RequestSession` | as `current`; 403 if the user authenticated earlier |

    Args:
        manager: The manager of the sessions; `SessionManager()`, at the moment when it is needed, by default.
        header, cookie, secure: As for `KeyCarrier`.

    Raises:
        ValueError: A name cannot work.

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
        # Where the scope of a request keeps its state: several of these may serve one request.
        self._place = f"users_session_manager.{id(self)}"
        self.current = _Guard(self)
        self.passive = _Guard(self, prolong=False)
        self.optional = _Guard(self, optional=True)

    def recent(self, max_age: float) -> Any:
        """Return a dependency for routes that need a recent login (OWASP ASVS 5.0, 7.5.1).

        Args:
            max_age: How many seconds ago the user may have authenticated at most; later the answer is 403 with
                `{"reauthenticate": true}`.

        Raises:
            TypeError, ValueError: `max_age` is no number of seconds.
        """
        require_seconds("max_age", max_age)
        return _Guard(self, max_age=max_age)

    @property
    def manager(self) -> SessionManager:
        """The manager of the sessions."""
        return SessionManager() if self._manager is None else self._manager

    def install(self, app: FastAPI) -> None:
        """Add the answers to rejections to `app`, and the cookie to its OpenAPI schema.

        From now on `app` answers a rejection with 401, an unavailable store with 503, and an authentication that is too
        old for a route with 403. From its start-up on it serves, see `SessionManager.serve`, and `async def` listeners
        run on its event loop, wherever events are emitted; at its end threads and connections stop, see
        `SessionManager.stop`. An application that is mounted on another one needs a call of its own, but has no
        start-up.
        """
        for error in REFUSED:
            app.add_exception_handler(error, self._refuse)
        if self.carrier.header is not None and self.carrier.cookie is not None:
            _document_cookie(app, self.carrier.cookie)
        lifespan = app.router.lifespan_context

        @asynccontextmanager
        async def with_loop(app: FastAPI) -> AsyncIterator[Any]:
            self.manager.bindLoop()
            self.manager.serve()
            try:
                async with lifespan(app) as state:
                    yield state
            finally:
                await run_in_threadpool(self.manager.stop)  # which waits for threads and for the store

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
        """Sign a user in on the client of `request`: set the cookie on `response`, and return the session key.

        Call it after the password was checked. The key that the client had before is rejected from now on (OWASP ASVS
        5.0, 7.2.4): a session of the same user and timeout goes on under the new key, any other session of the client
        ends. To start a fresh session, sign out first.

        Args:
            request: The request.
            response: The response that carries the cookie.
            username: Whose session it is.
            data: What to store with the session; `None`, the default, keeps the data of one that goes on.
            timeout: An idle timeout of this session alone, in seconds; the browser then keeps the cookie when it is
                closed. `None`, the default, for that of the manager.

        Raises:
            TypeError, ValueError, TooManySessions, StoreUnavailable: As `loadNewSession`.
            SessionError: The store may wait, and an event loop runs on this thread: in an `async def` route say
                `await run_in_threadpool(sessions.sign_in, ...)`.
        """
        state = self._sync_state(request)
        key = state.sign_in(username, data=data, timeout=timeout).key
        state.write_cookie(response.set_cookie)
        return key

    def renew_key(self, request: HTTPConnection, response: Response, *, overlap: float = 0) -> str:
        """Give the session of `request` a new key, set its cookie on `response`, and return it; see `renewSessionKey`.

        Call it after its user has authenticated again or has got other rights.

        Args:
            request: The request.
            response: The response that carries the cookie.
            overlap: For how many seconds the old key stays valid, 0 by default.

        Raises:
            SessionRejected: There is no live session.
            SessionError: As for `sign_in`.
        """
        state = self._sync_state(request)
        key = state.renew_key(overlap).key
        state.write_cookie(response.set_cookie)
        return key

    def sign_out_elsewhere(self, request: HTTPConnection) -> int:
        """End all other sessions of the user of `request`, and return how many (OWASP ASVS 5.0, 7.4.3).

        For a button, and for a changed password.

        Raises:
            SessionRejected: There is no live session.
            SessionError: As for `sign_in`.
        """
        return self._sync_state(request).sign_out_others()

    def sign_out(self, request: HTTPConnection, response: Response) -> bool:
        """End the session of `request` and delete its cookie on `response`; return whether there was a session.

        Raises:
            SessionError: As for `sign_in`.
        """
        state = self._sync_state(request)
        ended = state.sign_out()
        state.write_cookie(response.set_cookie)
        return ended

    def key(self, request: HTTPConnection) -> str | None:
        """Return the key that `request` presents, live or not, or the one it was given since; `None` without one."""
        return self._state(request).key

    def _state(self, request: HTTPConnection) -> RequestState:
        state: RequestState | None = request.scope.get(self._place)
        if state is None:
            header, cookie = self.carrier.header, self.carrier.cookie
            values = [] if header is None else request.headers.getlist(header)
            value = None if cookie is None else request.cookies.get(cookie)
            state = RequestState(lambda: self.manager, self.carrier, ",".join(values) if values else None, value)
            request.scope[self._place] = state
        return state

    def _sync_state(self, request: HTTPConnection) -> RequestState:
        """Return the state of a request to a caller that may wait for the store."""
        if self.manager.blocking and running_loop() is not None:
            raise SessionError(
                "this would hold up the event loop, since the store may wait: make the route a plain def, "
                "or call it in a thread, as await run_in_threadpool(sessions.sign_in, request, response, username) does"
            )
        return self._state(request)

    # A plain function, so that Starlette calls it in a thread: it asks the store.
    def _refuse(self, request: HTTPConnection, error: Exception) -> Response:
        state = self._state(request)
        refusal = state.refuse(error)
        response = JSONResponse(refusal.body, refusal.status, refusal.headers)
        state.write_cookie(response.set_cookie)
        return response


class _Guard(SecurityBase):
    """The session of a request, as a dependency."""

    def __init__(
        self, sessions: UserSessions, *, prolong: bool = True, optional: bool = False, max_age: float | None = None
    ) -> None:
        self._sessions = sessions
        self._max_age = max_age
        self._prolong = prolong
        self._optional = optional
        # FastAPI knows one scheme per dependency, and a second dependency would double the cost of this one: if the key
        # may travel in two ways, `_document_cookie` adds the other one.
        place, name = APIKeyIn.header, sessions.carrier.header
        self.scheme_name = HEADER_SCHEME
        if name is None:
            place, name = APIKeyIn.cookie, str(sessions.carrier.cookie)
            self.scheme_name = COOKIE_SCHEME
        self.model = APIKey.model_validate({"in": place, "name": name})

    async def __call__(self, connection: HTTPConnection) -> RequestSession | None:
        # A forgotten call would otherwise show only as a 500 at the first rejection.
        if SessionRejected not in connection.app.exception_handlers:
            raise SessionError("sessions.install(app) has not been called for the application of this route")
        state = self._sessions._state(connection)
        try:
            if state.manager.blocking:
                return await run_in_threadpool(state.authenticate, prolong=self._prolong, max_age=self._max_age)
            return state.authenticate(prolong=self._prolong, max_age=self._max_age)
        except SessionRejected:
            if self._optional:
                return None
            raise


def _document_cookie(app: FastAPI, cookie: str) -> None:
    """Add to the OpenAPI schema of `app` that a guarded route accepts the cookie in place of the header."""
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
