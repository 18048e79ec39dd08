"""The main job, in a real browser: who is logged in, live, and a logout in every tab the moment a session ends."""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

DOCS = Path(__file__).parents[2] / "docs"


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def session_row(page: Page, username: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=re.compile(f"^{username}")))


def session_key(page: Page) -> str:
    return next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "session_key")


def assert_logged_out(expect: Any, *pages: Page) -> None:
    for page in pages:
        expect(page.get_by_role("heading", name="You are logged out")).to_be_visible()
        expect(button(page, "Log in again")).to_be_visible()
        assert page.evaluate("window.neverReloaded"), "the page was reloaded"
        assert page.locator("#sessions").inner_text() == ""


def test_whoever_logs_in_sees_themselves_and_everyone_else(luca, fabio, expect):
    expect(luca.get_by_role("heading", name="Hello, luca")).to_be_visible()
    expect(session_row(luca, "luca")).to_contain_text("this is you")
    expect(session_row(luca, "fabio")).not_to_contain_text("this is you")
    expect(session_row(fabio, "fabio")).to_contain_text("this is you")
    expect(session_row(fabio, "luca")).to_have_text(re.compile(r"[A-Z][a-z]+-[a-z]+-\d\d.*\d+:\d\d"))


def test_a_wrong_password_is_said_and_logs_nobody_in(new_person, expect):
    page = new_person().open_tab()
    page.get_by_label("Username").fill("luca")
    page.get_by_label("Password").fill("focaccia")
    button(page, "Log in").click()
    expect(page.get_by_role("alert")).to_have_text("That username and password do not go together.")
    expect(page.get_by_label("Password")).to_be_focused()
    assert page.context.cookies() == []


def test_both_tabs_of_a_session_are_logged_out_when_it_runs_out(new_person, expect):
    person = new_person()
    first, second = person.log_in("luca", "lasagne"), person.open_tab()
    expect(second.get_by_text("Connected", exact=True)).to_be_visible()
    second.get_by_label("Timeout in seconds").fill("2")
    button(second, "Set").click()
    expect(second.get_by_text("Set to 2 seconds.")).to_be_visible()
    button(second, "I’m still here").click()
    assert_logged_out(expect, first, second)


def test_logging_out_in_one_tab_logs_the_other_tab_out_and_nobody_else(new_person, fabio, expect):
    person = new_person()
    first, second = person.log_in("luca", "lasagne"), person.open_tab()
    expect(second.get_by_text("Connected", exact=True)).to_be_visible()
    expect(session_row(fabio, "luca")).to_be_visible()
    button(first, "Log out").click()
    assert_logged_out(expect, first, second)
    expect(session_row(fabio, "luca")).to_have_count(0)
    expect(session_row(fabio, "fabio")).to_be_visible()


def test_logging_everyone_out_reaches_every_browser(luca, fabio, expect):
    button(luca, "Log everyone out").click()
    assert_logged_out(expect, luca, fabio)


def test_a_tab_that_was_cut_off_while_its_session_ended_learns_it_when_it_comes_back(
    new_person, cable, example, fabio, expect
):
    page = new_person(url=cable.url).log_in("luca", "lasagne")
    cable.cut()
    expect(page.get_by_text("Offline, retrying")).to_be_visible()
    button(fabio, "Log everyone out").click()
    assert_logged_out(expect, fabio)
    expect(page.get_by_text("Offline, retrying")).to_be_visible()
    cable.mend()
    assert_logged_out(expect, page)


def test_a_tab_that_was_cut_off_while_its_session_lived_goes_on(new_person, cable, fabio, expect):
    page = new_person(url=cable.url).log_in("luca", "lasagne")
    cable.cut()
    expect(page.get_by_text("Offline, retrying")).to_be_visible()
    button(fabio, "Log out").click()
    assert_logged_out(expect, fabio)
    cable.mend()
    expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    expect(session_row(page, "fabio")).to_have_count(0)
    expect(session_row(page, "luca")).to_be_visible()


