"""The middleware of every request: it writes the cookie of the answer, and answers refusals."""

from __future__ import annotations

from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._refusals import REFUSED
from .._streams import CONNECTIONS
from .._websockets import SessionSocket
from .answers import Refusals
from .state import Answer, Requests

_STARTS: Final = ("http.response.start", "websocket.http.response.start")


class Finisher:
    """Adds the cookie to each response of an application, and what caches have to know."""

    def __init__(self, requests: Requests, app: ASGIApp) -> None:
        self._requests = requests
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = self._requests.place
        if scope["type"] not in ("http", "websocket") or place in scope:  # an outer application finishes it
            await self._app(scope, receive, send)
            return
        scope[place] = answer = Answer()

        async def finish(message: Message) -> None:
            if message["type"] in _STARTS:
                answer.has_started = True
                if answer.state is not None:
                    headers = self._requests.finish(HTTPConnection(scope), message.get("headers", []))
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


class Refuser:
    """Answers the exceptions of ours that a middleware has raised: what answers those of routes is inside of it."""

    def __init__(self, app: ASGIApp, requests: Requests, refusals: Refusals) -> None:
        self._app = app
        self._requests = requests
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except REFUSED as error:
            if scope["type"] != "http" or scope[self._requests.place].has_started:
                raise
            response = await self._refusals.refuse(HTTPConnection(scope), error)
            await response(scope, receive, send)
