"""The table of docs/explanation/security.md names tests that exist, and what no other file shows."""

from __future__ import annotations

import ast
import json
import logging
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TABLE = (TESTS.parent / "docs" / "explanation" / "security.md").read_text()
ROWS = [line for line in TABLE.splitlines() if re.match(r"\| \d", line)]
ASKED = "7.1.1 7.1.2 7.2.1 7.2.2 7.2.3 7.2.4 7.3.1 7.3.2 7.4.1 7.4.2 7.4.3 7.4.5 7.5.2 3.3.1 3.3.2 3.3.3 3.3.4 "
ASKED += "3.5.1 4.4.2 4.4.3 4.4.4 14.2.1 16.2.5 16.5.3"


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def exists(name: str) -> bool:
    path, *names = name.split("::")
    files = list(TESTS.rglob(path))
    if not names or len(files) != 1:
        return False
    body = ast.parse(files[0].read_text()).body
    for name in names:
        found = [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name]
        if not found:
            return False
        body = found[0].body
    holds_tests = [node.name.startswith("test_") for node in body if isinstance(node, ast.FunctionDef)]
    return names[-1].startswith("test_") or any(holds_tests)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: cells(row)[0])
def test_each_row_names_tests_that_exist(row):
    *_, tests = cells(row)
    names = re.findall(r"`([^`]+)`", tests)
    assert names or tests == "the same"
    assert [name for name in names if not exists(name)] == []


def test_a_test_that_does_not_exist_is_noticed():
    assert exists("test_security.py::test_a_test_that_does_not_exist_is_noticed")
    assert exists("test_policy.py::TestCap")
    for name in ("test_security.py", "test_security.py::test_nothing", "nowhere.py::test", "test_policy.py::Cap::x"):
        assert not exists(name)


def test_no_requirement_is_left_out():
    answered = {number for row in ROWS for number in cells(row)[0].split(", ")}
    assert answered >= set(ASKED.split())


def test_what_is_documented_as_a_default_is_one(manager):
    assert "3000 s and no limit" in TABLE
    assert (manager.getSessionTimeout(), manager.getMaxSessionLifetime()) == (3000, None)
    assert "any number unless set" in TABLE
    assert len([manager.loadNewSession("Luca") for _ in range(100)]) == len(manager.getUserSessions("Luca")) == 100


def test_a_page_of_another_origin_gets_no_connection(manager):
    socketio = pytest.importorskip("socketio")
    werkzeug = pytest.importorskip("werkzeug.test")
    from users_session_manager.integrations.socketio import attach

    app = pytest.importorskip("flask").Flask(__name__)
    servers = [
        socketio.Server(async_mode="threading"),
        pytest.importorskip("flask_socketio").SocketIO(app, async_mode="threading"),
    ]
    for io, application in zip(servers, (socketio.WSGIApp(servers[0]), app.wsgi_app), strict=True):
        attach(manager, io)
        client = werkzeug.Client(application)
        for transport in ("polling", "websocket"):
            url = f"/socket.io/?EIO=4&transport={transport}"
            for origin in ("https://elsewhere.example", "http://localhost:81", "http://sub.localhost", "null"):
                answer = client.get(url, headers={"Origin": origin})
                assert (answer.status_code, answer.text) == (400, '"Not an accepted origin."')
        url = "/socket.io/?EIO=4&transport=polling"
        assert client.get(url, headers={"Origin": "http://localhost"}).status_code == 200
        assert client.get(url).status_code == 200
        getattr(io, "server", io).shutdown()


def test_an_open_server_connects_every_page(manager):
    """`attach` leaves the origins to python-socketio, which then accepts the cookie of the handshake of any page."""
    socketio = pytest.importorskip("socketio")
    werkzeug = pytest.importorskip("werkzeug.test")
    from users_session_manager.integrations.socketio import attach

    for allowed, status in (("*", 200), ([], 200), (["https://app.example"], 400)):
        io = socketio.Server(async_mode="threading", cors_allowed_origins=allowed)
        attach(manager, io, cookie="session_key")
        client = werkzeug.Client(socketio.WSGIApp(io))
        answer = client.get("/socket.io/?EIO=4&transport=polling", headers={"Origin": "https://evil.example"})
        assert answer.status_code == status
        io.shutdown()


@pytest.mark.parametrize("shows_key", [False, True], ids=["cookie", "key"])
def test_engineio_log(manager, caplog, shows_key):
    """`engineio_logger` prints each packet: a key that the page sends itself, and neither headers nor cookies."""
    socketio = pytest.importorskip("socketio")
    werkzeug = pytest.importorskip("werkzeug.test")
    from users_session_manager.integrations.socketio import attach

    io = socketio.Server(async_mode="threading", engineio_logger=logging.getLogger("engineio.of.the.test"))
    attach(manager, io, cookie="session_key")
    key = manager.loadNewSession("luca")
    client = werkzeug.Client(socketio.WSGIApp(io), use_cookies=False)
    url, cookie = "/socket.io/?EIO=4&transport=polling", {"Cookie": f"session_key={key}; theme=dark"}
    sid = json.loads(client.get(url, headers=cookie).text[1:])["sid"]
    message = json.dumps(["session_key", *([{"session_key": key}] if shows_key else [])])
    for packet in ("40", f"421{message}"):
        assert client.post(f"{url}&sid={sid}", data=packet, headers=cookie).status_code == 200
    io.shutdown()
    lines = [record.getMessage() for record in caplog.records if record.name == "engineio.of.the.test"]
    assert [line for line in lines if "theme" in line] == []
    assert len([line for line in lines if key in line]) == shows_key
    assert len([line for line in lines if "session_key" in line]) == 1


def test_socketio_log(manager, caplog):
    """`logger` prints the room that an application names, and none that `attach` uses."""
    from socketio_servers import Client, Server

    name = "socketio.of.the.test"
    server = Server(logger=logging.getLogger(name))
    server.attach(manager)
    key = manager.loadNewSession("luca")

    def lines_with_key() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == name and key in record.getMessage()]

    clients = [Client(server.address), Client(server.address, cookie=f"session_key={key}")]
    assert clients[0].present({"session_key": key}) is True
    assert lines_with_key() == []
    server.io.emit("news", room=key)
    server.io.enter_room(clients[1].sid, key)
    manager.deleteSession(key)
    assert "logout" in clients[0].heard(server)
    assert len(lines_with_key()) == 2
    for client in clients:
        client.leave()
    server.stop()


def test_variables_of_an_exception(manager, monkeypatch):
    """Functions of ours have a key in a variable if they fail themselves, and none while a view fails."""
    flask = pytest.importorskip("flask")
    from users_session_manager.integrations.flask import UserSessions, session_required

    app = flask.Flask(__name__)
    app.testing = True
    UserSessions(app, manager=manager)

    def fail(*_):
        raise ArithmeticError

    app.add_url_rule("/", view_func=session_required(lambda: fail()))
    key = manager.loadNewSession("luca")

    def functions_with_key() -> set[str]:
        with pytest.raises(ArithmeticError) as error:
            app.test_client().get("/", headers={"Session-Key": key})
        frames = [entry.frame for entry in error.traceback if "users_session_manager" in str(entry.path)]
        assert frames
        return {frame.code.name for frame in frames if any(key in repr(value) for value in frame.f_locals.values())}

    assert functions_with_key() == set()
    monkeypatch.setattr(manager._store, "restart", fail)
    assert functions_with_key() == {"authenticate", "_find", "resumeSession", "_resume"}