def test_a_browser_that_was_offline_learns_it_too(luca, fabio, expect):
    luca.context.set_offline(True)
    expect(luca.get_by_text("Offline, retrying")).to_be_visible()
    button(fabio, "Log everyone out").click()
    assert_logged_out(expect, fabio)
    luca.context.set_offline(False)
    assert_logged_out(expect, luca)


def test_what_is_pressed_while_cut_off_is_answered_with_a_reason(new_person, cable, expect):
    page = new_person(url=cable.url).log_in("luca", "lasagne")
    cable.cut()
    button(page, "I’m still here").click()
    expect(page.get_by_text("The server did not answer.")).to_be_visible()
    cable.mend()
    expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    button(page, "I’m still here").click()
    expect(page.get_by_text("The server did not answer.")).not_to_be_visible()


# A second connection of a page, made by hand, which keeps all it hears.
CONNECT = """() => new Promise((done) => {
    window.heard = [];
    window.raw = io({ forceNew: true });
    raw.onAny((event) => heard.push(event));
    raw.on("connect", () => done(raw.id));
})"""
SEND_KEY = "(data) => new Promise((done) => raw.emit('session_key', data, done))"


def test_a_stranger_joins_nothing_with_a_session_key_that_is_not_one(luca, new_person):
    stranger = new_person().open_tab()
    lucas_sid = luca.evaluate(CONNECT)
    assert luca.evaluate(SEND_KEY, None) is True
    stranger.evaluate(CONNECT)

    key = session_key(luca)
    forged = key.partition("_")[0] + "_" + "0" * 32
    tries = [lucas_sid, {"session_key": lucas_sid}, {"session_key": forged}, forged, key.lower(), key[:-1], None, {}]
    tries += [
        "",
        [],
        [key],
        1,
        True,
        {"session_key": None},
        {"session_key": {"session_key": key}},
        "__proto__",
        "x" * 3000,
    ]
    for count, wrong in enumerate(tries, 1):
        assert stranger.evaluate(SEND_KEY, wrong) is False, wrong
        stranger.wait_for_function("(count) => heard.length >= count", arg=count)

    # What luca's connection alone is told: that its own wrong key is refused, and lists.
    assert luca.evaluate(SEND_KEY, forged) is False
    luca.wait_for_function("heard.includes('logout')")
    button(luca, "I’m still here").click()
    # Packets of one connection keep their order: had the stranger been sent something, it would be there before this.
    assert stranger.evaluate(SEND_KEY, forged) is False
    stranger.wait_for_function("(count) => heard.length >= count", arg=len(tries) + 1)
    assert stranger.evaluate("heard") == ["logout"] * (len(tries) + 1)


def test_a_visitor_who_is_not_logged_in_hears_of_nobody(new_person):
    visitor = new_person().open_tab()
    visitor.evaluate(CONNECT)
    new_person().log_in("fabio", "focaccia")
    assert visitor.evaluate(SEND_KEY, None) is False
    visitor.wait_for_function("heard.length > 0")
    assert visitor.evaluate("heard") == ["logout"]


def test_the_routes_answer_401_with_logout_once_the_session_has_ended(luca, new_person, expect):
    key = session_key(luca)
    button(luca, "Log out").click()
    assert_logged_out(expect, luca)
    request = new_person().context.request
    headers = {"Cookie": f"session_key={key}", "Content-Type": "application/json"}
    actions = ("still-here", "timeout", "logout", "logout-everyone")
    answers = [request.post(luca.url + path, headers=headers, data="{}") for path in actions]
    answers.append(request.get(luca.url + "sessions", headers=headers))
    assert [(answer.status, answer.json()) for answer in answers] == [(401, {"logout": True})] * 5


