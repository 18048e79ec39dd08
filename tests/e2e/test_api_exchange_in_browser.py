"""The exchange in a real browser: log in, see your data, and be logged out however the session ends."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

pytest.importorskip("argon2")
pytest.importorskip("flask")
pytest.importorskip("sqlalchemy")


@pytest.fixture(scope="module")
def exchange(start_shared_example: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The exchange on a database of its own, with sessions that outlast every test."""
    folder = tmp_path_factory.mktemp("exchange")
    return start_exchange(start_shared_example, f"sqlite:///{folder / 'exchange.sqlite3'}")


@pytest.fixture
def example(exchange: Any) -> Any:
    """The exchange without a session, and what it has printed until then as that of earlier tests."""
    key = call(exchange.url, "try_login", username="luca", password="lasagne")["user_data"]["session_key"]
    for username in ("fabio", "luca"):
        call(exchange.url, "log_user_out", key, username=username)
    exchange.wait_for_output(f"session {key.partition('_')[0]} of luca has ended: deleted\n")
    exchange.begin()
    return exchange


def start_exchange(start_example: Callable[..., Any], database: str) -> Any:
    return start_example("--timeout", "600", "--database", database, script="api_exchange/app.py")


@pytest.fixture
def log_in(new_person: Callable[..., Any], expect: Any) -> Callable[..., Page]:
    def log_in(username: str, password: str, **options: Any) -> Page:
        page: Page = new_person(**options).open_tab()
        fill_in(page, username, password)
        expect(page.get_by_role("heading", name=f"Hello, {username}")).to_be_visible()
        expect(page.get_by_text("Connected", exact=True)).to_be_visible()
        return page

    return log_in


def fill_in(page: Page, username: str, password: str) -> None:
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(password)
    button(page, "Log in").click()


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def assert_logged_out(expect: Any, page: Page) -> None:
    expect(page.get_by_role("heading", name="You are logged out")).to_be_visible()
    assert page.evaluate("window.neverReloaded"), "the page was reloaded"
    assert page.locator("table").text_content().strip() == ""
    assert page.locator("#me").text_content() == ""


def call(url: str, api_name: str, key: str | None = None, **body: Any) -> Any:
    headers = {"Api-Name": api_name, "Content-Type": "application/json"} | ({"Session-Key": key} if key else {})
    with urllib.request.urlopen(urllib.request.Request(url + "api", json.dumps(body).encode(), headers)) as answer:
        return json.load(answer)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_login_to_expiry(kind, request, start_example, new_person, log_in, tmp_path, expect):
    """Log in, see your data, let the session expire, and be logged out."""
    url = f"sqlite:///{tmp_path / 'exchange.sqlite3'}"
    if kind == "postgresql":
        pytest.importorskip("psycopg")
        url = request.getfixturevalue("postgresql_url")
    address = start_exchange(start_example, url).url
    page = log_in("luca", "lasagne", url=address)
    expect(page.get_by_role("row")).to_have_count(1 + 5)
    expect(page.get_by_text("Lasagne al forno")).not_to_be_visible()
    button(page, "Next").click()
    expect(page.get_by_role("cell", name="Lasagne al forno")).to_be_visible()
    expect(page.get_by_role("row")).to_have_count(1 + 2)
    key = call(address, "try_login", username="luca", password="lasagne")["user_data"]["session_key"]
    assert call(address, "set_session_timeout", key, seconds=2)["timeout"] == 2
    button(page, "Previous").click()  # and the countdown begins again, with the timeout set now
    assert_logged_out(expect, page)
    button(page, "Log in again").click()
    expect(page.get_by_label("Username")).to_be_focused()
    page.evaluate("window.neverReloaded = true")
    fill_in(page, "fabio", "focaccia")
    assert_logged_out(expect, page)


