"""WebSockets that are closed the moment their session ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

from ..stores.base import Notice

SESSION_ENDED: Final = 4401
"""The code with which a WebSocket is closed when its session has ended: 401, in the range that applications may use."""

TRY_AGAIN_LATER: Final = 1013
"""The code with which it is closed when the store has not answered for some time, as IANA has registered it."""

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class SessionSocket:
    """A WebSocket of an ASGI application, which its session closes when it ends.

    From then on what the application sends is an `OSError`, as after a client that has left, but for a close; and what
    it receives is the server's: the disconnection.

    Args:
        send: What the server gave the application; the socket's own `send` takes its place.

    Threads: that of the event loop, but for `end`, which any thread may call.
    """

    def __init__(self, send: Send) -> None:
        self.session_ids: set[Any] = set()
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._is_open = False
        self.is_accepted = False
        self._ended_by: Notice | None = None
        self._is_closed = False  # by `end`
        self._closing: asyncio.Task[None] | None = None  # the loop itself keeps only a weak reference

    async def send(self, message: Message) -> None:
        """Send a message of the application."""
        if self._is_closed:
            if message["type"] == "websocket.close":
                return
            raise OSError("the session of this WebSocket has ended")
        await self._send(message)
        if message["type"] == "websocket.accept":
            self._is_open = self.is_accepted = True
            if self._ended_by is not None:
                await self._close(self._ended_by)
        elif message["type"] == "websocket.close":
            self._is_open = False

    def end(self, notice: Notice) -> None:
        """Close it, since its session has ended; if it is not accepted yet, as soon as it is."""
        with suppress(RuntimeError):  # the loop has closed, and its sockets with it
            self._loop.call_soon_threadsafe(self._end, notice)

    def _end(self, notice: Notice) -> None:
        self._ended_by = notice
        if self._is_open:
            self._closing = self._loop.create_task(self._close(notice))

    async def _close(self, notice: Notice) -> None:
        code, reason = SESSION_ENDED, "The session has ended."
        if notice.kind == "unreachable":
            code, reason = TRY_AGAIN_LATER, "The session cannot be checked now."
        if self._is_open:
            self._is_open, self._is_closed = False, True
            with suppress(OSError, RuntimeError):  # the client has left in between
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
