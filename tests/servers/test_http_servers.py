"""Guarded routes behind the servers that people run: what reaches the application of the header, and what does not."""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import MAX_WAIT, ServerProcess

APPS = Path(__file__).parent / "apps"
GUNICORN = r"Listening at: http://127\.0\.0\.1:(\d+)"

# How to run it on a free port; the packages that it needs; what it prints of its port.
SERVERS = {
    "gunicorn sync": ("gunicorn -k sync -b 127.0.0.1:0 guarded_flask:app", "flask gunicorn", GUNICORN),
    "gunicorn gthread": (
        "gunicorn -k gthread --threads 4 -b 127.0.0.1:0 guarded_flask:app",
        "flask gunicorn",
        GUNICORN,
    ),
    "gunicorn preload": ("gunicorn --preload -b 127.0.0.1:0 guarded_flask:app", "flask gunicorn", GUNICORN),
    "gunicorn gevent": ("gunicorn -k gevent -b 127.0.0.1:0 guarded_flask:app", "flask gunicorn gevent", GUNICORN),
    "waitress": (
        "waitress --listen=127.0.0.1:0 guarded_flask:app",
        "flask waitress",
        r"Serving on http://127\.0\.0\.1:(\d+)",
    ),
    "uvicorn": (
        "uvicorn --port 0 guarded_fastapi:app",
        "fastapi uvicorn",
        r"Uvicorn running on http://127\.0\.0\.1:(\d+)",
    ),
    "runserver": (
        "guarded_django runserver --noreload 127.0.0.1:0",
        "django",
        r"Starting (?:WSGI )?development server at http://127\.0\.0\.1:(\d+)",
    ),
}


@pytest.fixture(params=SERVERS)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    command, packages, printed = SERVERS[request.param]
    need(packages)
    server = ServerProcess("-m", *command.split(), printed=printed, cwd=APPS)
    try:
        yield server.port
    finally:
        output = server.stop()
    # The line of the request that had the key in its URL shows why it must never be there.
    lines = [line for line in output.splitlines() if "?session_key=" not in line]
    assert not [line for line in lines if re.search("[0-9A-F]{32}", line)], "a key is in the server's log"


def need(packages: str) -> None:
    for package in packages.split():
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"could not import {package!r}")


def ask(port: int, method: str, path: str, headers: Any = ()) -> tuple[int, Any]:
    """Send a request whose headers may be sent twice; return the status and the JSON of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=MAX_WAIT)
    connection.putrequest(method, path)
    for name, value in (*headers, ("Content-Length", "0")):
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


def test_header_and_cookie(port):
    """A guarded route takes the key from the header or the cookie, and from nothing that only looks like them."""
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
    # A header that a proxy was tricked into adding does not replace the client's.
    assert ask(port, "GET", "/guarded", [("session_key", key), ("Session-Key", "forged")]) == rejected