def test_wrong_password(new_person, expect, example):
    """A wrong password is shown as such, and logs no user in."""
    page = new_person().open_tab()
    fill_in(page, "luca", "focaccia")
    expect(page.get_by_role("alert")).to_have_text("Wrong username or password.")
    expect(page.get_by_label("Password")).to_be_focused()
    expect(page.get_by_role("table")).not_to_be_visible()
    call(example.url, "try_login", username="fabio", password="focaccia")
    example.wait_for_output("fabio logged in, ")
    assert example.new_output.count(" logged in, ") == 1


def test_forged_key(log_in, expect):
    """A forged key is answered with a logout."""
    page = log_in("luca", "lasagne")

    def forge(route: Any) -> None:
        headers = dict(route.request.headers)
        label = headers["session-key"].partition("_")[0]
        route.continue_(headers=headers | {"session-key": f"{label}_{'0' * 32}"})

    page.route("**/api", forge)
    button(page, "Next").click()
    assert_logged_out(expect, page)


def test_ended_key(new_person, log_in, expect, example):
    """The key of a session that has ended is answered with a logout."""
    person = new_person()
    person.context.route("**/socket.io-client.js", lambda route: route.abort())  # so the page hears no logout
    page = person.open_tab()
    fill_in(page, "fabio", "focaccia")
    expect(page.get_by_text("No live updates")).to_be_visible()
    expect(page.get_by_role("cell", name="Minestrone")).to_be_visible()
    key = call(example.url, "try_login", username="luca", password="lasagne")["user_data"]["session_key"]
    assert call(example.url, "log_user_out", key, username="fabio")["ended"] == 1
    expect(page.get_by_role("heading", name="Hello, fabio")).to_be_visible()
    button(page, "Orders").click()
    assert_logged_out(expect, page)


def test_not_allowed(log_in, expect):
    """What a user may not do is refused, and the rest goes on."""
    page = log_in("fabio", "focaccia")
    expect(page.get_by_role("cell", name="Minestrone")).to_be_visible()
    button(page, "Users").click()
    expect(page.get_by_text("Action not allowed!")).to_be_visible()
    expect(page.get_by_role("row")).to_have_count(0)
    expect(page.get_by_label("Timeout in seconds")).not_to_be_visible()
    button(page, "Orders").click()
    expect(page.get_by_role("cell", name="Minestrone")).to_be_visible()
    expect(page.get_by_text("Action not allowed!")).not_to_be_visible()
    button(page, "Log out").click()
    assert_logged_out(expect, page)


def test_logged_out_by_other(log_in, expect):
    """A user who is logged out by another one learns it at once."""
    luca, fabio = log_in("luca", "lasagne"), log_in("fabio", "focaccia")
    button(luca, "Users").click()
    expect(luca.get_by_role("row", name="fabio 1")).to_be_visible()
    button(luca, "Log fabio out").click()
    assert_logged_out(expect, fabio)
    expect(luca.get_by_role("row", name="fabio 0")).to_be_visible()
    luca.get_by_label("Timeout in seconds").fill("1")
    button(luca, "Set").click()
    expect(luca.get_by_text("It has to be a number of at least 2 seconds.")).to_be_visible()


def test_key_in_variable(new_person, log_in, expect, example):
    """The key is in a variable of the page alone."""
    page = log_in("luca", "lasagne")
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    with page.expect_request("**/api") as asked:
        button(page, "Next").click()
    label, _, secret = asked.value.headers["session-key"].partition("_")
    assert len(secret) == 32
    stored = page.evaluate("[document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
    assert page.context.cookies() == []
    example.wait_for_output(label)
    assert secret not in "\n".join([*stored, *urls, page.url, page.content(), example.output])
    page.reload()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_phone(log_in, expect):
    """Nothing sticks out on a phone."""
    page = log_in("luca", "lasagne", viewport={"width": 320, "height": 700})
    for table, rows in (("Orders", 6), ("Users", 3)):
        button(page, table).click()
        expect(page.get_by_role("row")).to_have_count(rows)
        assert not page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
