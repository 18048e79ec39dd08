"""An nginx that stores answers, in front of each framework: no client gets the answer of another one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from nginx import nginx
from server_process import MAX_WAIT, ServerProcess
from test_http_servers import SERVERS, need

APPS = Path(__file__).parent / "apps"
FRAMEWORKS = {"flask": "waitress", "fastapi": "uvicorn", "django": "runserver"}
HTTP = """
    proxy_cache_path cache keys_zone=answers:1m;

    server {
        listen <listen>;

        location / {
            proxy_pass <application>;
            proxy_cache answers;
            # Answers without other headers are stored, refusals too.
            proxy_cache_valid any 1h;
            add_header X-Cache $upstream_cache_status always;
        }
    }
"""


@pytest.fixture(params=FRAMEWORKS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of nginx in front of an application."""
    command, packages, printed = SERVERS[FRAMEWORKS[request.param]]
    need(packages)
    server = ServerProcess("-m", *command.split(), printed=printed, cwd=APPS)
    try:
        with nginx(tmp_path, HTTP, application=server.address) as address:
            yield f"http://{address}"
    finally:
        server.stop()


def get(url: str, headers: Any = None) -> tuple[int, Any, str]:
    """Return the status, the username or the text, and what nginx says of its cache."""
    answer = requests.get(url, headers=headers, timeout=MAX_WAIT)
    is_json = answer.headers["Content-Type"].startswith("application/json")
    body = answer.json().get("username") if is_json and answer.json() else answer.text
    return answer.status_code, body, answer.headers["X-Cache"]


def clients(url: str) -> dict[str, dict[str, str]]:
    """Return the headers of each client, by name: each of two users with a header and with a cookie."""
    found = {}
    for name in ("alice", "bob"):
        keys = [requests.post(f"{url}/login/{name}", timeout=MAX_WAIT).json()["session_key"] for _ in range(2)]
        found[f"{name} by header"] = {"Session-Key": keys[0]}
        found[f"{name} by cookie"] = {"Cookie": f"session_key={keys[1]}"}
    return found


def test_stores(url):
    """This nginx does store answers: else the other tests would show nothing."""
    assert [get(f"{url}/public")[2] for _ in range(2)] == ["MISS", "HIT"]


@pytest.mark.parametrize("path", ["guarded", "file"])
def test_guarded(url, path):
    """A guarded answer is not stored; nor is the refusal of a client without a session, which comes first and last."""
    for name, headers in {"a stranger": {}, **clients(url), "another stranger": {}}.items():
        for _ in range(2):
            status, body, cache = get(f"{url}/{path}", headers)
            assert (status, cache) == (200 if headers else 401, "MISS")
            if path == "guarded" and headers:
                assert body == name.split()[0]


def test_own_cache_control(url):
    """A view that says itself what caches may do has its answer stored, for the same client alone."""
    found = clients(url)
    for expected in ("MISS", "HIT"):
        for name, headers in found.items():
            assert get(f"{url}/lasting", headers) == (200, name.split()[0], expected)
        for headers in ({}, {"Session-Key": "x"}, {"Cookie": "session_key=x"}, {"Cookie": "a=b"}):
            status, _, cache = get(f"{url}/lasting", headers)
            assert (status, cache) == (401, "MISS")


@pytest.mark.parametrize(("path", "status"), [("recent", 403), ("too-many", 409), ("unavailable", 503)])
def test_refusals(url, path, status):
    """No refusal is stored."""
    for headers in clients(url).values():
        for _ in range(2):
            found, _, cache = get(f"{url}/{path}", headers)
            assert (found, cache) == (status, "MISS")
