"""The FastAPI dependency: the session of a request, 401 without one, 503 while the store is unavailable."""

# Without `from __future__ import annotations`: FastAPI reads the annotations of a dependency.

from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Generator, Iterable, Iterator
from contextlib import asynccontextmanager
from inspect import GEN_RUNNING, getgeneratorstate
from typing import Any, NoReturn
from urllib.parse import quote, urlencode
from uuid import UUID

from ..errors import (
    AuthenticationTooOld,
    CrossOriginRequest,
    MissingDependency,
    SessionError,
    SessionRejected,
    StoreUnavailable,
    TooManySessions,
)
from ..events import running_loop
from ..manager import SessionManager
from ..policy import Overflow, require_seconds
from ..stores.base import Store
from ._cookies import KeyCarrier, SameSite, read_cookie
from ._forgery import OriginCheck
from ._refusals import NO_STORE, REFUSED, Refusal, prefers_html
from ._request import HAS_BEGUN, RequestSession, RequestState
from ._script import SCRIPT, SCRIPT_MAX_AGE, SCRIPT_PATH, SCRIPT_URL
from ._settings import DEFAULTS, ConfiguredManager, carrier_of, wrong_values
from ._streams import CONNECTIONS, Item, stream
from ._urls import OWN_PATH, is_forwarded_https
from ._websockets import SessionSocket

try:
    from anyio import CancelScope  # of Starlette's own requirements
    from fastapi import FastAPI, HTTPException
    from fastapi.openapi.models import APIKey, HTTPBearer
    from fastapi.security.base import SecurityBase
    from starlette.applications import Starlette
    from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
    from starlette.datastructures import MutableHeaders
    from starlette.middleware import Middleware
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
    from starlette.routing import NoMatchFound, Route, Router
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from starlette.websockets import WebSocketClose
except ImportError as missing:
    raise MissingDependency("fastapi", "fastapi") from missing

__all__ = [
    "AuthenticationTooOld",
    "CrossOriginRequest",
    "KeyCarrier",
    "RequestSession",
    "SessionError",
    "SessionManager",
    "SessionRejected",
    "StoreUnavailable",
    "TooManySessions",
    "UserSessions",
]

HEADER_SCHEME = "SessionKeyHeader"
BEARER_SCHEME = "SessionKeyBearer"
COOKIE_SCHEME = "SessionKeyCookie"


