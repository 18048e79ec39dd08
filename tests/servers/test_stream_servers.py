"""Streamed answers on the servers that people run: they end with their session, and their generators clean up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer
from server_process import MAX_WAIT, ServerProcess
from test_http_servers import APPS, GUNICORN, ask, need

from users_session_manager import SessionManager

UVICORN = r"Uvicorn running on http://127\.0\.0\.1:(\d+)"
GTHREAD = "gunicorn -k gthread --threads 8 -b 127.0.0.1:0"

# How to run it on a free port; the packages that it needs; what it prints of its port; the path of the stream.
SERVERS = {
    "flask, gthread": (f"{GTHREAD} guarded_flask:app", "flask gunicorn", GUNICORN, "/stream"),
    "flask, gevent": (
        "gunicorn -k gevent -b 127.0.0.1:0 guarded_flask:app",
        "flask gunicorn gevent",
        GUNICORN,
        "/stream",
    ),
    "flask, waitress": (
        "waitress --threads=8 --listen=127.0.0.1:0 guarded_flask:app",
        "flask waitress",
        r"Serving on http://127\.0\.0\.1:(\d+)",
        "/stream",
    ),
    "django, gthread": (f"{GTHREAD} guarded_django:app", "django gunicorn", GUNICORN, "/stream"),
    "django, uvicorn": ("uvicorn --port 0 guarded_django:asgi", "django uvicorn", UVICORN, "/async-stream"),
    "fastapi, plain": ("uvicorn --port 0 guarded_fastapi:app", "fastapi uvicorn", UVICORN, "/stream"),
    "fastapi, async": ("uvicorn --port 0 guarded_fastapi:app", "fastapi uvicorn", UVICORN, "/async-stream"),
}
# With two workers, and the sessions in Redis.
ON_REDIS = {
    "flask": (f"{GTHREAD} --workers 2 on_redis:app", "guarded_flask", "flask gunicorn", GUNICORN, "/stream"),
    "django": ("uvicorn --workers 2 --port 0 on_redis:app", "guarded_django", "django uvicorn", UVICORN, None),
    "fastapi": ("uvicorn --workers 2 --port 0 on_redis:app", "guarded_fastapi", "fastapi uvicorn", UVICORN, None),
}


class Site:
    """A server with a route that streams."""

    def __init__(self, server: ServerProcess, path: str, name: str = "") -> None:
        self.name = name
        self._server = server
        self._path = path
        self.port = server.port
        self._stack = ExitStack()

    def open(self, key: str) -> HTTPResponse:
        """Return an answer that is being streamed, whose first event has come."""
        connection = self._stack.enter_context(closing(HTTPConnection("127.0.0.1", self.port, timeout=MAX_WAIT)))
        connection.request("GET", self._path, headers={"Session-Key": key})
        answer = self._stack.enter_context(closing(connection.getresponse()))
        assert answer.status == 200
        assert answer.readline().startswith(b"data: ")
        return answer

    def leave(self) -> None:
        """Close the connections of all clients."""
        self._stack.close()

    def closed(self) -> int:
        """Return how many generators have cleaned up since the start."""
        return self._server.output.count("The stream was closed")

    def wait_until_closed(self, streams: int) -> None:
        """Wait until that many generators have cleaned up."""
        deadline = time.monotonic() + MAX_WAIT
        while self.closed() < streams:
            assert time.monotonic() < deadline, self._server.output
            time.sleep(0.01)


def read_to_the_end(answer: HTTPResponse) -> None:
    """Read until the server has ended the answer; an answer that is cut off raises `IncompleteRead`."""
    while answer.read1(4096):
        pass


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    command, packages, printed, path = SERVERS[request.param]
    need(packages)
    server = ServerProcess("-m", *command.split(), printed=printed, cwd=APPS)
    site = Site(server, path)
    try:
        yield site
    finally:
        site.leave()
        server.stop()


def test_in_memory(site):
    """A stream ends with its session and not with another one, and when its client leaves."""

    def sign_in() -> str:
        return ask(site.port, "POST", "/login")[1]["session_key"]

    ending, staying = sign_in(), sign_in()
    ended = [site.open(ending) for _ in range(3)]
    site.open(staying)
    assert ask(site.port, "POST", "/logout", [("Session-Key", ending)]) == (200, {"ended": True})
    for answer in ended:
        read_to_the_end(answer)
    site.wait_until_closed(3)
    assert ask(site.port, "GET", "/stream", [("Session-Key", ending)]) == (401, {"logout": True})
    assert site.closed() == 3
    site.leave()
    site.wait_until_closed(4)
    assert ask(site.port, "GET", "/guarded", [("Session-Key", staying)])[0] == 200


@pytest.fixture(params=ON_REDIS)
def site_on_redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A server of two processes, whose sessions are those of the manager of the test."""
    pytest.importorskip("redis")
    command, application, packages, printed, path = ON_REDIS[request.param]
    need(packages)
    redis = RedisServer(tmp_path)
    environment = {"REDIS_URL": redis.url, "GUARDED": application, "SERVE_ASGI": "" if path else "yes"}
    try:
        server = ServerProcess("-m", *command.split(), printed=printed, cwd=APPS, env=environment)
    except BaseException:
        redis.stop()
        raise
    site = Site(server, path or "/async-stream", request.param)
    SessionManager(store=redis.url)
    try:
        yield site
    finally:
        site.leave()
        server.stop()
        SessionManager().close()
        redis.stop()


