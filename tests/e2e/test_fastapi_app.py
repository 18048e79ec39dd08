"""The FastAPI example in a real browser: who is online, and a logout in every tab the moment a session ends."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from conftest import EXAMPLES

pytest.importorskip("argon2")
pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
pytest.importorskip("uvicorn")

if TYPE_CHECKING:
    from conftest import Example
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

PROGRAM = str(EXAMPLES / "fastapi_app" / "app.py")


@pytest.fixture(scope="module")
def example(start_shared_example: Callable[..., Example]) -> Example:
    """The example; the browsers of each test log out at its end."""
    return start_shared_example("--timeout", "600", script=PROGRAM)


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def online(page: Page) -> Locator:
    return page.get_by_role("list", name="Online now").get_by_role("listitem")


def session_cookie(page: Page) -> dict[str, Any]:
    return next(cookie for cookie in page.context.cookies() if cookie["name"] == "session_key")


def expect_login_page(expect: Any, *pages: Page, reason: str = "") -> None:
    for page in pages:
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        expect(page.locator("#reason")).to_contain_text(reason)


def test_list_of_users(luca, fabio, expect):
    """Users see who is online."""
    expect(luca.get_by_role("heading", name="Hello, luca")).to_be_visible()
    expect(online(luca)).to_have_text(["fabio", "lucathis is you"])
    expect(online(fabio)).to_have_text(["fabiothis is you", "luca"])
    button(fabio, "Log out").click()
    expect_login_page(expect, fabio)
    expect(online(luca)).to_have_text(["lucathis is you"])


def test_expiry(start_example, new_person, expect):
    """A page goes to the login page when its session expires."""
    short = start_example("--timeout", "3", "--warning", "1", script=PROGRAM)
    page = new_person(url=short.url).open_tab()
    button(page, "Log in as luca").click()
    # Nothing before this: on a machine that is slow enough, the session expires before its page has seen anything.
    expect_login_page(expect, page)
    short.wait_for_output("The session of luca has ended: expired\n")


def test_warning(start_example, new_person, expect):
    """A page warns before its session expires."""
    warning = start_example("--timeout", "600", "--warning", "599", script=PROGRAM)
    page = new_person(url=warning.url).log_in("luca", "lasagne")
    expect(page.get_by_role("dialog")).to_contain_text("seconds, in every tab.")


def test_logout_in_one_tab(new_person, fabio, example, expect):
    """A logout in one tab logs the other one out, and no other session."""
    person = new_person()
    first, second = person.log_in("luca", "lasagne"), person.open_tab()
    second.get_by_text("this is you").wait_for()
    button(first, "Log out").click()
    expect_login_page(expect, first)
    expect_login_page(expect, second, reason="in another tab")
    assert person.context.cookies() == []
    expect(online(fabio)).to_have_text(["fabiothis is you"])
    example.wait_for_output("The session of luca has ended: deleted\n")


def test_logout_everywhere(luca, fabio, new_person, expect):
    """A login elsewhere is pushed to the open page; a logout in every browser reaches it, and no other user."""
    there = new_person().log_in("luca", "lasagne")
    expect(luca.get_by_text("You have also logged in with another browser.")).to_be_visible()
    expect(there.locator("#notice")).to_have_text("")
    button(there, "Log out in every browser").click()
    expect_login_page(expect, luca, there)
    expect(online(fabio)).to_have_text(["fabiothis is you"])


def test_administrator(luca, fabio, new_person, expect):
    """The administrator logs a user out."""
    admin = new_person().log_in("admin", "antipasti")
    button(admin, "Log out luca").click()
    expect_login_page(expect, luca, reason="by the administrator")
    expect(online(admin)).to_have_text(["adminthis is you", "fabioLog out"])


def test_wrong_password(new_person, expect):
    """A wrong password is shown as such, and logs no user in."""
    page = new_person().open_tab()
    for username, password in (("luca", "focaccia"), ("nobody", "unknown")):
        page.get_by_label("Username").fill(username)
        page.get_by_label("Password").fill(password)
        button(page, "Log in").click()
        expect(page.get_by_role("alert")).to_have_text("The username or the password is wrong.")
    assert page.context.cookies() == []


def test_dead_keys(luca, example, new_person, expect):
    """A forged key, and that of a session that has ended, open nothing."""
    ended = session_cookie(luca)
    button(luca, "Log out").click()
    expect_login_page(expect, luca)
    for value in (ended["value"], ended["value"].partition("_")[0] + "_" + "0" * 32):
        thief = new_person()
        thief.context.add_cookies([{**ended, "value": value}])
        expect_login_page(expect, thief.open_tab())
        for header in ({"Session-Key": value}, {"Cookie": f"session_key={value}"}):
            assert refused(example.url, headers=header) == (401, {"logout": True})


def refused(url: str, body: bytes | None = None, **options: Any) -> tuple[int, Any]:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(urllib.request.Request(url, body, **options))
    with refusal.value as answer:
        return answer.code, json.load(answer)


def test_logging_others_out(luca, new_person, example):
    """Only the administrator logs others out, and only with JSON, which a form of another site cannot send."""
    admin = new_person().log_in("admin", "antipasti")
    for page, kind, status in (
        (luca, "application/json", 403),
        (admin, "application/x-www-form-urlencoded", (415, 422)),
        (admin, "text/plain", (415, 422)),
    ):
        headers = {"Cookie": f"session_key={session_cookie(page)['value']}", "Content-Type": kind}
        code, _ = refused(example.url + "logout-user", b'{"username": "luca"}', headers=headers)
        assert code in (status if isinstance(status, tuple) else (status,))
    assert luca.get_by_role("heading", name="Hello, luca").is_visible()