def _require_arguments(
    options: dict[str, Any], manager: SessionManager | None, login_url: Any, *, api: Any, bearer: Any
) -> None:
    """Raise `ValueError` for arguments of `UserSessions` that cannot work."""
    # The header of `bearer` may be the only one.
    checked = {**options, "HEADER": DEFAULTS["HEADER"]} if bearer and options["HEADER"] is None else options
    problems = [f"{name.lower().removeprefix('cookie_')}: {text}" for name, text in wrong_values(checked, ())]
    if manager is not None and options["STORE"] is not None:
        problems.append("store: the manager has a store already")
    if login_url is not None and not (isinstance(login_url, str) and login_url):
        problems.append(f"login_url: has to be a URL, the name of a route or None, not {login_url!r}")
    for name, value in (("api", api), ("bearer", bearer)):
        if not isinstance(value, bool):
            problems.append(f"{name}: has to be True or False, not {value!r}")
    if login_url is None and api is False:
        problems.append("api: False needs a login_url, to which it redirects")
    if problems:
        raise ValueError("; ".join(problems))


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
        self._login_url, self._api, self._proxies = login_url, api, proxies
        self._manager = ConfiguredManager(options, manager)
        self.carrier = carrier_of(options, bearer=bearer)
        self._set_up(trusted_origins)

    def _set_up(self, trusted_origins: Collection[str]) -> None:
        """Make the dependencies, and what each request needs."""
        self._origins = OriginCheck(trusted_origins, self._proxies)
        self._place = f"users_session_manager.{id(self)}"  # of its state in a scope, which several may share
        self._header = (self.carrier.header or "").lower().encode()
        self._vary = ", ".join(self.carrier.varies_by).encode()
        self.current, self.passive = _Guard(self), _Guard(self, prolong=False)
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
            app.user_middleware.insert(0, Middleware(_Refuser, self))
            self._answer_below(app)
            # Outside of Starlette's own, or the answer to an unexpected exception would not carry the cookie.
            return _Finisher(self, build_middleware_stack())

        app.build_middleware_stack = with_ours  # type: ignore[method-assign]  # `add_middleware` adds inside of it
        self._register(app)
        lifespan = app.router.lifespan_context

        @asynccontextmanager
        async def with_loop(app: FastAPI) -> AsyncIterator[Any]:
            self._require_login_route(app)
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
            app.add_exception_handler(error, self._refuse)
        _document(app, _schemes(self.carrier))

    def _require_login_route(self, app: FastAPI) -> None:
        if self._login_url is not None and "/" not in self._login_url:
            try:
                app.url_path_for(self._login_url)
            except NoMatchFound:
                raise SessionError(f"login_url: the application has no route {self._login_url!r}") from None

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
            securityStamp: What stands for the user's credentials; see `loadNewSession`.

        Raises:
            TypeError, ValueError, TooManySessions, StoreUnavailable: As `loadNewSession`.
            CrossOriginRequest: A form of another origin has made the request; see `trusted_origins`.
            SessionError: The store may wait, and an event loop runs on this thread: in an `async def` route say
                `await run_in_threadpool(sessions.sign_in, ...)`.
        """
        state = self._answered_state(request)
        self._require_own_form(request)
        options: dict[str, Any] = {"data": data, "timeout": timeout, "userId": userId, "securityStamp": securityStamp}
        key = state.sign_in(username, **options).key
        self._write_cookie(request, response)
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
        state = self._answered_state(request)
        key = state.renew_key(overlap).key
        self._write_cookie(request, response)
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
            CrossOriginRequest, SessionError: As for `sign_in`.
        """
        state = self._sync_state(request)
        self._require_own_form(request)
        ended = state.sign_out()
        self._write_cookie(request, response)
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
        session = self._state(request)._session
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
        from .socketio import attach  # an extra of its own

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
        return self._state(request).key

    def _state(self, request: HTTPConnection) -> RequestState:
        answer: _Answer | None = request.scope.get(self._place)
        if answer is None:  # without `install`
            answer = request.scope[self._place] = _Answer()
        if answer.state is None:
            carrier, manager = self.carrier, self.manager
            lines: dict[bytes, list[str]] = {b"authorization": [], b"cookie": [], self._header: []}
            for name, value in request.scope["headers"]:
                if name in lines:
                    lines[name].append(value.decode("latin-1"))
            values = lines[self._header] if self._header else []
            if not values and carrier.bearer:
                scheme, _, token = ",".join(lines[b"authorization"]).partition(" ")
                values = [token] if scheme.lower() == "bearer" else []
            cookie = None if carrier.cookie is None else read_cookie("; ".join(lines[b"cookie"]), carrier.cookie)
            answer.state = RequestState(lambda: manager, carrier, ",".join(values) if values else None, cookie)
        return answer.state

    def _write_cookie(self, request: HTTPConnection, response: Response) -> None:
        add, is_https = response.headers.append, self._is_https(request)
        self._state(request).write_cookie(lambda cookie: add("set-cookie", cookie.OutputString()), is_https=is_https)

    def _is_https(self, request: HTTPConnection) -> bool:
        forwarded = request.headers.get("x-forwarded-proto", "")
        return request.scope.get("scheme") in ("https", "wss") or is_forwarded_https(forwarded, self._proxies)

    def _require_own_form(self, request: HTTPConnection) -> None:
        if request.scope["type"] == "websocket":
            self._require_own_socket(request)  # without a guard it is open to the pages of every origin
            return
        # Without a cookie a form has nothing to set or to use; a header with the key takes a CORS preflight.
        if self.carrier.cookie is not None and not self._state(request).has_header:
            header, is_https = request.headers.get, self._is_https(request)
            self._origins.require_own_form(request.scope.get("method"), header, is_https=is_https)

    def _require_own_socket(self, connection: HTTPConnection) -> None:
        """Refuse a WebSocket of another origin whose key is in a cookie, which a browser sends whoever opens it."""
        state = self._state(connection)
        if not state.has_header and state.presented is not None:
            self._origins.require_own_origin(connection.headers.get, is_https=self._is_https(connection))

    async def _end_with_session(self, connection: HTTPConnection, session: RequestSession) -> None:
        """Let a WebSocket be closed when its session ends."""
        answer: _Answer = connection.scope[self._place]
        if answer.socket is None:
            return
        manager = self.manager
        CONNECTIONS.add(session, answer.socket)
        present = manager.presentKeys
        keys = await run_in_threadpool(present, [session._id]) if manager.blocking else present([session._id])
        if keys == [None]:  # it has ended in between
            raise SessionRejected

    def _sync_state(self, request: HTTPConnection) -> RequestState:
        """Return the state of a request to a caller that may wait for the store."""
        if self.manager.blocking and running_loop() is not None:
            raise SessionError(
                "this would hold up the event loop, since the store may wait: make the route a plain def, "
                "or call it in a thread, as await run_in_threadpool(sessions.sign_in, request, response, username) does"
            )
        return self._state(request)

    def _answered_state(self, request: HTTPConnection) -> RequestState:
        """Return the state of a request to a caller that sets the cookie."""
        if request.scope["type"] == "websocket" and self.carrier.cookie is not None:
            raise SessionError(
                "a WebSocket has no answer that could set the cookie: sign in, and renew keys, by an HTTP request, "
                "and let the page connect again; or say cookie=None, for clients that send a header alone"
            )
        answer: _Answer | None = request.scope.get(self._place)
        if answer is not None and answer.has_started and self.carrier.cookie is not None:
            raise SessionError(HAS_BEGUN)
        return self._sync_state(request)

    def _answer_below(self, app: FastAPI) -> None:
        """Answer the exceptions of ours in the applications that are mounted on `app`, and do without `install`."""
        for mounted in _mounted_apps(app.routes):
            if mounted.middleware_stack is None:  # else it has answered requests already, and takes no handler any more
                for error in REFUSED:
                    mounted.exception_handlers.setdefault(error, self._raise_http)

    # Plain functions, so that Starlette calls them in a thread: they ask the store.
    def _raise_http(self, request: HTTPConnection, error: Exception) -> NoReturn:
        """Raise the `HTTPException` for an exception of ours, which an application without `install` answers."""
        refusal = self._refusal(request, error)
        raise HTTPException(refusal.status, refusal.body, refusal.headers) from None

    def _refuse(self, request: HTTPConnection, error: Exception) -> Any:
        refusal = self._refusal(request, error)
        answer: _Answer | None = request.scope.get(self._place)
        if answer is not None and answer.socket is not None and answer.socket.is_accepted:
            return WebSocketClose(4000 + refusal.status, refusal.text)  # it takes no answer any more
        if not self._wants_page(request):
            return JSONResponse(refusal.body, refusal.status, refusal.headers)
        return HTMLResponse(refusal.page(), refusal.status, refusal.headers)

    def _refusal(self, request: HTTPConnection, error: Exception) -> Refusal:
        refusal = self._state(request).refuse(error)
        headers = refusal.headers
        if isinstance(error, SessionRejected) and self.carrier.bearer:
            headers = {**headers, "WWW-Authenticate": "Bearer"}  # RFC 6750, section 3
        if isinstance(error, SessionRejected) and self._login_url is not None and self._wants_page(request):
            return refusal._replace(status=303, headers={**headers, "Location": self._login_page(request)})
        return refusal._replace(headers=headers)

    def _wants_page(self, request: HTTPConnection) -> bool:
        return request.scope["type"] == "http" and (not self._api or prefers_html(request.headers.get("accept", "")))

    def _login_page(self, request: HTTPConnection) -> str:
        url, scope = str(self._login_url), request.scope
        root = scope.get("app_root_path", scope.get("root_path", ""))
        if "/" not in url:
            # The application that was asked, of which this one may be a part.
            url = root + (scope.get("router") or scope["app"]).url_path_for(url)
        path, query = request.url.path, request.url.query
        # Some proxies remove the root path.
        here = quote(path if path.startswith(root) else root + path, "/%:@!$&'()*+,;=~")
        here += f"?{query}" if query else ""
        if scope["method"] == "GET" and OWN_PATH.fullmatch(here):
            url += ("&" if "?" in url else "?") + urlencode({"next": here})
        return quote(url, ":/%#?=@[]!$&'()*+,;~")

    def _finish(self, request: HTTPConnection, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the headers of a response with the cookie, and what caches have to know."""
        state, cookie = self._state(request), self.carrier.cookie
        if state.cookie_changed and cookie is not None:
            answer, ours = Response(), f"{cookie}=".encode()
            self._write_cookie(request, answer)
            # The route may have sent the injected response, and it may have changed its mind in between.
            headers = [each for each in headers if each[0] != b"set-cookie" or not each[1].startswith(ours)]
            headers += [each for each in answer.raw_headers if each[0] == b"set-cookie"]
        names = [name for name, _ in headers]
        if state.cookie_changed or b"cache-control" not in names:
            headers = [*(each for each in headers if each[0] != b"cache-control"), _NO_STORE]
        if b"vary" not in names:
            return [*headers, (b"vary", self._vary)]
        vary = MutableHeaders(raw=headers)
        given = ", ".join(vary.getlist("vary"))
        named = {name.strip().lower() for name in given.split(",")}
        if "*" not in named:
            vary["vary"] = ", ".join([given, *(name for name in self.carrier.varies_by if name.lower() not in named)])
        return vary.raw


def _require_new(app: FastAPI) -> None:
    """Raise `SessionError` if nothing can be installed in an application any more."""
    if app.middleware_stack is not None:
        raise SessionError("call sessions.install(app) before the application answers its first request")
    if isinstance(getattr(app.exception_handlers.get(SessionRejected), "__self__", None), UserSessions):
        raise SessionError("this application has its UserSessions already")


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


def _mounted_apps(routes: Iterable[Any]) -> Iterator[Starlette]:
    """Yield the applications that are mounted at one of the routes, or further below."""
    for route in routes:
        app = getattr(route, "app", None)
        if isinstance(app, Starlette):
            yield app
        if isinstance(app, Starlette | Router):
            yield from _mounted_apps(app.routes)


_STARTS = ("http.response.start", "websocket.http.response.start")
_NO_STORE = (b"cache-control", NO_STORE.encode())


class _Answer:
    """What is known of the answer to a request. It is the same one where a middleware has copied the scope."""

    __slots__ = ("has_started", "socket", "state")

    def __init__(self) -> None:
        self.has_started = False
        self.state: RequestState | None = None
        self.socket: SessionSocket | None = None


class _Finisher:
    """Adds the cookie to each response of an application, and what caches have to know."""

    def __init__(self, sessions: UserSessions, app: ASGIApp) -> None:
        self._sessions = sessions
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = self._sessions._place
        if scope["type"] not in ("http", "websocket") or place in scope:  # an outer application finishes it
            await self._app(scope, receive, send)
            return
        scope[place] = answer = _Answer()

        async def finish(message: Message) -> None:
            if message["type"] in _STARTS:
                answer.has_started = True
                if answer.state is not None:
                    headers = self._sessions._finish(HTTPConnection(scope), message.get("headers", []))
                    message = {**message, "headers": headers}
            await send(message)

        if scope["type"] == "http":
            await self._app(scope, receive, finish)
            return
        answer.socket = socket = SessionSocket(finish)
        try:
            await self._app(scope, receive, socket.send)
        finally:
            CONNECTIONS.remove(socket)


class _Refuser:
    """Answers the exceptions of ours that a middleware has raised: what answers those of routes is inside of it."""

    def __init__(self, app: ASGIApp, sessions: UserSessions) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except REFUSED as error:
            if scope["type"] != "http" or scope[self._sessions._place].has_started:
                raise
            response = await run_in_threadpool(self._sessions._refuse, HTTPConnection(scope), error)
            await response(scope, receive, send)


class _Guard(SecurityBase):
    """The session of a request, as a dependency."""

    def __init__(
        self, sessions: UserSessions, *, prolong: bool = True, optional: bool = False, max_age: float | None = None
    ) -> None:
        self._sessions = sessions
        self._max_age = max_age
        self._prolong = prolong
        self._optional = optional
        # FastAPI knows one scheme per dependency, and a second dependency would double the cost of this one:
        # `_document` adds the others.
        self.scheme_name, scheme = next(iter(_schemes(sessions.carrier).items()))
        self.model = (HTTPBearer if self.scheme_name == BEARER_SCHEME else APIKey).model_validate(scheme)

    async def __call__(self, connection: HTTPConnection) -> RequestSession | None:
        sessions, scope = self._sessions, connection.scope
        is_installed = SessionRejected in connection.app.exception_handlers
        # A forgotten call would otherwise show only when a cookie is lost.
        if not is_installed and sessions._place not in scope:
            raise SessionError("sessions.install(app) has not been called for the application of this route")
        if scope["type"] == "http" and scope["method"] == "OPTIONS" and _is_preflight(connection):
            return None
        try:
            if scope["type"] == "websocket":
                return await self._let_socket_in(connection)
            return await self._authenticate(connection)
        except REFUSED as error:
            if self._optional and isinstance(error, (SessionRejected, CrossOriginRequest)):
                return None
            if is_installed:
                raise
            await run_in_threadpool(sessions._raise_http, connection, error)

    async def _authenticate(self, connection: HTTPConnection) -> RequestSession:
        state = self._sessions._state(connection)
        if state.manager.blocking:
            return await run_in_threadpool(state.authenticate, prolong=self._prolong, max_age=self._max_age)
        return state.authenticate(prolong=self._prolong, max_age=self._max_age)

    async def _let_socket_in(self, connection: HTTPConnection) -> RequestSession:
        self._sessions._require_own_socket(connection)
        session = await self._authenticate(connection)
        await self._sessions._end_with_session(connection, session)
        return session


def _is_preflight(connection: HTTPConnection) -> bool:
    """Return whether browsers ask for the rules of CORS, which they do without a key, and the route may answer.

    Raises:
        HTTPException: 204, without a body: the route answers other methods too, and might show what they show.
    """
    headers = connection.headers
    if "origin" not in headers or "access-control-request-method" not in headers:
        return False
    if getattr(connection.scope.get("route"), "methods", None) != {"OPTIONS"}:
        raise HTTPException(204)
    return True


def _schemes(carrier: KeyCarrier) -> dict[str, dict[str, str]]:
    """Return the security schemes of guarded routes, by name; a request needs one of them."""
    schemes = {}
    if carrier.header is not None:
        schemes[HEADER_SCHEME] = {"type": "apiKey", "in": "header", "name": carrier.header}
    if carrier.bearer:
        schemes[BEARER_SCHEME] = {"type": "http", "scheme": "bearer"}
    if carrier.cookie is not None:
        schemes[COOKIE_SCHEME] = {"type": "apiKey", "in": "cookie", "name": carrier.cookie}
    return schemes


def _document(app: FastAPI, schemes: dict[str, dict[str, str]]) -> None:
    """Add to the OpenAPI schema of `app` that a guarded route, which names the first scheme, accepts each of them."""
    generate, (first, *others) = app.openapi, schemes

    def openapi() -> dict[str, Any]:
        document = generate()
        known = document.get("components", {}).get("securitySchemes", {})
        if first in known and not known.keys() >= schemes.keys():  # not yet: FastAPI makes the document once
            known.update(schemes)
            for path in document["paths"].values():
                for operation in path.values():
                    if {first: []} in operation.get("security", []):
                        operation["security"] += [{name: []} for name in others]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
