"""The tutorial, step by step: its blocks in the files that it names, its commands, and a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from npm_client import client_script
from server_process import MAX_WAIT, ServerProcess
from tutorial import command, follow

pytest.importorskip("flask_socketio")
pytest.importorskip("gunicorn")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser

SCRIPT = re.compile(r"https://cdn\.jsdelivr\.net/\S+?\.js")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[int, int], ServerProcess]]:
    """Starts the application of a step with the command of another, in place of the one before."""
    running: list[ServerProcess] = []

    def start(step: int, command_of: int) -> ServerProcess:
        stop()
        follow(tmp_path, step)
        server = ServerProcess(
            "-m", *command(command_of), printed=r"http://127\.0\.0\.1:(\d+)", cwd=tmp_path, starts_others=True
        )
        running.append(server)
        return server

    def stop() -> None:
        while running:
            running.pop().stop()

    yield start
    stop()


@pytest.fixture
def new_browser(browser: Browser) -> Iterator[Callable[[], BrowserContext]]:
    """Gives users browsers without cookies, in which the CDN is npm's copy of the very file."""
    script = client_script()
    assert script is not None, "npm could not bring socket.io-client"
    headers = {"Access-Control-Allow-Origin": "*"}
    contexts: list[BrowserContext] = []

    def new_browser() -> BrowserContext:
        context = browser.new_context()
        context.set_default_timeout(MAX_WAIT * 1000)
        context.route(SCRIPT, lambda route: route.fulfill(path=script, content_type="text/javascript", headers=headers))
        contexts.append(context)
        return context

    yield new_browser
    for context in contexts:
        context.close()


def log_in(visitor: BrowserContext, url: str, name: str, password: str) -> Page:
    page = visitor.new_page()
    page.goto(url)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    return page


def open_tab(visitor: BrowserContext, url: str) -> Page:
    page = visitor.new_page()
    page.goto(url)
    return page


def test_login(start: Any, new_browser: Any, expect: Any) -> None:
    """After the second step: the guard, a wrong password, a login that a restart of the server keeps, a logout."""
    server = start(2, 2)
    visitor = new_browser()
    page = log_in(visitor, server.address, "luca", "pizza")
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    page = log_in(visitor, server.address, "luca", "lasagne")
    expect(page.get_by_role("heading", name="Hello, luca")).to_be_visible()
    page = open_tab(visitor, start(2, 2).address)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()
    page.goto("/".join([*page.url.split("/")[:3], ""]))
    expect(page.get_by_role("button", name="Log in")).to_be_visible()


@pytest.mark.parametrize("command_of", [2, 7], ids=["flask", "gunicorn"])
def test_live(start: Any, new_browser: Any, expect: Any, command_of: int) -> None:
    """Steps three to five, with the development server and with four workers."""
    server = start(3 if command_of == 2 else 5, command_of)
    visitor = new_browser()
    log_in(visitor, server.address, "luca", "lasagne")
    tabs = [open_tab(visitor, server.address) for _ in range(4)]
    for tab in tabs:
        tab.wait_for_function("() => window.userSessions?.socket?.connected")
    tabs[0].get_by_role("button", name="Log out", exact=True).click()
    for tab in tabs:
        expect(tab.get_by_role("button", name="Log in")).to_be_visible()

    if command_of == 2:
        server = start(4, command_of)
    luca = log_in(visitor, server.address, "luca", "lasagne")
    expect(luca.locator("#online li")).to_have_text(["luca"])
    fabio = log_in(new_browser(), server.address, "fabio", "focaccia")
    for page in (luca, fabio):
        expect(page.locator("#online li")).to_have_text(["fabio", "luca"])
    fabio.get_by_role("button", name="Log out", exact=True).click()
    expect(luca.locator("#online li")).to_have_text(["luca"])

    if command_of == 2:
        server = start(5, command_of)
    here = open_tab(visitor, server.address)
    there = log_in(new_browser(), server.address, "luca", "lasagne")
    for page in (here, there):
        page.wait_for_function("() => window.userSessions?.socket?.connected")
    here.get_by_role("button", name="Log out everywhere").click()
    for page in (here, there):
        expect(page.get_by_role("button", name="Log in")).to_be_visible()
