"""The README's application in a real browser: a login, and a logout in every tab."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from npm_client import client_script
from server_process import ServerProcess

from users_session_manager import SessionManager

pytest.importorskip("flask_socketio")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

pytestmark = pytest.mark.browser

EXAMPLES = Path(__file__).parents[2] / "examples"


COMMANDS = {
    "flask": "flask --app quickstart run --port 0",
    "gunicorn": "gunicorn --workers 4 --threads 20 --graceful-timeout 3 --bind 127.0.0.1:0 quickstart:app",
}


@pytest.fixture(params=COMMANDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the application is served, as the README starts it but for the port."""
    shutil.copy(EXAMPLES / "quickstart.py", tmp_path)
    server = subprocess.Popen(
        [sys.executable, "-m", *COMMANDS[request.param].split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    assert server.stdout is not None
    lines: list[str] = []
    for line in server.stdout:
        lines.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            break
    else:
        pytest.fail(f"the server did not start: {lines}")
    yield found[0]
    server.terminate()
    output = server.communicate()[0]
    assert "Traceback" not in output, output


@pytest.fixture
def visitor(browser: Browser) -> Iterator[BrowserContext]:
    """A browser without cookies, in which the CDN is npm's copy of the very file."""
    spec = importlib.util.spec_from_file_location("socket_io_client", EXAMPLES / "shared" / "socket_io_client.py")
    assert spec is not None
    assert spec.loader is not None
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    script = client_script()
    assert script is not None, "npm could not bring socket.io-client"
    context = browser.new_context()
    context.set_default_timeout(30_000)
    context.route(client.CDN, lambda route: route.fulfill(path=script, content_type="text/javascript"))
    yield context
    context.close()


def log_in(visitor: BrowserContext, url: str, password: str) -> Any:
    page = visitor.new_page()
    page.goto(url)
    page.locator("[name=name]").fill("luca")
    page.locator("[name=password]").fill(password)
    page.get_by_role("button", name="Log in").click()
    return page


def test_logout_in_every_tab(url, visitor, expect):
    """Without a session there is the login page; a logout in one tab sends the other one there."""
    first = log_in(visitor, url, "pizza")
    expect(first.get_by_role("button", name="Log in")).to_be_visible()
    first = log_in(visitor, url, "lasagne")
    expect(first.get_by_text("You are luca.")).to_be_visible()
    second = visitor.new_page()
    second.goto(url)
    expect(second.get_by_text("You are luca.")).to_be_visible()
    first.get_by_role("button", name="Log out").click()
    for tab in (first, second):
        expect(tab.get_by_role("button", name="Log in")).to_be_visible()
        assert tab.url.startswith(f"{url}/login")


class Workers:
    """Four workers of gunicorn behind one port, which share a SQLite file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for program in (EXAMPLES / "quickstart.py", Path(__file__).with_name("sites") / "four_workers.py"):
            shutil.copy(program, folder)
        self.start()

    def start(self) -> None:
        command = COMMANDS["gunicorn"].replace("quickstart:app", "four_workers:app").split()
        self._server = ServerProcess(
            "-m", *command, printed=r"http://127\.0\.0\.1:(\d+)", cwd=self._folder, starts_others=True
        )
        self.url = self._server.address

    def kill(self) -> None:
        self._server.kill()

    def expire_soon(self, key: str) -> float:
        """Let a session expire, in four seconds; return its deadline, Unix time."""
        with contextlib.closing(SessionManager(store=f"sqlite:///{self._folder}/instance/sessions.db")) as manager:
            manager.setSessionTimeOut(4)
            assert manager.restartSessionTimer(key)
            return time.time() + manager.getSessionTimeLeft(key)

    def stop(self) -> None:
        output = self._server.stop()
        assert "Traceback" not in output, output


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(tmp_path)
    yield workers
    workers.stop()


# Notes when the page gets its logout, instead of going to the login page.
NOTE_LOGOUT = "window.userSessions = {onlogout: () => (window.loggedOutAt ??= Date.now())}"
WORKER_OF = "new Promise((done) => userSessions.socket.emit('worker', done))"


def tabs_of_two_workers(visitor: BrowserContext, url: str) -> list[Any]:
    """Open tabs until two of them are connected to different workers; return these."""
    found: dict[int, Any] = {}
    while len(found) < 2:
        tab = visitor.new_page()
        tab.goto(url)
        found[tab.evaluate(WORKER_OF)] = tab
    return [*found.values()][:2]


def late(tabs: list[Any], since: float) -> list[float]:
    """Return how many seconds after a Unix time each tab got its logout."""
    return [tab.wait_for_function("window.loggedOutAt").json_value() / 1000 - since for tab in tabs]


def test_four_workers(workers, visitor, expect):
    """Each tab hears of an expiry and of a logout everywhere, and a kill of all workers ends no session."""
    visitor.add_init_script(NOTE_LOGOUT)
    log_in(visitor, workers.url, "lasagne")
    tabs = tabs_of_two_workers(visitor, workers.url)
    (key,) = (each["value"] for each in visitor.cookies() if each["name"] == "session_key")
    deadline = workers.expire_soon(key)
    print("after the expiry:", late(tabs, deadline))

    log_in(visitor, workers.url, "lasagne")
    tabs = tabs_of_two_workers(visitor, workers.url)
    workers.kill()
    workers.start()
    page = visitor.new_page()
    page.goto(workers.url)
    expect(page.get_by_text("You are luca.")).to_be_visible()

    tabs = tabs_of_two_workers(visitor, workers.url)
    begun = time.time()
    assert visitor.request.post(f"{workers.url}/everywhere").json() == {"ended": 1}
    print("after the logout:", late(tabs, begun))
