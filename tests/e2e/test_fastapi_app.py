"""The FastAPI example in a real browser: your data, and a logout in every tab the moment the session ends."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("argon2")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")

if TYPE_CHECKING:
    from conftest import Example
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def example(start_shared_example: Callable[..., Example]) -> Example:
    """The example; the browsers of each test log out at its end."""
    return start_shared_example("--timeout", "600", script="fastapi_app/app.py")


def session_cookie(page: Page) -> str:
    return next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "session_key")


def metrics(example: Example) -> dict[str, float]:
    with urllib.request.urlopen(example.url + "metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


@pytest.fixture
def counted(example: Example) -> Callable[[str], float]:
    """Return by how much a counter has grown in this test."""
    before = metrics(example)
    return lambda name: metrics(example)["users_session_manager_" + name] - before["users_session_manager_" + name]


def assert_logged_out(expect: Any, *pages: Page) -> None:
    for page in pages:
        expect(page.get_by_role("heading", name="You are logged out")).to_be_visible()
        assert page.evaluate("window.neverReloaded"), "the page was reloaded"
        assert set(page.locator("[data-private]").all_text_contents()) == {""}
        assert "luca" not in page.locator("body").inner_text().lower()


def test_own_data(luca, fabio, expect):
    """Users see their own data, and who is logged in."""
    expect(luca.get_by_role("heading", name="Hello, luca")).to_be_visible()
    expect(luca.get_by_role("row", name="Lasagne al forno 2")).to_be_visible()
    expect(luca.get_by_text("You have asked for them once in this session.")).to_be_visible()
    expect(luca.get_by_role("listitem").filter(has_text="fabio")).to_be_visible()
    expect(fabio.get_by_role("row", name="Focaccia with rosemary 3")).to_be_visible()
    expect(fabio.get_by_role("row", name="Lasagne")).to_have_count(0)
    luca.get_by_role("button", name="Show my orders again").click()
    expect(luca.get_by_text("You have asked for them 2 times in this session.")).to_be_visible()
    fabio.get_by_role("button", name="Log out").click()
    assert_logged_out(expect, fabio)
    expect(luca.get_by_role("listitem").filter(has_text="fabio")).to_have_count(0)


def test_progress(luca, expect):
    """A stream shows what becomes of the orders, until the user logs out."""
    luca.get_by_role("button", name="Where are they?").click()
    expect(luca.get_by_text("The kitchen has your orders.")).to_be_visible()
    expect(luca.get_by_text("They are in the oven.")).to_be_visible()
    luca.get_by_role("button", name="Log out").click()
    assert_logged_out(expect, luca)


def test_stream(example):
    """That stream ends with its session, and is refused without one."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())

    def post(path: str, **body: str) -> None:
        headers = {"Content-Type": "application/json"}
        browser.open(urllib.request.Request(example.url + path, json.dumps(body).encode(), headers)).close()

    post("login", username="luca", password="lasagne")
    with browser.open(example.url + "orders/progress", timeout=60) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.readline() == b"data: The kitchen has your orders.\n"
        post("logout")
        stream.read()  # until the answer ends
    with pytest.raises(urllib.error.HTTPError) as refusal:
        browser.open(example.url + "orders/progress")
    with refusal.value as answer:
        assert answer.code == 401


def test_expiry(start_example, new_person, expect):
    """A page is logged out when its session expires, and the metrics count it."""
    short = start_example("--timeout", "3", script="fastapi_app/app.py")
    page = new_person(url=short.url).open_tab()
    page.get_by_label("Username").fill("luca")
    page.get_by_label("Password").fill("lasagne")
    page.get_by_role("button", name="Log in").click()
    # Nothing before this: on a machine that is slow enough, the session expires before its page has seen anything.
    assert_logged_out(expect, page)
    short.wait_for_output(r"luca logged in, session [A-Z][a-z]+-[a-z]+-\d\d-[a-z2-7]{4}\n")
    short.wait_for_output(r"session [A-Z][a-z]+-[a-z]+-\d\d-[a-z2-7]{4} of luca has ended: expired\n")
    now = metrics(short)
    assert now["users_session_manager_sessions"] == 0
    assert now["users_session_manager_sessions_created_total"] == 1
    assert now['users_session_manager_sessions_ended_total{reason="expired"}'] == 1
    assert now["users_session_manager_session_duration_seconds_count"] == 1
    page.get_by_role("button", name="Log in again").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_logout_in_one_tab(counted, new_person, fabio, expect):
    """A logout in one tab logs the other one out, and no other session."""
    person = new_person()
    first, second = person.log_in("luca", "lasagne"), person.open_tab()
    expect(second.get_by_text("Connected", exact=True)).to_be_visible()
    assert counted("sessions") == 2
    first.get_by_role("button", name="Log out").click()
    assert_logged_out(expect, first, second)
    assert person.context.cookies() == []
    expect(fabio.get_by_text("Connected", exact=True)).to_be_visible()
    assert counted("sessions") == 1
    assert counted('sessions_ended_total{reason="deleted"}') == 1


def test_wrong_password(counted, new_person, expect):
    """A wrong password is shown as such, and logs no user in."""
    page = new_person().open_tab()
    for username, password in (("luca", "focaccia"), ("nobody", "nobody")):
        page.get_by_label("Username").fill(username)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("That username and password do not go together.")
        expect(page.get_by_label("Password")).to_be_focused()
        expect(page.get_by_label("Password")).to_have_value("")
    assert page.context.cookies() == []
    assert counted("sessions_created_total") == 0


def test_forged_key(counted, luca, example, expect):
    """A forged key logs no user in."""
    own = luca.context.cookies()
    label = own[0]["value"].partition("_")[0]
    cookie = {"name": "session_key", "value": f"{label}_{'0' * 32}", "url": example.url}
    luca.context.add_cookies([cookie])
    luca.get_by_role("button", name="Show my orders again").click()
    assert_logged_out(expect, luca)
    luca.reload()
    expect(luca.get_by_role("heading", name="Log in")).to_be_visible()
    assert counted("rejections_total") >= 2
    luca.context.add_cookies(own)  # with which this browser logs out


def test_ended_key(luca, example, new_person, expect):
    """The key of a session that has ended logs no user in."""
    key = session_cookie(luca)
    luca.get_by_role("button", name="Log out").click()
    assert_logged_out(expect, luca)
    thief = new_person()
    thief.context.add_cookies([{"name": "session_key", "value": key, "url": example.url}])
    page = thief.open_tab()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    for header in ({"Session-Key": key}, {"Cookie": f"session_key={key}"}):
        for path in ("orders", "session"):
            with pytest.raises(urllib.error.HTTPError) as refusal:
                urllib.request.urlopen(urllib.request.Request(example.url + path, headers=header))
            with refusal.value as answer:
                assert (answer.code, json.load(answer)) == (401, {"logout": True})


def test_hardened(example):
    """Every answer is hardened, and forms of other sites are refused."""
    with urllib.request.urlopen(example.url) as answer:
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        assert answer.headers["Cache-Control"] == "no-store"
        assert re.search(r'integrity="sha384-[A-Za-z0-9+/]{64}"', answer.read().decode())
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data"):
        body = b'{"username": "luca", "password": "lasagne"}'
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(urllib.request.Request(example.url + "login", body, {"Content-Type": kind}))
        with refusal.value as answer:
            assert answer.code == 415
