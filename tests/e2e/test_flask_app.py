"""The Flask example, as far as no browser is needed."""

from __future__ import annotations

import http.cookiejar
import importlib
import queue
import re
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import EXAMPLES, copy_example

pytest.importorskip("flask")
pytest.importorskip("socketio")
pytest.importorskip("simple_websocket")

from users_session_manager import SessionManager

DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia", "admin": "antipasti"}
BROWSER = {"Accept": "text/html,*/*;q=0.8"}


@pytest.fixture
def example_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Imports a module of the example as its `python app.py` does, with sessions in a file of the test's own."""
    for folder in (Path(copy_example("flask_app", tmp_path)).parent, tmp_path):
        monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for name in [name for name in sys.modules if name.partition(".")[0] in ("app", "shared")]:
        del sys.modules[name]


@pytest.fixture
def application(example_module: Callable[[str], Any]) -> Any:
    """The application, whose pages load the script of the CDN."""
    app = example_module("app").app
    script = example_module("shared.socket_io_client")
    app.jinja_env.globals.update(client={"src": script.CDN, "integrity": script.INTEGRITY})
    return app


@pytest.fixture
def client(application: Any) -> Any:
    return application.test_client()


def log_in(client: Any, username: str = "luca", path: str = "/login", **options: Any) -> Any:
    return client.post(path, data={"username": username, "password": DEMO_USERS[username]}, **options)


def test_cookie(client):
    """The cookie is for the server alone."""
    cookie = log_in(client).headers["Set-Cookie"]
    assert cookie.startswith("session_key=")
    assert {*cookie.split("; ")[1:]} == {"HttpOnly", "Path=/", "SameSite=Lax"}


def test_wrong_password(client, example_module, monkeypatch):
    """An unknown user and a wrong password get the same answer."""
    app = example_module("app")
    checked: list[str] = []
    check = app.check_password_hash
    monkeypatch.setattr(app, "check_password_hash", lambda *args: checked.append(args[0]) or check(*args))
    attempts = [
        ("luca", "focaccia"),
        ("nobody at all", "unknown"),
        ("", ""),
        ("LUCA", "lasagne"),
        ("luca\0", "lasagne"),
    ]
    answers = [client.post("/login", data={"username": u, "password": p}) for u, p in attempts]
    answers.append(client.post("/login"))
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.data for answer in answers}) == 1
    assert len(checked) == len(answers), "a hash is checked for every user"
    assert {stored.split(":")[0] for stored in checked} == {"scrypt"}
    assert SessionManager().getLoggedUsers() == []


def test_other_origin(client):
    """A form of another origin neither logs a user in nor out."""
    elsewhere = {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"}
    assert log_in(client, headers=elsewhere).status_code == 403
    log_in(client)
    for path in ("/logout", "/logout-everywhere"):
        assert client.post(path, headers=elsewhere).status_code == 403
    log_in(client, "admin")
    assert client.post("/logout-user", data={"username": "admin"}, headers=elsewhere).status_code == 415
    assert SessionManager().getLoggedUsers() == ["admin"]


def test_not_logged_in(client):
    """Without a session the answer is 401 with a logout."""
    for key in (None, "", "luca", "Otter-candid-46-k3xq_" + "0" * 32):
        if key is not None:
            client.set_cookie("session_key", key)
        answers = [client.get("/"), client.post("/logout-everywhere"), client.post("/logout-user", json={})]
        assert {(answer.status_code, answer.get_data(as_text=True)) for answer in answers} == {
            (401, '{"logout":true}\n')
        }


def test_login_page(client):
    """A browser without a session is sent to the login, and from there to the page that it wanted."""
    answer = client.get("/?tab=2", headers=BROWSER)
    assert (answer.status_code, answer.location) == (303, "/login?next=%2F%3Ftab%3D2")
    assert log_in(client, path=answer.location).location == "/?tab=2"
    for elsewhere in ("", "?next=https://example.org/", "?next=//example.org/", "?next=/%5Cexample.org/"):
        assert log_in(client, path=f"/login{elsewhere}").location == "/"


def test_log_out_user(application, client):
    """Only the administrator logs other users out."""
    clients = [application.test_client() for _ in range(3)]
    for other, username in zip(clients, ("luca", "luca", "fabio"), strict=True):
        log_in(other, username)
    assert clients[2].post("/logout-user", json={"username": "luca"}).status_code == 403
    assert "data-administrator" not in clients[2].get("/").text
    log_in(client, "admin")
    assert "data-administrator" in client.get("/").text
    assert client.post("/logout-user", json={"username": "luca"}).json == {"ended": 2}
    assert client.post("/logout-user", json={"username": "nobody"}).json == {"ended": 0}
    assert [other.get("/").status_code for other in clients] == [401, 401, 200]


def test_everywhere(application):
    """A logout everywhere ends all sessions of the user, and spares other users."""
    clients = [application.test_client() for _ in range(4)]
    for client, username in zip(clients, ("luca", "luca", "luca", "fabio"), strict=True):
        log_in(client, username)
    assert clients[1].post("/logout-everywhere").location == "/login"
    assert clients[1].get_cookie("session_key") is None
    assert [client.get("/").status_code for client in clients] == [401, 401, 401, 200]


def test_headers(client):
    """Every answer has the security headers."""
    for response in (client.get("/login"), log_in(client), *map(client.get, ("/", "/nowhere", "/user-sessions.js"))):
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert response.headers["Referrer-Policy"] == "same-origin"
        response.close()


def test_without_npm(client, example_module, tmp_path, monkeypatch):
    """Without npm the page takes the script from the CDN, and checks it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert example_module("shared.socket_io_client").fetch(tmp_path / "instance") is None
    log_in(client)
    page = client.get("/")
    tag = re.search(r'<script defer src="(https://[^/]+)/npm/socket\.io-client@[^"]+"([^>]*)>', page.text)
    assert tag is not None
    assert re.search(r' integrity="sha384-[A-Za-z0-9+/]{64}" crossorigin="anonymous"', tag[2])
    assert f"script-src 'self' {tag[1]};" in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize("script", ["exit 1", "kill $$", 'mkdir -p "$4" && echo tampered > "$4/socket.io.min.js"'])
def test_npm_fails(example_module, tmp_path, monkeypatch, script):
    """An npm that fails, or brings another file, is the same as none."""
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\nset -- $1 $2 $3 $3/node_modules/socket.io-client/dist\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert example_module("shared.socket_io_client").fetch(tmp_path / "instance") is None


def run(*options: str) -> Any:
    command = [sys.executable, str(EXAMPLES / "flask_app" / "app.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_port_taken():
    """A port that is taken is an error in one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("--port", str(port))
    assert ended.returncode != 0
    assert f"Port {port} is in use" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("option", "text"), [("--timeout", "at least 2 seconds"), ("--warning", "between 0 and")])
