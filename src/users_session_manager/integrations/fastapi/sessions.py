"""`UserSessions`: sign-in and sign-out, the dependencies of routes, and what is installed in an application."""

# Without `from __future__ import annotations`: `help` shows which values an argument can have.

from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Generator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from inspect import GEN_RUNNING, getgeneratorstate
from typing import Any
from uuid import UUID

from anyio import CancelScope  # of Starlette's own requirements
from fastapi import FastAPI
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ...errors import SessionError, SessionRejected
from ...manager import SessionManager
from ...policy import Overflow, require_seconds
from ...stores.base import Store
from .._cookies import SameSite
from .._refusals import REFUSED
from .._script import SCRIPT, SCRIPT_MAX_AGE, SCRIPT_PATH, SCRIPT_URL
from .._settings import DEFAULTS, ConfiguredManager, carrier_of, wrong_values
from .._streams import Item, stream
from .._urls import OWN_PATH
from .answers import Refusals
from .guard import Guard
from .middleware import Finisher, Refuser
from .openapi import document_schemes, schemes_of
from .state import Requests


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
        header, cookie, secure, samesite, domain, partitioned: As for `KeyCarrier`.
        bearer: Whether a request may carry its key as `Authorization: Bearer` too; false by default. Another scheme in
            that header, such as Basic, counts for nothing.
        store: Where the sessions are, as for `SessionManager(store=...)`; it is chosen at once. `None`, the default,
            for the one that was chosen before, or for memory.
        timeout: The idle timeout in seconds, as for `setSessionTimeOut`. `None`, the default here and for each of the
            next three, leaves the manager as it is.
        lifetime: As for `setMaxSessionLifetime`.
        max_sessions_per_user, overflow: As for `setMaxSessionsPerUser`.
        warning: As for `setExpiryWarning`.
        proxies: How many proxies in front of the application add to `X-Forwarded-Proto`, for servers that do not look
            at it; 0 by default.
        trusted_origins: Other origins, such as `["https://app.example.com"]`, whose pages may sign in and out by a
            form, and open WebSockets; none by default.
        login_url: The login page, a URL or the name of a route: browsers without a session are redirected to it, with
            the page that they came for as `next`. `None`, the default, for none.
        api: Whether there are clients that expect JSON, as their `Accept` header says; true by
            default. With `False` each client without a session is redirected, and other refusals are pages.

    Raises:
        ValueError: An argument cannot work; the text names it.
        SessionError: Another store was chosen before.

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
        samesite: SameSite = "Lax",
        domain: str | None = None,
        partitioned: bool = False,
        bearer: bool = False,
        store: str | Store | None = None,
        timeout: float | None = None,
        lifetime: float | None = None,
        max_sessions_per_user: int | None = None,
        overflow: Overflow = "evict",
        warning: float | None = None,
        proxies: int = 0,
        trusted_origins: Collection[str] = (),
        login_url: str | None = None,
        api: bool = True,
    ) -> None:
        limits = (store, timeout, lifetime, max_sessions_per_user, overflow, warning)
        key = (header, cookie, secure, samesite, domain, partitioned)
        options = dict(zip(DEFAULTS, (*limits, *key, proxies, trusted_origins), strict=True))
        _require_arguments(options, manager, login_url, api=api, bearer=bearer)
        self._manager = ConfiguredManager(options, manager)
        self.carrier = carrier_of(options, bearer=bearer)
        requests = Requests(self._manager, self.carrier, proxies, trusted_origins)
        self._set_up(requests, Refusals(requests, login_url, has_api=api))

    def _set_up(self, requests: Requests, refusals: Refusals) -> None:
        self._requests, self._refusals = requests, refusals
        self._guard = guard = partial(Guard, requests, refusals)
        self.current, self.passive, self.optional = guard(), guard(prolong=False), guard(optional=True)

    def recent(self, max_age: float) -> Any:
        """Return a dependency for routes that need a recent login (OWASP ASVS 5.0, 7.5.1).

        Args:
            max_age: How many seconds ago the user may have authenticated at most; later the answer is 403 with
                `{"reauthenticate": true}`.

        Raises:
            TypeError, ValueError: `max_age` is no number of seconds.
        """
        require_seconds("max_age", max_age)
        return self._guard(max_age=max_age)

    @property
    def manager(self) -> SessionManager:
        """The manager of the sessions, with the settings that were given here."""
        return self._manager()

    def install(self, app: FastAPI, *, script: str | None = SCRIPT_URL) -> None:
        """Add the answers to rejections to `app`, the cookie to its responses and to its OpenAPI schema.

        From now on `app` answers a rejection with 401, an unavailable store with 503, and an authentication that is too
        old for a route with 403. Whatever it responds, an error included, carries the cookie that `sign_in`,
        `renew_key` or `sign_out` has changed, and no cache stores what depends on a session.

        From its start-up on it serves, see `SessionManager.serve`, and `async def` listeners run on its event loop,
        wherever events are emitted; at its end threads and connections stop, see `SessionManager.stop`. An application
        that is mounted on another one has no start-up; without a call of its own, its guards raise an `HTTPException`,
        whose body is that of FastAPI.

        Args:
            app: The application.
            script: Where it serves the script for its pages, by a route named `"user_sessions_script"`; `None` for
                nowhere.

        Raises:
            ValueError: `script` is no path.
            SessionError: `app` has answered requests or has its `UserSessions` already; or, at its start-up, it has no
                route of the name `login_url`.
        """
        _require_new(app)
        _serve_script(app, script)
        build_middleware_stack = app.build_middleware_stack

        def with_ours() -> ASGIApp:
            app.user_middleware.insert(0, Middleware(Refuser, self._requests, self._refusals))
            self._refusals.answer_below(app)
            # Outside of Starlette's own, or the answer to an unexpected exception would not carry the cookie.
            return Finisher(self._requests, build_middleware_stack())

        app.build_middleware_stack = with_ours  # type: ignore[method-assign]  # `add_middleware` adds inside of it
        self._register(app)
        lifespan = app.router.lifespan_context

        @asynccontextmanager
        async def with_loop(app: FastAPI) -> AsyncIterator[Any]:
            self._refusals.require_login_route(app)
            self.manager.bindLoop()
            self.manager.serve()
            try:
                async with lifespan(app) as state:
                    yield state
            finally:
                await run_in_threadpool(self.manager.stop)  # which waits for threads and for the store

        app.router.lifespan_context = with_loop

    def _register(self, app: FastAPI) -> None:
        app.state.users_session_manager = self  # where the testing kit finds it
        for error in REFUSED:
            app.add_exception_handler(error, self._refusals.refuse)
        document_schemes(app, schemes_of(self.carrier))

    def sign_in(
        self,
        request: HTTPConnection,
        response: Response,
        username: str,
        *,
        data: Any = None,
        timeout: float | None = None,
        userId: str | int | UUID | None = None,
        securityStamp: str | None = None,
    ) -> str:
        """Sign a user in on the client of `request`: set the cookie on `response`, and return the session key.

        Call it after the password was checked. The key that the client had before is rejected from now on (OWASP ASVS
        5.0, 7.2.4): a session of the same user and timeout goes on under the new key, any other session of the client
        ends. To start a fresh session, sign out first.

        Args:
            request: The request.
            response: A response that carries the cookie. After `install`, whatever is sent in its place carries it too.
            username: What is shown; whose session it is, unless there is a `userId`.
            data: What to store with the session; `None`, the default, keeps the data of one that goes on.
            timeout: An idle timeout of this session alone, in seconds; the browser then keeps the cookie when it is
                closed. `None`, the default, for that of the manager.
            userId: Whose session it is, if usernames can change; see `loadNewSession`.
            securityStamp: A text that represents the user's credentials; see `loadNewSession`.

        Raises:
            TypeError, ValueError, TooManySessions, StoreUnavailable: As `loadNewSession`.
            CrossOriginRequest: A form of another origin has made the request; see `trusted_origins`.
            SessionError: The store may wait, and an event loop runs on this thread: in an `async def` route say
                `await run_in_threadpool(sessions.sign_in, ...)`.
        """
        state = self._requests.answered_state(request)
        self._requests.require_own_form(request)
        options: dict[str, Any] = {"data": data, "timeout": timeout, "userId": userId, "securityStamp": securityStamp}
        key = state.sign_in(username, **options).key
        self._requests.write_cookie(request, response)
        return key

    def renew_key(self, request: HTTPConnection, response: Response, *, overlap: float = 0) -> str:
        """Give the session of `request` a new key, set its cookie on `response`, and return it; see `renewSessionKey`.

        Call it after its user has authenticated again or has got other rights.

        Args:
            request: The request.
            response: A response that carries the cookie. After `install`, whatever is sent in its place carries it too.
            overlap: For how many seconds the old key stays valid, 0 by default.

        Raises:
            SessionRejected: There is no live session.
            SessionError: As for `sign_in`.
        """
        state = self._requests.answered_state(request)
        key = state.renew_key(overlap).key
        self._requests.write_cookie(request, response)
        return key

    def sign_out_elsewhere(self, request: HTTPConnection) -> int:
        """End all other sessions of the user of `request`, and return how many (OWASP ASVS 5.0, 7.4.3).

        For a button, and for a changed password.

        Raises:
            SessionRejected: There is no live session.
            CrossOriginRequest, SessionError: As for `sign_in`.
        """
        state = self._requests.sync_state(request)
        self._requests.require_own_form(request)
        return state.sign_out_others()

    def sign_out(self, request: HTTPConnection, response: Response) -> bool:
        """End the session of `request` and delete its cookie on `response`; return whether there was a session.

        Raises:
            CrossOriginRequest, SessionError: As for `sign_in`.
        """
        state = self._requests.sync_state(request)
        self._requests.require_own_form(request)
        ended = state.sign_out()
        self._requests.write_cookie(request, response)
        return ended

    def stream(self, request: HTTPConnection, items: AsyncIterable[Item] | Iterable[Item]) -> AsyncIterator[Item]:
        """Return an iterator over `items` that ends with the session of `request`, for a `StreamingResponse`.

        If `items` are asynchronous it ends at once: what it waits for is cancelled. Plain ones run in threads, and it
        ends at the next item. Either way `items` is closed, and so it is when the client has left. Nothing of this
        prolongs the session.

        Args:
            request: The request, of a guarded route.
            items: An asynchronous generator or iterator, or a plain one.

        Raises:
            SessionError: The route is not guarded, or `optional` has found no session.
            TypeError: `items` cannot be iterated over.
        """
        session = self._requests.state(request)._session
        if isinstance(items, AsyncIterable):
            return stream(session, items)
        return _in_threads(stream(session, items))

    def attach(self, io: Any, *, namespace: str = "/") -> Callable[[], None]:
        """Send the Socket.IO clients of a session a `logout` when it ends; return a callable that detaches.

        As `users_session_manager.integrations.socketio.attach`, with this manager and cookie.

        Args:
            io: The server, see there.
            namespace: The namespace of the clients.

        Raises:
            SessionError, TypeError: As there.
        """
        from ..socketio import attach  # an extra of its own

        return attach(self.manager, io, namespace=namespace, cookie=self.carrier.cookie)

    def next_page(self, request: HTTPConnection, default: str = "/", *, path: str | None = None) -> str:
        """Return the page to go to after the login.

        It is the `next` in the query of `request`, which an attacker can write: a link to the login page must not lead
        to another site (OWASP ASVS 5.0, 3.7.2).

        Args:
            request: The request.
            default: What to return if that is no path of this site.
            path: What to check in place of it, for a form that has `next` among its fields.
        """
        path = request.query_params.get("next", "") if path is None else path
        return path if OWN_PATH.fullmatch(path) else default

    def key(self, request: HTTPConnection) -> str | None:
        """Return the key that `request` presents, live or not, or the one it was given since; `None` without one."""
        return self._requests.state(request).key


