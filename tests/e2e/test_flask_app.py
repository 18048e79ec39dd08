"""What the Flask example promises that needs no browser to see."""

from __future__ import annotations

import functools
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
pytest.importorskip("ua_parser")

from users_session_manager import SessionManager

EXAMPLE = Path(__file__).parents[2] / "examples" / "flask_app"
ADMINISTRATION = ("admin/logout", "admin/logout-user", "admin/logout-everyone", "admin/timeout")
GUARDED = ("still-here", "logout", "logout-there", "logout-elsewhere", *ADMINISTRATION)
DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia", "admin": "antipasti"}


@pytest.fixture
def example_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports a module of the example as its `python app.py` does."""
    names = ("app", "activity", "administration", "lists")
    monkeypatch.syspath_prepend(EXAMPLE)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def create_app(example_module: Callable[[str], Any], tmp_path: Path) -> Callable[..., Any]:
    """Makes the application, with sessions in a file of the test's own."""
    return functools.partial(example_module("app").create_app, store=f"sqlite:///{tmp_path}/sessions.sqlite3")


@pytest.fixture
def application(create_app: Callable[..., Any]) -> Any:
    """The application, without a copy of socket.io-client of its own."""
    return create_app()


@pytest.fixture
def client(application: Any) -> Any:
    return application.test_client()


def log_in(client: Any, username: str = "luca", **options: Any) -> Any:
    path, password = options.pop("path", "/login"), DEMO_USERS[username]
    return client.post(path, json={"username": username, "password": password}, **options)


def key_of(client: Any) -> str:
    return client.get_cookie("session_key").value


def test_cookie(client, create_app):
    """The cookie is for the server alone, and secure over https."""
    plain = log_in(client).headers["Set-Cookie"]
    encrypted = log_in(create_app(https=True).test_client()).headers["Set-Cookie"]
    assert plain.startswith("session_key=")
    assert encrypted.startswith("__Host-session_key=")
    assert {*plain.split("; ")[1:]} == {"HttpOnly", "Path=/", "SameSite=Lax"}
    assert {*encrypted.split("; ")[1:]} == {"HttpOnly", "Path=/", "SameSite=Lax", "Secure"}


def test_wrong_password(client, example_module, monkeypatch):
    """An unknown user and a wrong password get the same answer."""
    app = example_module("app")
    checked: list[str] = []
    check = app.check_password_hash
    monkeypatch.setattr(app, "check_password_hash", lambda *args: checked.append(args[0]) or check(*args))
    attempts = [("luca", "focaccia"), ("nobody at all", "nobody"), ("", ""), (None, None), (["luca"], {"a": 1})]
    answers = {client.post("/login", json={"username": u, "password": p}).data for u, p in attempts}
    assert len(answers) == 1
    assert len(checked) == len(attempts), "a hash is checked for every user"
    assert {stored.split(":")[0] for stored in checked} == {"scrypt"}
    assert SessionManager().getLoggedUsers() == []


@pytest.mark.parametrize("path", ["login", *GUARDED])
def test_form_of_other_site(client, path):
    """What a form of another site can post is refused."""
    log_in(client)
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data", None):
        assert client.post(f"/{path}", data='{"seconds": 5}', content_type=kind).status_code == 415
    assert SessionManager().getLoggedUsers() == ["luca"]


@pytest.mark.parametrize(("body", "status"), [("{", 400), ("[]", 400), ("null", 400), ("1", 400), ("9" * 5000, 413)])
def test_wrong_body(client, body, status):
    """A body that is no JSON object is refused."""
    log_in(client)
    for path in ("login", "logout-there", "admin/timeout"):
        assert client.post(f"/{path}", data=body, content_type="application/json").status_code == status


def test_not_logged_in(client):
    """Without a session the answer is 401 with a logout."""
    for key in (None, "", "luca", "Otter-candid-46-k3xq_" + "0" * 32):
        if key is not None:
            client.set_cookie("session_key", key)
        answers = [client.post(f"/{path}", json={"seconds": 5}) for path in GUARDED]
        answers += [client.get(path) for path in ("/sessions", "/admin", "/admin/sessions", "/admin/activity")]
        assert {(answer.status_code, answer.get_data(as_text=True)) for answer in answers} == {
            (401, '{"logout":true}\n')
        }
    assert SessionManager().getSessionTimeout() == 60


