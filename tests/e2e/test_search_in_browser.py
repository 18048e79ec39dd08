"""The search of the site finds the page for a task."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import build_site

pytestmark = pytest.mark.browser

TASKS = {
    "log out everywhere": "how-to/log-out-everywhere",
    "who is online": "how-to/who-is-online",
    "remember me": "how-to/remember-me",
    "step-up": "how-to/step-up",
    "password again": "how-to/step-up",
    "page script": "how-to/page-script",
    "tests": "how-to/tests",
    "test an application": "how-to/tests",
    "several workers": "how-to/several-workers",
    "behind a proxy": "how-to/behind-a-proxy",
    "production": "how-to/production",
    "prometheus": "how-to/prometheus",
    "coming from Flask-Login": "how-to/coming-from-flask-login",
    "coming from Flask-Session": "how-to/coming-from-flask-session",
    "coming from Django's sessions": "how-to/coming-from-django-sessions",
    "coming from npm": "how-to/coming-from-npm",
    "tutorial": "tutorial",
    "errors": "reference/errors",
    "test expiry": "how-to/tests",
    "insecure cookie http": "frameworks/flask",
    "secure cookie": "frameworks/flask",
    "socket.io without CDN": "how-to/page-script",
    "self host socket.io": "how-to/page-script",
    "USER_SESSIONS_TIMEOUT": "frameworks/flask",
    "idle timeout setting": "frameworks/flask",
    "session expired message": "how-to/page-script",
    "redirect status 303": "frameworks/flask",
}


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    build_site(folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_each_how_to_page_has_a_task() -> None:
    pages = {f"how-to/{path.stem}" for path in (Path(__file__).parents[2] / "docs" / "how-to").glob("*.md")}
    assert pages <= {*TASKS.values()}


@pytest.mark.parametrize("task", TASKS)
def test_task(site, browser, task):
    """The page is among the first three results, for a reader who types the task into the search of the first page."""
    page = browser.new_page()
    page.goto(site)
    page.get_by_role("textbox", name="Search").fill(task)
    page.keyboard.press("Enter")
    page.locator("#search-results p.search-summary", has_text="found").wait_for()
    found = page.locator("#search-results ul.search > li > a").evaluate_all("links => links.map(link => link.href)")
    page.close()
    assert f"{site}{TASKS[task]}.html" in [address.partition("?")[0].partition("#")[0] for address in found[:3]]
