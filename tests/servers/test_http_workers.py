"""Several workers of the servers that people run, and one Redis: a login at one counts at all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer
from server_process import MAX_WAIT, ServerProcess
from test_http_servers import APPS, GUNICORN, ask, need
from waiting import eventually

pytest.importorskip("redis")

WORKERS = 2
RUN_GUNICORN = f"gunicorn --workers {WORKERS} -b 127.0.0.1:0 on_redis:app"
RUN_UVICORN = f"uvicorn --workers {WORKERS} --port 0 on_redis:app"
UVICORN = r"Uvicorn running on http://127\.0\.0\.1:(\d+)"

# How to run it on a free port; the application; the packages that it needs; what it prints of its port.
SERVERS = {
    "gunicorn, flask": (RUN_GUNICORN, "guarded_flask", "flask gunicorn", GUNICORN),
    "gunicorn preload, flask": (RUN_GUNICORN + " --preload", "guarded_flask", "flask gunicorn", GUNICORN),
    "gunicorn, django": (RUN_GUNICORN, "guarded_django", "django gunicorn", GUNICORN),
    "uvicorn, fastapi": (RUN_UVICORN, "guarded_fastapi", "fastapi uvicorn", UVICORN),
}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes")
    yield server
    server.stop()


@pytest.fixture(params=SERVERS)
def ask_each(request: pytest.FixtureRequest, redis: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Ask every worker; return the answers.

    A worker that has been asked is held until all have been asked, so the next request can only go to another one.
    """
    command, application, packages, printed = SERVERS[request.param]
    need(packages)
    held = tmp_path / "held"
    environment = {"REDIS_URL": redis.url, "GUARDED": application, "HELD": str(held)}
    server = ServerProcess("-m", *command.split(), printed=printed, cwd=APPS, env=environment)

    def ask_each(method: str, path: str, *headers: tuple[str, str]) -> list[Any]:
        held.mkdir()
        hold = [*headers, ("Hold", "yes")]
        with ThreadPoolExecutor(WORKERS) as threads:
            answers = []
            for number in range(1, WORKERS + 1):
                answers.append(threads.submit(ask, server.port, method, path, hold))
                eventually(lambda number=number: len(list(held.iterdir())) == number)
            for worker in held.iterdir():
                worker.unlink()
            held.rmdir()
            return [answer.result(MAX_WAIT) for answer in answers]

    try:
        yield ask_each
    finally:
        server.stop()


def test_each_worker_knows_each_login(ask_each, redis):
    """Every worker takes the logins of every worker, and answers 503 while Redis is unreachable."""
    logins = ask_each("POST", "/login")
    headers = [("Session-Key", answer["session_key"]) for _, answer in logins]
    assert len(set(headers)) == WORKERS
    for header in headers:
        assert ask_each("GET", "/guarded", header) == [(200, {"username": "Luca"})] * WORKERS
    assert ask_each("GET", "/guarded", ("Session-Key", "forged")) == [(401, {"logout": True})] * WORKERS
    redis.stop()
    for header in headers:
        assert ask_each("GET", "/guarded", header) == [(503, {"unavailable": True})] * WORKERS
    assert ask_each("GET", "/guarded") == [(401, {"logout": True})] * WORKERS
    redis.start()
    for header in headers:
        eventually(lambda header=header: {status for status, _ in ask_each("GET", "/guarded", header)} == {200})
