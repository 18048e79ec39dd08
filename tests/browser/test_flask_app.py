"""What the Flask example promises that needs no browser to see."""

from __future__ import annotations

import http.cookiejar
import importlib
import json
import queue
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flask")
pytest.importorskip("simple_websocket")

from users_session_manager import SessionManager

EXAMPLE = Path(__file__).parents[2] / "examples" / "flask_app"
GUARDED = ("still-here", "timeout", "logout", "logout-everyone")


@pytest.fixture
def example_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports a module of the example as its `python app.py` does."""
    names = ("app", "socket_io_client")
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    monkeypatch.syspath_prepend(EXAMPLE)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def client(example_module: Callable[[str], Any]) -> Any:
    """A client of the application that has no copy of socket.io-client of its own."""
    return example_module("app").create_app().test_client()


def log_in(client: Any, **options: Any) -> Any:
    return client.post("/login", json={"username": "luca", "password": "lasagne"}, **options)


def test_the_cookie_is_for_the_server_alone_and_secure_over_https(client, example_module):
    plain = log_in(client).headers["Set-Cookie"]
    encrypted = log_in(example_module("app").create_app(https=True).test_client()).headers["Set-Cookie"]
    assert plain.startswith("session_key=")
    assert encrypted.startswith("__Host-session_key=")
    assert plain.endswith("; HttpOnly; Path=/; SameSite=Lax")
    assert encrypted.endswith("; Secure; HttpOnly; Path=/; SameSite=Lax")
    assert "; Secure; " not in plain


def test_an_unknown_user_and_a_wrong_password_get_the_same_answer(client, example_module, monkeypatch):
    app = example_module("app")
    checked: list[str] = []
    check = app.check_password_hash
    monkeypatch.setattr(app, "check_password_hash", lambda *args: checked.append(args[0]) or check(*args))
    attempts = [("luca", "focaccia"), ("nobody at all", "nobody"), ("", ""), (None, None), (["luca"], {"a": 1})]
    answers = {client.post("/login", json={"username": u, "password": p}).data for u, p in attempts}
    assert len(answers) == 1
    assert len(checked) == len(attempts), "a hash is checked whoever asks"
    assert {stored.split(":")[0] for stored in checked} == {"scrypt"}
    assert SessionManager().getLoggedUsers() == []


@pytest.mark.parametrize("path", ["login", *GUARDED])
def test_what_a_form_of_another_site_can_post_is_refused(client, path):
    log_in(client)
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data", None):
        assert client.post(f"/{path}", data='{"seconds": 5}', content_type=kind).status_code == 415
    assert SessionManager().getLoggedUsers() == ["luca"]


@pytest.mark.parametrize(("body", "status"), [("{", 400), ("[]", 400), ("null", 400), ("1", 400), ("9" * 5000, 413)])
def test_a_body_that_is_no_json_object_is_refused(client, body, status):
    log_in(client)
    for path in ("login", "timeout"):
        assert client.post(f"/{path}", data=body, content_type="application/json").status_code == status


def test_whoever_is_not_logged_in_gets_401_and_logout(client):
    for key in (None, "", "luca", "Otter-candid-46_" + "0" * 32):
        if key is not None:
            client.set_cookie("session_key", key)
        answers = [client.post(f"/{path}", json={"seconds": 5}) for path in GUARDED] + [client.get("/sessions")]
        assert [(answer.status_code, answer.json) for answer in answers] == [(401, {"logout": True})] * 5
    assert SessionManager().getSessionTimeout() == 60


def test_every_answer_is_hardened(client):
    for response in (client.get("/"), log_in(client), client.get("/sessions"), client.get("/nowhere")):
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cache-Control"] == "no-store"


def test_a_timeout_that_the_manager_refuses_is_refused_at_the_start(example_module):
    with pytest.raises(ValueError, match="at least 2 seconds, got 1"):
        example_module("app").create_app(timeout=1)


def test_without_npm_the_page_takes_the_script_from_the_cdn_and_checks_it(
    client, example_module, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert example_module("socket_io_client").fetch(tmp_path / "instance") is None
    page = client.get("/")
    tag = re.search(r'<script defer src="(https://cdn\.jsdelivr\.net/npm/socket\.io-client@[^"]+)"([^>]*)>', page.text)
    assert tag is not None
    assert re.search(r' integrity="sha384-[A-Za-z0-9+/]{64}" crossorigin="anonymous"', tag[2])
    assert f"script-src 'self' {tag[1]};" in page.headers["Content-Security-Policy"]
    assert client.get("/socket.io-client.js").status_code == 404


@pytest.mark.parametrize("script", ["exit 1", "kill $$", 'mkdir -p "$4" && echo tampered > "$4/socket.io.min.js"'])
def test_an_npm_that_fails_or_brings_another_file_is_as_good_as_none(example_module, tmp_path, monkeypatch, script):
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\nset -- $1 $2 $3 $3/node_modules/socket.io-client/dist\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert example_module("socket_io_client").fetch(tmp_path / "instance") is None


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, str(EXAMPLE / "app.py"), "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert f"Port {port} is in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_client_in_python_hears_what_a_page_hears(example):
    socketio = pytest.importorskip("socketio")
    pytest.importorskip("requests")
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))

    def post(path: str, **body: str) -> None:
        headers = {"Content-Type": "application/json"}
        with browser.open(urllib.request.Request(example.url + path, json.dumps(body).encode(), headers)) as answer:
            assert answer.status == 200

    def heard(client: Any) -> queue.Queue[tuple[str, Any]]:
        events: queue.Queue[tuple[str, Any]] = queue.Queue()
        client.on("*", lambda event, *data: events.put((event, data)))
        return events

    post("login", username="luca", password="lasagne")
    (cookie,) = jar
    with ExitStack() as stack:
        insider, outsider = socketio.Client(), socketio.Client()
        stack.callback(insider.disconnect)
        stack.callback(outsider.disconnect)
        inside, outside = heard(insider), heard(outsider)
        insider.connect(example.url, headers={"Cookie": f"session_key={cookie.value}"}, transports=["polling"])
        outsider.connect(example.url, transports=["polling"])
        assert insider.call("session_key") is True
        assert outsider.call("session_key") is False
        assert outside.get(timeout=30) == ("logout", ())

        post("still-here")
        event, (rows,) = inside.get(timeout=30)
        assert event == "sessions"
        assert [(row["username"], row["you"], row["label"]) for row in rows] == [
            ("luca", True, cookie.value.partition("_")[0])
        ]
        assert 590 < rows[0]["left"] <= rows[0]["timeout"] == 600

        post("logout")
        assert inside.get(timeout=30) == ("logout", ())
        # Its packets keep their order, so whatever else it had been sent would be there before this answer.
        assert outsider.call("session_key") is False
        assert outside.get(timeout=30) == ("logout", ())
        assert (inside.qsize(), outside.qsize()) == (0, 0)
