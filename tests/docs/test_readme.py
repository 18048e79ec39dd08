"""The README's application is the example of that name, and does what the README says."""

from __future__ import annotations

import re
import runpy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

flask = pytest.importorskip("flask")
pytest.importorskip("flask_socketio")
socketio = pytest.importorskip("socketio")
from socketio_client import new_client  # noqa: E402

pytest.importorskip("requests")

from werkzeug.serving import make_server  # noqa: E402

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart.py"
LUCA = {"name": "luca", "password": "lasagne"}


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the module, with its file of sessions in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return runpy.run_path(str(QUICKSTART))


@pytest.fixture
def url(application: dict[str, Any]) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, application["app"], threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_text():
    """The only Python in the README is the example, word for word, in 25 lines beside blank ones."""
    text = QUICKSTART.read_text()
    assert re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL) == [text]
    assert len([line for line in text.splitlines() if line.strip()]) <= 25


def test_requirements_of_the_examples():
    """The dependency groups bring what the examples ask for."""
    groups = (ROOT / "pyproject.toml").read_text().partition("[dependency-groups]")[2]
    for path in sorted((ROOT / "examples").glob("*/requirements.txt")):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert lines
        assert [line for line in lines if f'    "{line}",\n' not in groups] == [], path


def test_login(application):
    """A wrong name or password shows the form again; the right ones log in, and the listeners are called."""
    manager, browser = application["sessions"].manager, application["app"].test_client()
    logged_in: list[list[str]] = []
    manager.on("sessionCreated", lambda key: logged_in.append(manager.getLoggedUsers()))
    manager.on("sessionDeleted", lambda key: logged_in.append(manager.getLoggedUsers()))
    answer = browser.get("/", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.location) == (303, "/login?next=%2F")
    for wrong in ({}, {"password": "é"}, LUCA | {"password": "pizza"}, LUCA | {"name": "fabio"}):
        answer = browser.post("/login", data=wrong)
        assert (answer.status_code, "<form" in answer.text, answer.headers.getlist("Set-Cookie")) == (200, True, [])
    assert logged_in == []
    assert browser.post("/login", data=LUCA).location == "/"
    assert "You are luca." in browser.get("/").text
    assert logged_in == [["luca"]]
    assert browser.post("/logout").location == "/login"
    assert browser.get("/").status_code == 401
    assert logged_in == [["luca"], []]


def test_key_in_the_header(application):
    """The key works in the header too; whatever is no live key is answered 401."""
    manager, stranger = application["sessions"].manager, application["app"].test_client()
    key = manager.loadNewSession("luca")
    assert stranger.get("/", headers={"Session-Key": key}).status_code == 200
    ended = manager.loadNewSession("luca")
    manager.deleteSession(ended)
    for headers in ({"Session-Key": ended}, {"Session-Key": "luca"}, {"session_key": f"{key},{key}"}, {}):
        answer = stranger.get("/", headers=headers)
        assert (answer.status_code, answer.json) == (401, {"logout": True})


def test_logout_of_a_page(application, url):
    """A page shows its cookie when it connects; it gets `logout` when the session ends, and when it comes back."""
    manager = application["sessions"].manager
    key = manager.loadNewSession("luca")
    page, logged_out = new_client(), threading.Event()
    page.on("logout", lambda _data: logged_out.set())
    page.connect(url, headers={"Cookie": f"session_key={key}"}, transports=["polling"], wait_timeout=30)
    assert page.call("session_key") is True
    assert not logged_out.is_set()
    manager.deleteSession(key)
    assert logged_out.wait(30)
    logged_out.clear()
    assert page.call("session_key") is False
    assert logged_out.wait(30)
    page.disconnect()
    page.wait()