ENDS: dict[str, Callable[[SessionManager, str], Any]] = {
    "deleted": lambda manager, key: manager.deleteSession(key),
    "everyone": lambda manager, key: manager.deleteUserSessions("Luca"),
    "renewed, deleted": lambda manager, key: manager.deleteSession(manager.renewSessionKey(key)),
}


def test_on_redis(site_on_redis):
    """However a session ends, in another process or by expiry, its streams in all processes end."""
    manager, closed = SessionManager(), 0
    for end in ENDS.values():
        key = manager.loadNewSession("Luca")
        streams = [site_on_redis.open(key) for _ in range(4)]
        end(manager, key)
        for each in streams:
            read_to_the_end(each)
        closed += len(streams)
        site_on_redis.wait_until_closed(closed)
    keys = [manager.loadNewSession("Luca") for _ in range(2)]
    expiring = [site_on_redis.open(key) for key in keys]
    manager.setSessionTimeOut(2)
    assert all(manager.restartSessionTimer(key) for key in keys)
    for each in expiring:
        read_to_the_end(each)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("site_on_redis", "kind"),
    [("fastapi", "events"), ("fastapi", "WebSocket"), ("django", "events")],
    indirect=["site_on_redis"],
)
def test_how_soon(site_on_redis, kind):
    """How long after the end of its session, in another process, a silent client sees the end of its connection."""
    websocket, manager, took = pytest.importorskip("websocket"), SessionManager(), []
    for _ in range(100):
        key = manager.loadNewSession("Luca")
        if kind == "events":
            answer = site_on_redis.open(key)
        else:
            url, headers = f"ws://127.0.0.1:{site_on_redis.port}/socket", {"Session-Key": key}
            answer = websocket.create_connection(url, timeout=MAX_WAIT, header=headers)
            assert answer.recv() == "hello"
        start = time.perf_counter()
        manager.deleteSession(key)
        if kind == "events":
            read_to_the_end(answer)
        else:
            opcode, data = answer.recv_data()
            assert (opcode, int.from_bytes(data[:2], "big")) == (websocket.ABNF.OPCODE_CLOSE, 4401)
            answer.shutdown()
        took.append(time.perf_counter() - start)
    took.sort()
    print(f"{kind} in {site_on_redis.name}: the median is {took[50]:.4f} s, the longest {took[-1]:.4f} s")
    assert took[-1] < MAX_WAIT
