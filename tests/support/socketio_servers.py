"""Real Socket.IO servers on loopback, and a client that keeps what it hears."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

socketio = pytest.importorskip("socketio")
from socketio_client import new_client  # noqa: E402

serving = pytest.importorskip("werkzeug.serving")
pytest.importorskip("simple_websocket")

from users_session_manager import SessionManager  # noqa: E402
from users_session_manager.integrations.socketio import attach  # noqa: E402


class Server:
    """python-socketio in threading mode behind Werkzeug, on a free port of loopback."""

    def __init__(self, **options: object) -> None:
        # A client that polls may leave no sooner than its poll is answered.
        self.io = socketio.Server(async_mode="threading", ping_interval=1, **options)
        self.io.on("private", lambda sid: self.io.emit("private", to=sid))
        self._http = serving.make_server("127.0.0.1", 0, socketio.WSGIApp(self.io), threaded=True)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def attach(self, manager: SessionManager, **options: Any) -> Callable[[], None]:
        return attach(manager, self.io, **options)

    def call(self, call: Callable[[], Any]) -> Any:
        """Call where the application would."""
        return call()

    def emit(self, event: str, to: object) -> None:
        self.io.emit(event, to=to)

    def settle(self) -> None:
        """Nothing is under way here once a call has returned."""

    def remove(self, client: Client) -> None:
        client.leave()

    def stop(self) -> None:
        self.io.shutdown()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(30)


class LoopServer:
    """python-socketio on an event loop of its own, behind uvicorn, on a free port of loopback."""

    def __init__(self, **options: object) -> None:
        uvicorn = pytest.importorskip("uvicorn")
        self.io = socketio.AsyncServer(async_mode="asgi", **options)

        async def private(sid: str) -> None:
            await self.io.emit("private", to=sid)

        self.io.on("private", private)
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(socketio.ASGIApp(self.io), log_config=None, lifespan="off", timeout_graceful_shutdown=0)
        self._http = uvicorn.Server(config)
        ready = threading.Event()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            ready.set()
            await self._http.serve(sockets=[listener])

        self._thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
        self._thread.start()
        assert ready.wait(30)

    def attach(self, manager: SessionManager, **options: Any) -> Callable[[], None]:
        return self.call(lambda: attach(manager, self.io, **options))

    def call(self, call: Callable[[], Any]) -> Any:
        """Call on the thread of the loop; return what it returns."""

        async def there() -> Any:
            return call()

        return self.run(there())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def emit(self, event: str, to: object) -> None:
        self.run(self.io.emit(event, to=to))

    def settle(self) -> None:
        """Let the loop do what it has been handed."""

        async def some_turns() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        self.run(some_turns())

    def remove(self, client: Client) -> None:
        if client.io.connected and client.io.transport() == "polling":
            # Its own good-bye would wait until its poll is answered, which that is not here.
            self.run(self.io.disconnect(client.sid))
            assert client.gone.wait(30)
        else:
            client.leave()

    def stop(self) -> None:
        self._http.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


class Client:
    """A python-socketio client that keeps what it hears."""

    def __init__(self, address: str, transport: str = "websocket", cookie: str | None = None) -> None:
        self.words: queue.Queue[object] = queue.Queue()
        self.reasons: list[object] = []  # what each logout carried
        self.io = new_client()
        for word in ("mark", "private"):
            self.io.on(word, lambda *_, word=word: self.words.put(word))
        self.io.on("logout", lambda *data: (self.reasons.extend(data), self.words.put("logout")))
        self.io.on("session_expiring", lambda *data: self.words.put(("session_expiring", *data)))
        self.gone = threading.Event()
        self.io.on("disconnect", lambda *_: self.gone.set())
        headers = {} if cookie is None else {"Cookie": cookie}
        self.io.connect(address, transports=[transport], headers=headers, wait_timeout=30)
        self.sid = self.io.get_sid()

    def leave(self) -> None:
        if self.io.connected and self.io.transport() == "websocket":
            # As a closed tab does; a polite good-bye would wait three seconds for an answer.
            end = self.io.eio.ws.sock
            end.shutdown(socket.SHUT_RDWR)
            assert self.gone.wait(30)
            end.close()  # its own library leaves that to the garbage collector
        else:
            self.io.disconnect()

    def present(self, *data: object) -> object:
        return self.io.call("session_key", *data, timeout=30)

    def heard(self, server: Server | LoopServer) -> list[object]:
        """Return all that this client has heard: what is sent to it arrives in order, so a mark comes last."""
        server.emit("mark", to=self.sid)
        heard = []
        while (word := self.words.get(timeout=30)) != "mark":
            heard.append(word)
        return heard
