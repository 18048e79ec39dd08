"""The state of one request: its session, and the cookie and the headers of its answer."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import Response

from ...errors import SessionError, SessionRejected
from ...events import running_loop
from ...manager import SessionManager
from .._cookies import KeyCarrier, read_cookie
from .._forgery import OriginCheck
from .._refusals import NO_STORE
from .._request import HAS_BEGUN, RequestSession, RequestState
from .._streams import CONNECTIONS
from .._urls import is_forwarded_https
from .._websockets import SessionSocket

_NO_STORE: Final = (b"cache-control", NO_STORE.encode())


class Answer:
    """The state of the answer to a request. Copies of the scope, as middleware makes them, share it."""

    __slots__ = ("has_started", "socket", "state")

    def __init__(self) -> None:
        self.has_started = False
        self.state: RequestState | None = None
        self.socket: SessionSocket | None = None


class Requests:
    """Knows the state of each request of an application, which its scope carries.

    Args:
        manager: Returns the manager of the sessions.
        carrier: Where a request carries its key.
        proxies: How many proxies add to `X-Forwarded-Proto`.
        trusted_origins: Other origins whose pages may sign in and out, and open WebSockets.
    """

    def __init__(
        self, manager: Callable[[], SessionManager], carrier: KeyCarrier, proxies: int, trusted_origins: Collection[str]
    ) -> None:
        self.carrier = carrier
        self.place = f"users_session_manager.{id(self)}"  # of the state in a scope, which several may share
        self._manager = manager
        self._proxies = proxies
        self._origins = OriginCheck(trusted_origins, proxies)
        self._header = (carrier.header or "").lower().encode()
        self._vary = ", ".join(carrier.varies_by).encode()

    def state(self, request: HTTPConnection) -> RequestState:
        """Return the state of a request, which is made when it is first asked for."""
        answer: Answer | None = request.scope.get(self.place)
        if answer is None:  # without `install`
            answer = request.scope[self.place] = Answer()
        if answer.state is None:
            carrier, manager = self.carrier, self._manager()
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

    def write_cookie(self, request: HTTPConnection, response: Response) -> None:
        """Set or delete the cookie on a response, if that is to be done."""
        add, is_https = response.headers.append, self._is_https(request)
        self.state(request).write_cookie(lambda cookie: add("set-cookie", cookie.OutputString()), is_https=is_https)

    def _is_https(self, request: HTTPConnection) -> bool:
        forwarded = request.headers.get("x-forwarded-proto", "")
        return request.scope.get("scheme") in ("https", "wss") or is_forwarded_https(forwarded, self._proxies)

    def require_own_form(self, request: HTTPConnection) -> None:
        """Raise `CrossOriginRequest` if a form of another origin has made the request."""
        if request.scope["type"] == "websocket":
            self.require_own_socket(request)  # without a guard it is open to the pages of every origin
            return
        # Without a cookie a form has nothing to set or to use; a header with the key takes a CORS preflight.
        if self.carrier.cookie is not None and not self.state(request).has_header:
            header, is_https = request.headers.get, self._is_https(request)
            self._origins.require_own_form(request.scope.get("method"), header, is_https=is_https)

    def require_own_socket(self, connection: HTTPConnection) -> None:
        """Raise it for a WebSocket of another origin whose key is in a cookie: a browser sends that to each page's."""
        state = self.state(connection)
        if not state.has_header and state.presented is not None:
            self._origins.require_own_origin(connection.headers.get, is_https=self._is_https(connection))

    async def end_with_session(self, connection: HTTPConnection, session: RequestSession) -> None:
        """Let a WebSocket be closed when its session ends."""
        answer: Answer = connection.scope[self.place]
        if answer.socket is None:
            return
        manager = self._manager()
        CONNECTIONS.add(session, answer.socket)
        present = manager.presentKeys
        keys = await run_in_threadpool(present, [session._id]) if manager.blocking else present([session._id])
        if keys == [None]:  # it has ended in between
            raise SessionRejected

    def sync_state(self, request: HTTPConnection) -> RequestState:
        """Return the state of a request to a caller that may wait for the store."""
        if self._manager().blocking and running_loop() is not None:
            raise SessionError(
                "this would hold up the event loop, since the store may wait: make the route a plain def, or call "
                "it in a thread, as await run_in_threadpool(sessions.sign_in, request, response, username) does; "
                "see docs/frameworks/fastapi.md"
            )
        return self.state(request)

    def answered_state(self, request: HTTPConnection) -> RequestState:
        """Return the state of a request to a caller that sets the cookie."""
        if request.scope["type"] == "websocket" and self.carrier.cookie is not None:
            raise SessionError(
                "a WebSocket has no answer that could set the cookie: sign in, and renew keys, by an HTTP "
                "request, and let the page connect again; or say cookie=None, for clients that send a header "
                "alone, see docs/frameworks/fastapi.md"
            )
        answer: Answer | None = request.scope.get(self.place)
        if answer is not None and answer.has_started and self.carrier.cookie is not None:
            raise SessionError(HAS_BEGUN)
        return self.sync_state(request)

    def finish(self, request: HTTPConnection, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the headers of a response with the cookie, and what caches have to know."""
        state, cookie = self.state(request), self.carrier.cookie
        if state.cookie_changed and cookie is not None:
            answer, ours = Response(), f"{cookie}=".encode()
            self.write_cookie(request, answer)
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
