"""The answers to requests that are refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

from fastapi import FastAPI, HTTPException
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import NoMatchFound, Router
from starlette.websockets import WebSocketClose

from ...errors import SessionError, SessionRejected
from .._refusals import REFUSED, Refusal, prefers_html
from .._urls import OWN_PATH
from .state import Answer, Requests


class Refusals:
    """Answers the requests that are refused.

    Args:
        requests: Knows their states.
        login_url: The login page, a URL or the name of a route; `None` for none.
        has_api: Whether there are clients that expect JSON.
    """

    def __init__(self, requests: Requests, login_url: str | None, *, has_api: bool) -> None:
        self._requests = requests
        self._login_url = login_url
        self._has_api = has_api

    def require_login_route(self, app: FastAPI) -> None:
        """Raise `SessionError` if the login page is a route that an application does not have."""
        if self._login_url is not None and "/" not in self._login_url:
            try:
                app.url_path_for(self._login_url)
            except NoMatchFound:
                raise SessionError(
                    f"login_url: the application has no route {self._login_url!r}: name one that it has, or a path, "
                    "see docs/frameworks/fastapi.md"
                ) from None

    def answer_below(self, app: FastAPI) -> None:
        """Answer the exceptions of ours in the applications that are mounted on `app`, and do without `install`."""
        for mounted in _mounted_apps(app.routes):
            if mounted.middleware_stack is None:  # else it has answered requests already, and takes no handler any more
                for error in REFUSED:
                    mounted.exception_handlers.setdefault(error, self.raise_http)

    # Coroutine functions, so that Starlette needs no thread for them: they ask no store.
    async def raise_http(self, request: HTTPConnection, error: Exception) -> NoReturn:
        """Raise the `HTTPException` for an exception of ours, which an application without `install` answers."""
        refusal = self._refusal(request, error)
        raise HTTPException(refusal.status, refusal.body, refusal.headers) from None

    async def refuse(self, request: HTTPConnection, error: Exception) -> Any:
        """Return the answer: JSON, or for a browser the login page after a rejection, else a page."""
        refusal = self._refusal(request, error)
        answer: Answer | None = request.scope.get(self._requests.place)
        if answer is not None and answer.socket is not None and answer.socket.is_accepted:
            return WebSocketClose(4000 + refusal.status, refusal.text)  # it takes no answer any more
        if not self._wants_page(request):
            return JSONResponse(refusal.body, refusal.status, refusal.headers)
        return HTMLResponse(refusal.page(), refusal.status, refusal.headers)

    def _refusal(self, request: HTTPConnection, error: Exception) -> Refusal:
        refusal = self._requests.state(request).refuse(error)
        headers = refusal.headers
        if isinstance(error, SessionRejected) and self._requests.carrier.bearer:
            headers = {**headers, "WWW-Authenticate": "Bearer"}  # RFC 6750, section 3
        if isinstance(error, SessionRejected) and self._login_url is not None and self._wants_page(request):
            return refusal._replace(status=303, headers={**headers, "Location": self._login_page(request)})
        return refusal._replace(headers=headers)

    def _wants_page(self, request: HTTPConnection) -> bool:
        return request.scope["type"] == "http" and (
            not self._has_api or prefers_html(request.headers.get("accept", ""))
        )

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


def _mounted_apps(routes: Iterable[Any]) -> Iterator[Starlette]:
    """Yield the applications that are mounted at one of the routes, or further below."""
    for route in routes:
        app = getattr(route, "app", None)
        if isinstance(app, Starlette):
            yield app
        if isinstance(app, Starlette | Router):
            yield from _mounted_apps(app.routes)