def _require_new(app: FastAPI) -> None:
    """Raise `SessionError` if nothing can be installed in an application any more."""
    if app.middleware_stack is not None:
        raise SessionError(
            "call sessions.install(app) before the application answers its first request, see "
            "docs/frameworks/fastapi.md"
        )
    if isinstance(getattr(app.exception_handlers.get(SessionRejected), "__self__", None), Refusals):
        raise SessionError(
            "this application has its UserSessions already: install one alone, see docs/frameworks/fastapi.md"
        )


def _serve_script(app: FastAPI, path: str | None) -> None:
    if path is None:
        return
    if not (isinstance(path, str) and SCRIPT_PATH.fullmatch(path)):
        raise ValueError(f"script: has to be a path that begins with a slash, or None, not {path!r}")

    async def send_script(_: Request) -> Response:
        headers = {"Cache-Control": f"max-age={SCRIPT_MAX_AGE}"}
        return FileResponse(SCRIPT, media_type="text/javascript", headers=headers)

    # Before all others, one of which may take every path.
    app.router.routes.insert(0, Route(path, send_script, name="user_sessions_script", include_in_schema=False))


async def _in_threads(items: Generator[Item]) -> AsyncIterator[Item]:
    """Iterate in threads, as Starlette does, which leaves closing the items to the garbage collector."""
    try:
        async for item in iterate_in_threadpool(items):
            yield item
    finally:
        if (
            getgeneratorstate(items) != GEN_RUNNING
        ):  # it still does in a task that was cancelled without regard to its thread
            with CancelScope(shield=True):
                await run_in_threadpool(items.close)


def _require_arguments(
    options: dict[str, Any], manager: SessionManager | None, login_url: Any, *, api: Any, bearer: Any
) -> None:
    """Raise `ValueError` for arguments of `UserSessions` that cannot work."""
    # The header of `bearer` may be the only one.
    checked = {**options, "HEADER": DEFAULTS["HEADER"]} if bearer and options["HEADER"] is None else options
    problems = [f"{name.lower().removeprefix('cookie_')}: {text}" for name, text in wrong_values(checked, ())]
    if manager is not None and options["STORE"] is not None:
        problems.append("store: the manager has a store already: leave out one of `store` and `manager`")
    if login_url is not None and not (isinstance(login_url, str) and login_url):
        problems.append(f"login_url: has to be a URL, the name of a route or None, not {login_url!r}")
    for name, value in (("api", api), ("bearer", bearer)):
        if not isinstance(value, bool):
            problems.append(f"{name}: has to be True or False, not {value!r}")
    if login_url is None and api is False:
        problems.append("api: False needs a login_url, to which it redirects: give both")
    if problems:
        raise ValueError(f"{'; '.join(problems)}; see docs/frameworks/fastapi.md")
