"""Several workers of the servers that people run, and one Redis: who logs in at one is logged in at all of them."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis_server import RedisServer
from test_http_servers import APPLICATIONS, PATIENCE, ask, wait_until_listening

pytest.importorskip("redis")

GUNICORN = "gunicorn --workers 3 --access-logfile - --access-logformat worker=%(p)s -b 127.0.0.1:{port} on_redis:app"
# What to run, in which {port} is a free one; the application; the packages it needs.
SERVERS = {
    "gunicorn, flask": (GUNICORN, "guarded_flask", "flask gunicorn"),
    "gunicorn preload, flask": (GUNICORN.replace(" -b", " --preload -b"), "guarded_flask", "flask gunicorn"),
    "gunicorn, django": (GUNICORN, "guarded_django", "django gunicorn"),
    "uvicorn, fastapi": ("uvicorn --workers 3 --port {port} on_redis:app", "guarded_fastapi", "fastapi uvicorn"),
}


@pytest.fixture
def redis(tmp_path: Path):
    server = RedisServer(tmp_path, "--appendonly", "yes")
    yield server
    server.stop()


@pytest.fixture(params=SERVERS)
def port(request, redis):
    command, application, packages = SERVERS[request.param]
    for package in packages.split():
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"could not import {package!r}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"REDIS_URL": redis.url, "GUARDED": application}
    with tempfile.TemporaryFile("w+") as said:
        server = subprocess.Popen(
            [sys.executable, "-u", "-m", *command.format(port=port).split()],
            cwd=APPLICATIONS,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_listening(server, port, said)
            if "gunicorn" in command:
                wait_until_all_answer(port, said)
            up_to_now = os.fstat(said.fileno()).st_size
            yield port
        finally:
            server.terminate()
            server.wait(PATIENCE)
        assert "Traceback" not in read(said), read(said)
        if "gunicorn" in command:
            assert len(workers_in(read(said, up_to_now))) > 1, "all requests went to one worker"


def read(said, start=0) -> str:
    """Return what the server has said; without a `seek`, which would move the place where it writes."""
    return os.pread(said.fileno(), 10**7, start).decode()


def workers_in(output) -> set[str]:
    return {line for line in output.splitlines() if line.startswith("worker=")}


def wait_until_all_answer(port, said) -> None:
    """Else the first worker may have answered everything before the others have started."""
    deadline = time.monotonic() + PATIENCE
    with ThreadPoolExecutor(5) as several:
        while len(workers_in(read(said))) < 3:
            assert time.monotonic() < deadline, read(said)
            assert {status for status, _ in several.map(lambda _: ask(port, "GET", "/guarded"), range(5))} == {401}


def test_a_login_is_one_on_every_worker_and_a_store_that_is_away_lets_nobody_in(port, redis):
    keys = [ask(port, "POST", "/login")[1]["session_key"] for _ in range(5)]
    headers = [[("Session-Key", key)] for key in keys]
    with ThreadPoolExecutor(len(keys)) as several:  # at once, so that one worker cannot answer them all
        for _ in range(10):
            assert set(several.map(lambda header: ask(port, "GET", "/guarded", header)[0], headers)) == {200}
            assert ask(port, "GET", "/guarded", [("Session-Key", "forged")]) == (401, {"logout": True})
    redis.stop()
    for header in headers:
        assert ask(port, "GET", "/guarded", header) == (503, {"unavailable": True})
    assert ask(port, "GET", "/guarded") == (401, {"logout": True})
    redis.start()
    deadline = time.monotonic() + PATIENCE
    while ask(port, "GET", "/guarded", headers[0])[0] == 503:
        assert time.monotonic() < deadline
    assert {ask(port, "GET", "/guarded", header)[0] for header in headers} == {200}
