"""Development servers with their reloader, a shell beside them, and several workers with sessions in memory."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from server_process import MAX_WAIT, ServerProcess
from test_http_servers import APPS, GUNICORN, need

pytest.importorskip("redis")
pytest.importorskip("socketio")

from socketio_client import new_client  # the extra may be missing

SERVERS = {
    "flask": ("flask --app developed_flask run --debug --port 0", "flask", r"Running on http://127\.0\.0\.1:(\d+)"),
    "django": (
        "developed_django runserver 127.0.0.1:0",
        "django",
        r"Starting (?:WSGI )?development server at http://127\.0\.0\.1:(\d+)",
    ),
}
CLIENTS = 5
SHELL = "import sys, developed_site; print(developed_site.manager.getLoggedUsers(), flush=True); sys.stdin.read()"


@contextlib.contextmanager
def running(command: str, printed: str, environment: dict[str, str]) -> Iterator[ServerProcess]:
    server = ServerProcess("-m", *command.split(), printed=printed, cwd=APPS, env=environment)
    try:
        yield server
    finally:
        # A reloader does not end what it has started.
        processes = {int(number) for number in re.findall(r"^process (\d+)$", server.output, re.MULTILINE)}
        server.stop()
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("store", ["redis", "memory"])
def test_reloader(kind, store, redis_url, tmp_path):
    """Every page gets its logout; the reloader's parent and a shell, which have the listeners too, take none away."""
    command, packages, printed = SERVERS[kind]
    need(packages)
    notes = tmp_path / "notes"
    environment = {
        "REDIS_URL": redis_url if store == "redis" else "",
        "NOTES": str(notes),
        "DJANGO_SETTINGS_MODULE": "",
    }
    with running(command, printed, environment) as server:
        shell = subprocess.Popen(
            [sys.executable, "-c", SHELL],
            cwd=APPS,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            keys, logouts = [], threading.Semaphore(0)
            clients = [new_client() for _ in range(CLIENTS)]
            for client in clients:
                client.on("logout", lambda _data: logouts.release())
                client.connect(server.address, transports=["polling"], wait_timeout=MAX_WAIT)
                login = requests.post if kind == "flask" else requests.get
                keys.append(login(f"{server.address}/login", timeout=MAX_WAIT).json()["session_key"])
                # Its session may have expired on a busy machine; then the client gets its logout at once.
                client.call("session_key", keys[-1], timeout=MAX_WAIT)
            for _ in clients:
                assert logouts.acquire(timeout=MAX_WAIT)
            deadline = time.monotonic() + MAX_WAIT
            while len(ends := notes.read_text().splitlines() if notes.exists() else []) < CLIENTS:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            for client in clients:
                client.disconnect()
            shell.communicate()
        output = server.output
    assert Counter(end.split()[1] for end in ends) == Counter(key.partition("_")[0] for key in keys)
    assert str(shell.pid) not in {end.split()[0] for end in ends}
    assert len({end.split()[0] for end in ends}) == 1
    assert output.count("end with each reload") == (store == "memory")


def test_workers_in_memory(tmp_path):
    """Each of several workers logs one warning once it has seen a key of another, and leaves its cookie."""
    need("flask gunicorn")
    environment = {"REDIS_URL": "", "NOTES": str(tmp_path / "notes")}
    command = "gunicorn --workers 4 -b 127.0.0.1:0 developed_flask:app"
    with running(command, GUNICORN, environment) as server:
        key = requests.post(f"{server.address}/login", timeout=MAX_WAIT).json()["session_key"]

        def ask(_: int) -> requests.Response:
            headers = {"Cookie": f"session_key={key}"}
            return requests.get(f"{server.address}/guarded", headers=headers, timeout=MAX_WAIT)

        with ThreadPoolExecutor(8) as threads:
            answers = [*threads.map(ask, range(200))]
        rejected = [answer for answer in answers if answer.status_code == 401]
        assert not any(answer.headers.get("Set-Cookie") for answer in rejected)
        output = server.output
    workers = {answer.headers["Process"] for answer in rejected}
    assert workers
    assert output.count("another process has issued") == len(workers)
