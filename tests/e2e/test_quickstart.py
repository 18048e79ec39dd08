"""The README's application in a real browser: a login, and a logout in every tab."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from npm_client import client_script

pytest.importorskip("flask_socketio")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

pytestmark = pytest.mark.browser

EXAMPLES = Path(__file__).parents[2] / "examples"


COMMANDS = {
    "flask": "flask --app quickstart run --port 0",
    "gunicorn": "gunicorn --workers 4 --threads 20 --bind 127.0.0.1:0 quickstart:app",
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
