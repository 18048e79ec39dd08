"""Guarded routes behind the servers that people run: what reaches the application of the header, and what does not."""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

APPLICATIONS = Path(__file__).parent / "apps"
PATIENCE = 60

# What to run, in which {port} is a free one; the packages it needs; what it prints once it listens.
SERVERS = {
    "gunicorn sync": ("gunicorn -k sync -b 127.0.0.1:{port} guarded_flask:app", "flask gunicorn", "Booting worker"),
    "gunicorn gthread": (
        "gunicorn -k gthread --threads 4 -b 127.0.0.1:{port} guarded_flask:app",
        "flask gunicorn",
        "Booting worker",
    ),
    "gunicorn preload": (
        "gunicorn --preload -b 127.0.0.1:{port} guarded_flask:app",
        "flask gunicorn",
        "Booting worker",
    ),
    "gunicorn gevent": ("gunicorn -k gevent -b 127.0.0.1:{port} guarded_flask:app", "flask gunicorn gevent", "Booting"),
    "waitress": ("waitress --listen=127.0.0.1:{port} guarded_flask:app", "flask waitress", "Serving on"),
    "uvicorn": ("uvicorn --port {port} guarded_fastapi:app", "fastapi uvicorn", "Application startup complete"),
    "runserver": ("guarded_django runserver --noreload 127.0.0.1:{port}", "django", "Quit the server"),
}


@pytest.fixture(params=SERVERS)
def port(request):
    command, packages, ready = SERVERS[request.param]
    for package in packages.split():
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"could not import {package!r}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as said:
        server = subprocess.Popen(
            [sys.executable, "-u", "-m", *command.format(port=port).split()],
            cwd=APPLICATIONS,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_listening(server, port, said)
            yield port
        finally:
            server.terminate()
            server.wait(PATIENCE)
        said.seek(0)
        output = said.read()
    assert ready in output
    assert "Traceback" not in output, output
    # The line of the request that had the key in its URL shows why it must never be there.
    lines = [line for line in output.splitlines() if "?session_key=" not in line]
    assert not [line for line in lines if re.search("[0-9A-F]{32}", line)], "a key is in the server's log"


def wait_until_listening(server, port, said) -> None:
    for _ in range(PATIENCE * 20):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        with suppress(subprocess.TimeoutExpired):
            server.wait(0.05)
            break
    said.seek(0)
    pytest.fail(f"the server does not listen: {said.read()}")


def ask(port, method, path, headers=()):
    """Send a request whose headers may stand twice; return the status and the JSON of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.putrequest(method, path)
    for name, value in (*headers, ("Content-Length", "0")):
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


def test_a_guarded_route_takes_the_header_and_nothing_like_it(port):
    status, answer = ask(port, "POST", "/login")
    assert status == 200
    key = answer["session_key"]
    rejected = (401, {"logout": True})
    assert ask(port, "GET", "/guarded", [("Session-Key", key)]) == (200, {"username": "Luca"})
    assert ask(port, "GET", "/guarded", [("session-key", key)]) == (200, {"username": "Luca"})
    assert ask(port, "GET", "/guarded", [("Cookie", f"a=b; session_key={key}")]) == (200, {"username": "Luca"})
    assert ask(port, "GET", "/guarded") == rejected
    assert ask(port, "GET", f"/guarded?session_key={key}&Session-Key={key}") == rejected
    assert ask(port, "GET", "/guarded", [("Session-Key", key), ("Session-Key", key)]) == rejected
    assert ask(port, "GET", "/guarded", [("Session-Key", key), ("Session-Key", "forged")]) == rejected
    assert ask(port, "GET", "/guarded", [("Session-Key", f"{key},{key}")]) == rejected
    assert ask(port, "GET", "/guarded", [("session_key", key)]) == rejected
    # What a proxy was tricked into adding does not count for what the client has sent.
    assert ask(port, "GET", "/guarded", [("session_key", key), ("Session-Key", "forged")]) == rejected
