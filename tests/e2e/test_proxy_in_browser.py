"""The configuration of nginx from the page on proxies, in front of the application of the README."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from certificate import make_certificate
from documents import DOCS
from nginx import nginx
from npm_client import client_script
from server_process import MAX_WAIT, ServerProcess

pytest.importorskip("flask_socketio")
pytest.importorskip("gunicorn")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

pytestmark = pytest.mark.browser

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"
PAGE = (DOCS / "how-to" / "behind-a-proxy.md").read_text()
SERVER, UPSTREAM = re.findall(r"^```nginx\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LUCA = {"name": "luca", "password": "lasagne"}


@pytest.fixture(params=["websocket", "polling"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of the application over https.

    One gunicorn with two workers for pages that use WebSocket alone, and two with one worker for those that poll.
    """
    certificate, key = make_certificate(tmp_path, "127.0.0.1")
    program = QUICKSTART.read_text().replace('["websocket"]', f'["{request.param}"]')
    program = program.replace('["USER_SESSIONS_COOKIE_SECURE"] = False', '["USER_SESSIONS_PROXIES"] = 1')
    assert "PROXIES" in program
    (tmp_path / "quickstart.py").write_text(program)
    is_sticky = request.param == "polling"
    command = f"-m gunicorn --workers {1 if is_sticky else 2} --threads 20 --bind 127.0.0.1:0 quickstart:app"
    servers = [
        ServerProcess(*command.split(), printed=r"http://127\.0\.0\.1:(\d+)", cwd=tmp_path, starts_others=True)
        for _ in range(1 + is_sticky)
    ]
    http = UPSTREAM + SERVER.replace("http://127.0.0.1:8000", "http://app") if is_sticky else SERVER
    for number, server in enumerate(servers, 8000 + is_sticky):
        http = http.replace(f"127.0.0.1:{number}", f"127.0.0.1:{server.port}")
    http = http.replace("/etc/ssl/app.example.com.pem", str(certificate))
    http = http.replace("/etc/ssl/app.example.com.key", str(key))
    with nginx(tmp_path, http.replace("listen 443 ssl", "listen <listen> ssl")) as address:
        yield f"https://{address}"
    for server in servers:
        server.stop()


@pytest.fixture
def visitor(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that trusts the certificate, in which the CDN is npm's copy of the very file."""
    script = client_script()
    assert script is not None, "npm could not bring socket.io-client"
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(MAX_WAIT * 1000)
    context.route(
        "https://cdn.jsdelivr.net/**", lambda route: route.fulfill(path=script, content_type="text/javascript")
    )
    yield context
    context.close()


def test_logout_in_every_tab(url, visitor, expect):
    """A user logs in over https, and each open tab hears of the logout."""
    tabs = [visitor.new_page() for _ in range(3)]
    tabs[0].goto(url)
    for name, value in LUCA.items():
        tabs[0].locator(f"[name={name}]").fill(value)
    tabs[0].get_by_role("button", name="Log in").click()
    expect(tabs[0].get_by_text("You are luca.")).to_be_visible()
    assert [cookie["name"] for cookie in visitor.cookies()] == ["__Host-session_key"]
    for tab in tabs[1:]:
        tab.goto(url)
    for tab in tabs:
        tab.wait_for_function("() => window.userSessions?.socket?.connected")
    tabs[0].get_by_role("button", name="Log out").click()
    for tab in tabs:
        expect(tab.get_by_role("button", name="Log in")).to_be_visible()


def test_another_origin(url, visitor):
    """The form of another origin is refused, also with the name of its host in `X-Forwarded-Host`."""
    other = {"Origin": "https://other.example.com", "Accept": "application/json"}
    for headers in (other, other | {"X-Forwarded-Host": "other.example.com"}):
        answer = visitor.request.post(f"{url}/login", form=LUCA, headers=headers)
        assert (answer.status, answer.json()) == (403, {"crossOrigin": True})
    answer = visitor.request.post(f"{url}/login", form=LUCA, headers={"Origin": url})
    assert "You are luca." in answer.text()
