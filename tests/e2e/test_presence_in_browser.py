"""The page of the guide that shows who is signed in, in a real browser."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

flask = pytest.importorskip("flask")
socketio = pytest.importorskip("socketio")
pytest.importorskip("simple_websocket")
serving = pytest.importorskip("werkzeug.serving")
from npm_client import client_script  # noqa: E402

from users_session_manager import SessionManager  # noqa: E402
from users_session_manager.integrations.flask import UserSessions, session_required  # noqa: E402
from users_session_manager.integrations.socketio import presence  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "who-is-online.md").read_text()
[LIST] = re.findall(r'^```html\n(<ul id="online">.+?)^```', PAGE, re.MULTILINE | re.DOTALL)
[ALONE] = re.findall(r'^```js\n(.+\n.*"presence".*\n)```', PAGE, re.MULTILINE)
WITH_SCRIPT = '<script src="/user-sessions.js"></script>' + LIST
WITHOUT = re.sub(r"  const socket =.*\n", ALONE, re.sub(r"  userSessions\.onjoin.*\n", "", LIST))


@pytest.fixture(params=[WITHOUT, WITH_SCRIPT], ids=["alone", "with the page script"])
def url(manager: SessionManager, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a site whose one page inside is that of the guide."""
    app = flask.Flask(__name__)
    app.config.update(USER_SESSIONS_COOKIE_SECURE=False)
    sessions = UserSessions(app, manager=manager)
    io = socketio.Server(async_mode="threading")
    detach = sessions.attach(io)
    presence(manager, io)
    page = f'<!doctype html><link rel="icon" href="data:,"><script src="/client.js"></script>{request.param}'

    @app.get("/login/<name>")
    def login(name: str) -> Any:
        sessions.sign_in(name)
        return flask.redirect("/")

    app.get("/", endpoint="inside")(session_required(lambda: page))
    app.get("/client.js", endpoint="client")(lambda: flask.send_file(client_script()))
    http = serving.make_server("127.0.0.1", 0, socketio.WSGIApp(io, app), threaded=True)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    detach()
    io.shutdown()
    http.shutdown()
    http.server_close()
    thread.join(30)


@pytest.fixture
def sign_in(browser: Browser, url: str) -> Iterator[Callable[[str], Page]]:
    contexts: list[Any] = []

    def sign_in(name: str) -> Page:
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        page.goto(f"{url}/login/{name}")
        return page

    yield sign_in
    for context in contexts:
        context.close()


def test_come_and_go(manager, sign_in, expect, request):
    """Each page shows all users, as text, and those who come and go."""
    luca = sign_in("Luca")
    assert luca.evaluate("!!window.userSessions?.socket") == ("page script" in request.node.name)
    expect(luca.locator("#online li")).to_have_text(["Luca"])
    mia = sign_in("Mia")
    for page in (luca, mia):
        expect(page.locator("#online li")).to_have_text(["Luca", "Mia"])
    manager.loadNewSession("<b>Gino</b>")
    for page in (luca, mia):
        expect(page.locator("#online li")).to_have_text(["<b>Gino</b>", "Luca", "Mia"])
    manager.deleteUserSessions("<b>Gino</b>")
    mia.goto("about:blank")
    manager.deleteUserSessions("Mia")
    expect(luca.locator("#online li")).to_have_text(["Luca"])
