"""The guard of routes, a dependency."""

# Without `from __future__ import annotations`: FastAPI reads the annotations of a dependency.

from fastapi import HTTPException
from fastapi.openapi.models import APIKey, HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from ...errors import CrossOriginRequest, SessionError, SessionRejected
from .._refusals import REFUSED
from .._request import RequestSession
from .answers import Refusals
from .openapi import BEARER_SCHEME, schemes_of
from .state import Requests


class Guard(SecurityBase):
    """The session of a request, as a dependency."""

    def __init__(
        self,
        requests: Requests,
        refusals: Refusals,
        *,
        prolong: bool = True,
        optional: bool = False,
        max_age: float | None = None,
    ) -> None:
        self._requests = requests
        self._refusals = refusals
        self._max_age = max_age
        self._prolong = prolong
        self._optional = optional
        # FastAPI knows one scheme per dependency, and a second dependency would double the cost of this one:
        # `document_schemes` adds the others.
        self.scheme_name, scheme = next(iter(schemes_of(requests.carrier).items()))
        self.model = (HTTPBearer if self.scheme_name == BEARER_SCHEME else APIKey).model_validate(scheme)

    async def __call__(self, connection: HTTPConnection) -> RequestSession | None:
        scope = connection.scope
        is_installed = SessionRejected in connection.app.exception_handlers
        # A forgotten call would otherwise show only when a cookie is lost.
        if not is_installed and self._requests.place not in scope:
            raise SessionError(
                "sessions.install(app) has not been called for the application of this route: call it where the "
                "application is made, see docs/frameworks/fastapi.md"
            )
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
            await self._refusals.raise_http(connection, error)

    async def _authenticate(self, connection: HTTPConnection) -> RequestSession:
        state = self._requests.state(connection)
        if state.manager.blocking:
            return await run_in_threadpool(state.authenticate, prolong=self._prolong, max_age=self._max_age)
        return state.authenticate(prolong=self._prolong, max_age=self._max_age)

    async def _let_socket_in(self, connection: HTTPConnection) -> RequestSession:
        self._requests.require_own_socket(connection)
        session = await self._authenticate(connection)
        await self._requests.end_with_session(connection, session)
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
