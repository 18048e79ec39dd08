"""The table of docs/explanation/security.md names tests that exist, and what no other file shows."""

from __future__ import annotations

import ast
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


def test_a_server_told_otherwise_connects_every_page(manager):
    """`attach` leaves the origins to python-socketio, which then takes the cookie of any page's handshake."""
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
