"""The attributes of the cookie in a real browser: in a tab, and in a frame of another site."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("flask")

from flask import Flask
from server_process import MAX_WAIT
from werkzeug.serving import make_server

from users_session_manager import SessionManager
from users_session_manager.integrations.flask import UserSessions, current_session

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

# Secure cookies work over http on localhost, and 127.0.0.1 is another site.
LAX, STRICT, NONE = {}, {"SAMESITE": "Strict"}, {"SAMESITE": "None"}
PARTITIONED = {"SAMESITE": "None", "PARTITIONED": True}


class Site:
    """An application on localhost, in a page of its own and in a frame of another site."""

    def __init__(self, page: Page, port: int, other_port: int) -> None:
        self._page = page
        self._own = f"http://localhost:{port}"
        self._other = f"http://127.0.0.1:{other_port}/{port}"

    def tab(self, path: str) -> str:
        """Return what a page of its own shows."""
        self._page.goto(self._own + path)
        return self._page.locator("p").inner_text()

    def link(self, path: str) -> str:
        """Return what a page of its own shows that a link on the other site leads to."""
        self._page.goto(f"{self._other}/link{path}")
        self._page.get_by_role("link").click()
        self._page.wait_for_url(self._own + path)
        return self._page.locator("p").inner_text()

    def frame(self, path: str) -> str:
        """Return what a frame on the other site shows."""
        self._page.goto(f"{self._other}/frame{path}")
        return self._page.frame_locator("iframe").locator("p").inner_text()

    def cookies(self) -> list[str]:
        return [cookie["name"] for cookie in self._page.context.cookies()]


def make_app(settings: dict[str, Any]) -> Flask:
    app = Flask(__name__)
    app.config["USER_SESSIONS_COOKIE_SECURE"] = True
    app.config.update({f"USER_SESSIONS_COOKIE_{name}": value for name, value in settings.items()})
    sessions = UserSessions(app)

    @app.get("/login/<name>")
    def login(name: str) -> str:
        sessions.sign_in(name)
        return f"<p>{name}</p>"

    @app.get("/logout")
    def logout() -> str:
        sessions.sign_out()
        return "<p>nobody</p>"

    @app.get("/me")
    def me() -> str:
        return f"<p>{current_session.username if current_session else 'nobody'}</p>"

    return app


def make_other() -> Flask:
    other = Flask("other")
    frame, link = '<iframe src="http://localhost:{}/{}"></iframe>', '<a href="http://localhost:{}/{}">there</a>'
    other.add_url_rule("/<int:port>/frame/<path:path>", "frame", lambda port, path: frame.format(port, path))
    other.add_url_rule("/<int:port>/link/<path:path>", "link", lambda port, path: link.format(port, path))
    return other


@pytest.fixture
def site(request: pytest.FixtureRequest, browser: Browser, manager: SessionManager) -> Iterator[Site]:
    with ExitStack() as stack:
        ports = []
        for app in (make_app(request.param), make_other()):
            server = make_server("127.0.0.1", 0, app, threaded=True)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(server.server_close)
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            ports.append(server.port)
        context = browser.new_context()
        stack.callback(context.close)
        context.set_default_timeout(MAX_WAIT * 1000)
        yield Site(context.new_page(), *ports)


@pytest.mark.parametrize(
    "site", [LAX, STRICT, NONE, PARTITIONED], indirect=True, ids=["lax", "strict", "none", "chips"]
)
def test_tab(site, manager):
    """With any attributes, a browser keeps the cookie, and deletes it when the user signs out."""
    assert site.tab("/login/luca") == site.tab("/me") == "luca"
    assert site.cookies() == ["__Host-session_key"]
    assert site.tab("/logout") == site.tab("/me") == "nobody"
    assert site.cookies() == []


@pytest.mark.parametrize(
    ("site", "by_link"),
    [(LAX, "luca"), (STRICT, "nobody"), (NONE, "luca")],
    indirect=["site"],
    ids=["lax", "strict", "none"],
)
def test_link(site, manager, by_link):
    """A link on another site brings the cookie, unless that is strict; the next page of its own has it again."""
    site.tab("/login/luca")
    assert site.link("/me") == by_link
    assert site.tab("/me") == "luca"


@pytest.mark.parametrize("site", [LAX, STRICT], indirect=True, ids=["lax", "strict"])
def test_frame_without(site, manager):
    """A frame on another site neither gets the cookie nor can set it."""
    site.tab("/login/luca")
    assert site.frame("/me") == "nobody"
    assert site.frame("/login/fabio") == "fabio"
    assert site.frame("/me") == "nobody"
    assert site.tab("/me") == "luca"


@pytest.mark.parametrize("site", [NONE], indirect=True, ids=["none"])
def test_frame(site, manager):
    """With SameSite=None the frame has the session of the tab, and ends it."""
    site.tab("/login/luca")
    assert site.frame("/me") == "luca"
    assert site.frame("/logout") == site.tab("/me") == "nobody"
    assert (site.cookies(), manager.getLoggedUsers()) == ([], [])


@pytest.mark.parametrize("site", [PARTITIONED], indirect=True, ids=["chips"])
def test_partitioned_frame(site, manager):
    """With Partitioned the frame has a session of its own, and its logout deletes its own cookie alone."""
    site.tab("/login/luca")
    assert site.frame("/me") == "nobody"
    assert site.frame("/login/fabio") == site.frame("/me") == "fabio"
    assert (site.tab("/me"), sorted(manager.getLoggedUsers())) == ("luca", ["fabio", "luca"])
    assert site.frame("/logout") == site.frame("/me") == "nobody"
    assert (site.tab("/me"), site.cookies()) == ("luca", ["__Host-session_key"])