def test_wrong_option(option, text):
    """A timeout or a warning that the manager refuses is refused at the start."""
    ended = run(option, "-1")
    assert ended.returncode == 2
    assert f"app.py: error: {option}" in ended.stderr
    assert text in ended.stderr


def test_python_client(example):
    """A client in Python hears what a page hears, and a stranger nothing of it."""
    from socketio_client import new_client

    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))

    def post(path: str, opener: Any = browser, **form: str) -> None:
        opener.open(example.url + path, urllib.parse.urlencode(form).encode()).close()

    def heard(client: Any) -> queue.Queue[tuple[str, Any]]:
        events: queue.Queue[tuple[str, Any]] = queue.Queue()
        client.on("*", lambda event, *data: events.put((event, data)))
        return events

    post("login", username="luca", password="lasagne")
    (cookie,) = jar
    with ExitStack() as stack:
        insider, outsider = new_client(), new_client()
        stack.callback(insider.disconnect)
        stack.callback(outsider.disconnect)
        inside, outside = heard(insider), heard(outsider)
        polling: dict[str, Any] = {"transports": ["polling"], "wait_timeout": 30}
        insider.connect(example.url, headers={"Cookie": f"session_key={cookie.value}"}, **polling)
        outsider.connect(example.url, **polling)
        assert insider.call("session_key") is True
        assert outsider.call("session_key") is False
        assert outside.get(timeout=30) == ("logout", ({"reason": None},))

        assert insider.call("presence") is True
        assert outsider.call("presence") is False
        assert inside.get(timeout=30) == ("presence", ({"all": True, "came": ["luca"], "went": []},))
        fabio, other = (urllib.request.build_opener(urllib.request.HTTPCookieProcessor()) for _ in range(2))
        post("login", fabio, username="fabio", password="focaccia")
        assert inside.get(timeout=30) == ("presence", ({"all": False, "came": ["fabio"], "went": []},))
        post("login", other, username="luca", password="lasagne")
        assert inside.get(timeout=30) == ("notice", ("You have also logged in with another browser.",))
        post("logout", fabio)
        assert inside.get(timeout=30) == ("presence", ({"all": False, "came": [], "went": ["fabio"]},))

        post("logout-everywhere", other)
        assert inside.get(timeout=30) == ("logout", ({"reason": "deleted"},))
        # Its packets keep their order, so whatever else it had been sent would be there before this answer.
        assert outsider.call("session_key") is False
        assert outside.get(timeout=30) == ("logout", ({"reason": None},))
        assert (inside.qsize(), outside.qsize()) == (0, 0)