def test_login_page(client):
    """A browser without a session is sent to the login, and from there to the page that it wanted."""
    answer = client.get("/admin", headers={"Accept": "text/html,*/*;q=0.8"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/?next=%2Fadmin")
    assert log_in(client, "admin", path="/login?next=%2Fadmin").json == {"next": "/admin", "administrator": True}
    for elsewhere in ("", "?next=https://example.org/", "?next=//example.org/", "?next=/%5Cexample.org/"):
        assert log_in(client, path=f"/login{elsewhere}").json == {"next": "", "administrator": False}


def test_not_administrator(application, client):
    """Only the administrator may administer."""
    fabio = application.test_client()
    log_in(fabio, "fabio")
    log_in(client)
    name = fabio.get("/sessions").json["sessions"][0]["id"]
    body = {"username": "fabio", "session": name, "seconds": 5}
    answers = [client.post(f"/{path}", json=body) for path in ADMINISTRATION]
    answers += [client.get(path) for path in ("/admin/sessions", "/admin/activity")]
    assert [answer.status_code for answer in answers] == [403] * 6
    assert all(answer.json["error"] for answer in answers)
    page = client.get("/admin", headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.status_code == 403
    assert "fabio" not in page.text
    assert "<script" not in page.text
    assert SessionManager().getLoggedUsers() == ["fabio", "luca"]
    assert SessionManager().getSessionTimeout() == 60


def test_administrator(application):
    """The administrator ends one session, or all of one user."""
    admin, *others = clients = [application.test_client() for _ in range(5)]
    for client, username in zip(clients, ("admin", "luca", "luca", "luca", "fabio"), strict=True):
        log_in(client, username)
    users = {user["id"]: user["sessions"] for user in admin.get("/admin/sessions").json["users"]}
    assert {username: len(sessions) for username, sessions in users.items()} == {"admin": 1, "fabio": 1, "luca": 3}

    second = users["luca"][1]["id"]
    assert admin.post("/admin/logout", json={"username": "fabio", "session": second}).status_code == 404
    assert admin.post("/admin/logout", json={"username": "luca", "session": second}).status_code == 200
    assert [client.get("/sessions").status_code for client in others] == [200, 401, 200, 200]

    assert admin.post("/admin/logout-user", json={"username": "luca"}).json == {"ended": 2}
    assert admin.post("/admin/logout-user", json={"username": "nobody"}).json == {"ended": 0}
    for wrong in ({}, {"username": ""}, {"username": None}, {"username": ["luca"]}):
        for path in ("/admin/logout-user", "/admin/logout"):
            assert admin.post(path, json=wrong).status_code == 400
    assert SessionManager().getLoggedUsers() == ["admin", "fabio"]


def test_activity(create_app):
    """The administrator's stream has each login and each end, and ends with the administrator's session."""
    application = create_app(store=None)  # in memory it hears of the end before it has another item
    admin, luca = application.test_client(), application.test_client()
    log_in(admin, "admin")
    with admin.get("/admin/activity") as answer:
        assert answer.mimetype == "text/event-stream"
        events = answer.iter_encoded()
        assert next(events) == b":\n\n"
        log_in(luca)
        label = key_of(luca).partition("_")[0]
        assert next(events).decode() == f"data: luca logged in, session {label}\n\n"
        luca.post("/logout", json={})
        assert next(events).decode() == f"data: session {label} of luca has ended: deleted\n\n"
        admin.post("/logout", json={})
        log_in(luca)
        assert next(events, "the end") == "the end"


def test_own_sessions(application):
    """Users end their own sessions and no others."""
    luca, luca_too, fabio = clients = [application.test_client() for _ in range(3)]
    for client, username in zip(clients, ("luca", "luca", "fabio"), strict=True):
        log_in(client, username)
    other, foreign = luca.get("/sessions").json["sessions"][1], fabio.get("/sessions").json["sessions"][0]
    key = key_of(fabio)
    forged = [foreign["id"], foreign["label"], key, key.partition("_")[2], "", None, True, 0, [foreign["id"]], {}]
    for wrong in [*forged, other["id"].upper(), other["id"][:-1], other["label"], "x" * 3000]:
        for more in ({}, {"username": "fabio"}):
            answer = luca.post("/logout-there", json={"session": wrong, **more})
            assert (answer.status_code, answer.json) == (404, {"error": "That session has ended already."})
    assert SessionManager().getLoggedUsers() == ["luca", "luca", "fabio"]

    assert luca.post("/logout-there", json={"session": other["id"]}).status_code == 200
    assert luca.post("/logout-there", json={"session": other["id"]}).status_code == 404
    assert [client.get("/sessions").status_code for client in (luca, luca_too, fabio)] == [200, 401, 200]


def test_same_label(application, monkeypatch):
    """Of two sessions with one label the right one ends."""
    secrets = iter("ABC")
    monkeypatch.setattr(
        "users_session_manager.stores.sql.new_key", lambda: "Otter-candid-46-k3xq_" + next(secrets) * 32
    )
    here, first, second = clients = [application.test_client() for _ in range(3)]
    for client in clients:
        log_in(client)
    rows = here.get("/sessions").json["sessions"]
    assert [row["label"] for row in rows] == ["Otter-candid-46-k3xq"] * 3
    assert here.post("/logout-there", json={"session": rows[2]["id"]}).status_code == 200
    assert [client.get("/sessions").status_code for client in (here, first, second)] == [200, 200, 401]


def test_everywhere_else(application):
    """A logout everywhere else spares this session and other users."""
    clients = [application.test_client() for _ in range(4)]
    for client, username in zip(clients, ("luca", "luca", "luca", "fabio"), strict=True):
        log_in(client, username)
    assert clients[1].post("/logout-elsewhere", json={}).status_code == 200
    assert [client.get("/sessions").status_code for client in clients] == [401, 200, 401, 200]


def test_no_secret(application):
    """No list holds the secret of a key."""
    clients = {username: application.test_client() for username in DEMO_USERS}
    for username, client in clients.items():
        log_in(client, username)
    texts = [client.get("/sessions").text for client in clients.values()] + [
        clients["admin"].get("/admin/sessions").text
    ]
    for client in clients.values():
        label, _, secret = key_of(client).partition("_")
        assert label in texts[-1], "this test looks in the wrong places"
        assert not any(secret in text for text in texts)


def test_sessions_of_others(application, client):
    """Only the administrator sees the sessions of others."""
    fabio = application.test_client()
    log_in(fabio, "fabio", headers={"User-Agent": "curl/8.0"})
    log_in(client)
    shown = client.get("/sessions")
    assert key_of(client).partition("_")[0] in shown.text, "this test looks in the wrong place"
    for of_others in (key_of(fabio).partition("_")[0], "fabio", "curl"):
        assert of_others not in shown.text


@pytest.mark.parametrize(
    ("user_agent", "browser"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
            "Version/18.5 Mobile/15E148 Safari/604.1",
            "Mobile Safari on iOS",
        ),
        ("curl/8.0", "curl"),
        ("", "Unknown browser"),
        ("<script>alert(1)</script>", "Unknown browser"),
        ("x" * 10_000 + " Firefox/140.0", "Unknown browser"),
    ],
)
def test_browser_name(client, user_agent, browser):
    """A session is shown with the browser in which it was started."""
    log_in(client, headers={"User-Agent": user_agent})
    assert [row["browser"] for row in client.get("/sessions").json["sessions"]] == [browser]


def test_long_browser_name(example_module):
    """A long name of a browser is cut."""
    browser_of = example_module("app").browser_of
    assert max(len(browser_of(f"{'A' * length}bot/1.0 (Linux; Android 10)")) for length in range(0, 400, 7)) == 60


@pytest.mark.parametrize(
    ("timeout", "warning", "expiring"), [(600, 20, False), (600, 599.999999, True), (600, 900, False)]
)
def test_warning_time(create_app, timeout, warning, expiring):
    """The warning comes at its time, and half-way in a session that is too short for that."""
    client = create_app(timeout=timeout, warning=warning).test_client()
    log_in(client)
    assert client.get("/sessions").json["you"]["expiring"] is expiring


def test_login_again(client):
    """Another login of the same user keeps the session under another key."""
    log_in(client)
    before, row = key_of(client), client.get("/sessions").json["sessions"][0]
    log_in(client, headers={"User-Agent": "curl/8.0"})
    (again,) = client.get("/sessions").json["sessions"]
    assert key_of(client) != before
    assert (again["since"], again["browser"]) == (row["since"], "curl")
    assert SessionManager().getLoggedUsers() == ["luca"]


def test_hardened(client):
    """Every answer is hardened."""
    for response in (client.get("/"), log_in(client), *map(client.get, ("/sessions", "/admin", "/nowhere"))):
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "same-origin"
        assert response.headers["Cache-Control"] == "no-store"


def test_wrong_timeout(create_app):
    """A timeout that the manager refuses is refused at the start."""
    with pytest.raises(ValueError, match="at least 2 seconds, got 1"):
        create_app(timeout=1)


def test_without_npm(client, example_module, tmp_path, monkeypatch):
    """Without npm the page takes the script from the CDN, and checks it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert example_module("shared.socket_io_client").fetch(tmp_path / "instance") is None
    page = client.get("/")
    tag = re.search(r'<script defer src="(https://cdn\.jsdelivr\.net/npm/socket\.io-client@[^"]+)"([^>]*)>', page.text)
    assert tag is not None
    assert re.search(r' integrity="sha384-[A-Za-z0-9+/]{64}" crossorigin="anonymous"', tag[2])
    assert f"script-src 'self' {tag[1]};" in page.headers["Content-Security-Policy"]
    assert client.get("/socket.io-client.js").status_code == 404


@pytest.mark.parametrize("script", ["exit 1", "kill $$", 'mkdir -p "$4" && echo tampered > "$4/socket.io.min.js"'])
def test_npm_fails(example_module, tmp_path, monkeypatch, script):
    """An npm that fails, or brings another file, is the same as none."""
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\nset -- $1 $2 $3 $3/node_modules/socket.io-client/dist\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert example_module("shared.socket_io_client").fetch(tmp_path / "instance") is None


def test_port_taken():
    """A port that is taken is an error in one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, str(EXAMPLE / "app.py"), "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert f"Port {port} is in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_python_client(example):
    """A client in Python hears what a page hears, and a stranger nothing of it."""
    pytest.importorskip("socketio")
    from socketio_client import new_client

    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))

    def post(path: str, opener: Any = browser, **body: str) -> None:
        headers = {"Content-Type": "application/json"}
        with opener.open(urllib.request.Request(example.url + path, json.dumps(body).encode(), headers)) as answer:
            assert answer.status == 200

    def heard(client: Any) -> queue.Queue[tuple[str, Any]]:
        events: queue.Queue[tuple[str, Any]] = queue.Queue()
        client.on("*", lambda event, *data: events.put((event, data)))
        return events

    post("login", username="luca", password="lasagne")
    (cookie,) = jar
    key = cookie.value
    with ExitStack() as stack:
        insider, outsider = new_client(), new_client()
        stack.callback(insider.disconnect)
        stack.callback(outsider.disconnect)
        inside, outside = heard(insider), heard(outsider)
        insider.connect(example.url, headers={"Cookie": f"session_key={key}"}, transports=["polling"])
        outsider.connect(example.url, transports=["polling"])
        assert insider.call("session_key") is True
        assert outsider.call("session_key") is False
        assert outside.get(timeout=30) == ("logout", ({"reason": None},))

        assert insider.call("presence") is True
        assert outsider.call("presence") is False
        event, (shown,) = inside.get(timeout=30)
        assert (event, shown["all"], shown["went"]) == ("presence", True, [])
        assert [name.partition(" ")[0] for name in shown["came"]] == ["luca"]
        others = [urllib.request.build_opener(urllib.request.HTTPCookieProcessor()) for _ in range(2)]
        for other in others:
            post("login", other, username="fabio", password="focaccia")
            event, (shown,) = inside.get(timeout=30)
            assert (event, shown["all"], shown["went"]) == ("presence", False, [])
            assert [name.partition(" ")[0] for name in shown["came"]] == ["fabio"]
        (name,) = shown["came"]
        post("logout", other)
        assert inside.get(timeout=30) == ("presence", ({"all": False, "came": [], "went": [name]},))

        post("still-here")
        assert inside.get(timeout=30) == ("sessions", ())  # requests them again
        with browser.open(example.url + "sessions") as answer:
            shown = json.load(answer)
        assert [(row["label"], row["here"]) for row in shown["sessions"]] == [(key.partition("_")[0], True)]
        assert shown["you"]["username"] == "luca"
        assert 0 < shown["you"]["left"] <= shown["you"]["timeout"] == 600

        post("logout")
        assert inside.get(timeout=30) == ("logout", ({"reason": "deleted"},))
        # Its packets keep their order, so whatever else it had been sent would be there before this answer.
        assert outsider.call("session_key") is False
        assert outside.get(timeout=30) == ("logout", ({"reason": None},))
        assert (inside.qsize(), outside.qsize()) == (0, 0)