def test_a_request_that_is_answered_with_401_logs_the_page_out(luca, new_person, expect):
    # The connection of the page is still that of the first session, but the browser's cookie is gone.
    luca.context.clear_cookies()
    button(luca, "I’m still here").click()
    assert_logged_out(expect, luca)


def test_still_here_begins_the_countdown_again_and_reading_does_not(luca, expect):
    def time_left() -> float:
        return luca.context.request.get(luca.url + "sessions").json()[0]["left"]

    first, second = time_left(), time_left()
    assert second < first
    luca.reload()
    expect(luca.get_by_text("Connected", exact=True)).to_be_visible()
    assert time_left() < second

    luca.get_by_label("Timeout in seconds").fill("3600")
    button(luca, "Set").click()
    expect(luca.get_by_text("Set to 3600 seconds.")).to_be_visible()
    assert time_left() < second, "the new timeout is for countdowns that begin later"
    button(luca, "I’m still here").click()
    expect(luca.locator("#my-time")).to_have_text(re.compile(r"1:00:00|59:\d\d"))
    expect(session_row(luca, "luca")).to_contain_text(re.compile(r"1:00:00|59:\d\d"))


def test_the_timeout_field_takes_what_the_manager_takes(luca, expect):
    timeout = luca.get_by_label("Timeout in seconds")
    expect(timeout).to_have_value("600")
    for refused in ("1", "", "soon", "-5", "1e300"):
        timeout.fill(refused)
        button(luca, "Set").click()
        expect(luca.get_by_text("It has to be a number of at least 2 seconds.")).to_be_visible()
        expect(timeout).to_have_attribute("aria-invalid", "true")
    timeout.fill("5")
    timeout.press("Enter")
    expect(luca.get_by_text("Set to 5 seconds.")).to_be_visible()
    expect(timeout).to_have_attribute("aria-invalid", "false")


def test_whoever_logs_in_next_in_a_browser_ends_the_session_before(new_person, fabio, expect):
    person = new_person()
    waiting = person.open_tab()
    first = person.log_in("luca", "lasagne")
    expect(session_row(fabio, "luca")).to_be_visible()
    waiting.get_by_label("Username").fill("fabio")
    waiting.get_by_label("Password").fill("focaccia")
    button(waiting, "Log in").click()
    assert_logged_out(expect, first)
    expect(waiting.get_by_role("heading", name="Hello, fabio")).to_be_visible()
    expect(session_row(fabio, "luca")).to_have_count(0)


def test_the_key_is_nowhere_but_in_a_cookie_that_no_script_can_read(new_person, example, expect):
    person = new_person()
    seen: list[str] = []
    person.context.on("request", lambda request: seen.append(request.url + (request.post_data or "")))
    person.context.on("page", lambda page: page.on("websocket", listen))

    def listen(socket: Any) -> None:
        seen.append(socket.url)
        socket.on("framesent", lambda data: seen.append(str(data)))
        socket.on("framereceived", lambda data: seen.append(str(data)))

    page = person.log_in("luca", "lasagne")
    button(page, "I’m still here").click()
    page.reload()
    expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    storage = page.evaluate("[document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
    (cookie,) = person.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("session_key", True, "Lax")
    label, _, secret = cookie["value"].partition("_")
    assert any(url.startswith("ws://") for url in seen), "the page went on polling"
    everything = "\n".join([*seen, page.content(), *storage, example.output])
    assert label in everything, "this test looks in the wrong places"
    assert secret not in everything


def test_a_keyboard_is_enough(new_person, expect):
    page = new_person().open_tab()
    expect(page.get_by_label("Username")).to_be_focused()
    page.keyboard.type("fabio")
    page.keyboard.press("Tab")
    page.keyboard.type("focaccia")
    page.keyboard.press("Enter")
    expect(button(page, "I’m still here")).to_be_focused()
    page.keyboard.press("Tab")
    expect(button(page, "Log out")).to_be_focused()
    page.keyboard.press("Enter")
    assert_logged_out(expect, page)
    expect(page.get_by_role("heading", name="You are logged out")).to_be_focused()
    page.keyboard.press("Tab")
    expect(button(page, "Log in again")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Username")).to_be_focused()


def test_a_screen_reader_is_told_of_the_logout_at_once(luca, fabio, expect):
    alarm = luca.locator("[aria-live=assertive]")
    expect(alarm).to_have_text("")
    button(fabio, "Log everyone out").click()
    expect(alarm).to_have_text("You are logged out.")


def test_the_page_warns_before_the_end_and_no_more_once_the_countdown_begins_again(new_person, expect):
    person = new_person()
    person.context.clock.install()
    page = person.log_in("luca", "lasagne")
    warning = page.get_by_text("You will be logged out in a few seconds.")
    expect(warning).not_to_be_visible()
    person.context.clock.set_system_time(time.time() + 592)  # the page's clock alone: the session has long to go
    expect(warning).to_be_in_viewport()
    button(page, "Set").click()
    expect(page.get_by_text("Set to 600 seconds.")).to_be_visible()
    expect(warning).to_be_visible()
    button(page, "I’m still here").click()
    expect(warning).not_to_be_visible()


@pytest.mark.parametrize("width", [320, 375])
def test_nothing_sticks_out_on_a_phone(new_person, fabio, expect, width):
    def sticks_out() -> bool:
        return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")

    person = new_person(viewport={"width": width, "height": 700})
    page = person.open_tab()
    assert not sticks_out()
    page = person.log_in("luca", "lasagne")
    expect(session_row(page, "fabio")).to_be_visible()
    assert not sticks_out()
    button(page, "Log out").click()
    assert_logged_out(expect, page)
    assert not sticks_out()


# Two screenshots side by side; the page exists for the picture alone.
SIDE_BY_SIDE = """<style>
body {{ margin: 0; padding: 28px; display: flex; gap: 28px; background: #d9dfd9 }}
img {{ border-radius: 12px; box-shadow: 0 6px 24px #0003 }}
</style><img width=760 src="data:image/png;base64,{}"><img width=375 src="data:image/png;base64,{}">"""


def test_the_picture_of_the_readme_shows_the_example(
    browser: Browser, new_person: Callable[..., Any], start_example: Callable[..., Any], tmp_path: Path, expect: Any
):
    url = start_example("--timeout", "45").url
    still = {"url": url, "reduced_motion": "reduce"}
    wide = new_person(viewport={"width": 760, "height": 790}, **still).log_in("luca", "lasagne")
    wide.get_by_label("Timeout in seconds").fill("90")
    button(wide, "Set").click()
    expect(wide.get_by_text("Set to 90 seconds.")).to_be_visible()
    phone = new_person(viewport={"width": 375, "height": 790}, color_scheme="dark", **still).log_in("fabio", "focaccia")
    expect(session_row(wide, "fabio")).to_be_visible()
    shots = [base64.b64encode(page.screenshot()).decode() for page in (wide, phone)]
    frame = browser.new_page(viewport={"width": 1219, "height": 846})
    frame.set_content(SIDE_BY_SIDE.format(*shots))
    path = DOCS / "flask_app.png" if os.environ.get("UPDATE_PICTURE") else tmp_path / "flask_app.png"
    path.parent.mkdir(exist_ok=True)
    frame.screenshot(path=path)
    frame.close()
    assert 10_000 < path.stat().st_size < 200_000


def test_without_the_client_script_the_page_says_so_and_works(new_person, expect):
    person = new_person()
    person.context.route("**/socket.io-client.js", lambda route: route.abort())
    page = person.open_tab()
    page.get_by_label("Username").fill("luca")
    page.get_by_label("Password").fill("lasagne")
    button(page, "Log in").click()
    expect(page.get_by_text("No live updates")).to_be_visible()
    expect(session_row(page, "luca")).to_be_visible()
    button(page, "Log out").click()
    assert_logged_out(expect, page)
