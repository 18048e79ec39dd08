"""The main job, in a real browser: who is logged in, live, and a logout in every tab the moment a session ends."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Example
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser

DOCS = Path(__file__).parents[2] / "docs"
ADMIN = {"username": "admin", "password": "antipasti"}
CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
IPHONE += "Version/18.5 Mobile/15E148 Safari/604.1"


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def session_row(page: Page, username: str) -> Locator:
    """What a page shows of a user."""
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=re.compile(f"^{username}")))


def own_sessions(page: Page) -> Locator:
    """What a page shows of the sessions of its own user."""
    return page.get_by_role("list", name="Your sessions").get_by_role("listitem")


def sessions_of(admin: Page, username: str) -> Locator:
    """What the administrator's page shows of the sessions of a user."""
    return admin.get_by_role("region", name=username, exact=True).get_by_role("listitem")


def warning(page: Page) -> Locator:
    return page.get_by_role("alertdialog", name="Are you still there?", exact=True)


def session_key(page: Page) -> str:
    return next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "session_key")


def assert_logged_out(expect: Any, *pages: Page) -> None:
    for page in pages:
        expect(page.get_by_role("heading", name="You are logged out")).to_be_visible()
        expect(button(page, "Log in again")).to_be_visible()
        assert page.evaluate("window.neverReloaded"), "the page was reloaded"
        assert set(page.locator("[data-private]").all_text_contents()) == {""}
        expect(warning(page)).to_be_hidden()


@pytest.fixture
def admin(new_person: Callable[..., Any]) -> Page:
    """The administrator's page, in a browser of its own."""
    return open_administration(new_person())


def open_administration(person: Any) -> Page:
    page: Page = person.log_in(**ADMIN)
    page.get_by_role("link", name="everyone’s sessions").click()
    page.get_by_role("heading", name="Everyone’s sessions").wait_for()
    page.get_by_text("Connected", exact=True).wait_for()
    page.evaluate("window.neverReloaded = true")
    return page


@pytest.fixture
def set_timeout(new_person: Callable[..., Any], example: Example) -> Callable[..., None]:
    """Lets the countdowns that begin from now on last that many seconds, as the administrator can."""
    request = new_person().context.request

    def set_timeout(seconds: float, *, url: str = example.url) -> None:
        bodies = {"login": ADMIN, "admin/timeout": {"seconds": seconds}, "logout": {}}
        for path, body in bodies.items():
            answer = request.post(url + path, data=body)
            assert answer.ok, answer.text()

    return set_timeout


@pytest.fixture
def ask(set_timeout: Callable[..., None], expect: Any) -> Callable[[Page], None]:
    """Lets the pages of a session ask whether the user is there: for 300 seconds, and this once."""

    def ask(page: Page) -> None:
        set_timeout(301)
        button(page, "I’m still here").click()
        expect(warning(page)).to_be_visible()
        set_timeout(3600)

    return ask


def test_list_of_users(luca, fabio, expect):
    """A user who logs in sees themselves and everyone else."""
    expect(luca.get_by_role("heading", name="Hello, luca")).to_be_visible()
    expect(session_row(luca, "luca")).to_contain_text("this is you")
    expect(session_row(luca, "fabio")).not_to_contain_text("this is you")
    expect(session_row(fabio, "fabio")).to_contain_text("this is you")
    expect(session_row(fabio, "luca").get_by_role("cell")).to_have_text(["1"])  # and no time, which is luca's affair
    expect(own_sessions(luca)).to_have_count(1)
    expect(own_sessions(luca)).to_have_text(
        re.compile(r"Chrome on Linux.*this one.*\w+-\w+-\d\d-[a-z2-7]{4} · since \d\d:\d\d.*\d+:\d\d", re.DOTALL)
    )
    expect(luca.get_by_role("link")).to_have_count(0)


def test_wrong_password(new_person, expect):
    """A wrong password is shown as such, and logs no user in."""
    page = new_person().open_tab()
    page.get_by_label("Username").fill("luca")
    page.get_by_label("Password").fill("focaccia")
    button(page, "Log in").click()
    expect(page.get_by_role("alert")).to_have_text("That username and password do not go together.")
    expect(page.get_by_label("Password")).to_be_focused()
    assert page.context.cookies() == []


def test_expiry(new_person, admin, expect):
    """Both tabs of a session are logged out when it expires."""
    person = new_person()
    first, second = person.log_in("luca", "lasagne"), person.open_tab()
    expect(second.get_by_text("Connected", exact=True)).to_be_visible()
    admin.get_by_label("Timeout in seconds").fill("2")
    button(admin, "Set").click()
    expect(admin.get_by_text("Set to 2 seconds.")).to_be_visible()
    button(second, "I’m still here").click()
    assert_logged_out(expect, first, second)
    expect(sessions_of(admin, "luca")).to_have_count(0)


def test_logout_in_one_tab(new_person, fabio, expect):
    """A logout in one tab logs the other one out, and no other session."""
    person = new_person()
    first, second = person.log_in("luca", "lasagne"), person.open_tab()
    expect(second.get_by_text("Connected", exact=True)).to_be_visible()
    expect(session_row(fabio, "luca")).to_be_visible()
    button(first, "Log out").click()
    assert_logged_out(expect, first, second)
    expect(session_row(fabio, "luca")).to_have_count(0)
    expect(session_row(fabio, "fabio")).to_be_visible()


def test_log_everyone_out(luca, fabio, admin, expect):
    """A logout of everyone reaches every browser."""
    button(admin, "Log everyone out").click()
    assert_logged_out(expect, luca, fabio, admin)


def test_cut_off_at_the_end(new_person, cable, admin, expect):
    """A tab that was cut off while its session ended learns it when it comes back."""
    page = new_person(url=cable.url).log_in("luca", "lasagne")
    cable.cut()
    expect(page.get_by_text("Offline, retrying")).to_be_visible()
    button(admin, "Log everyone out").click()
    assert_logged_out(expect, admin)
    expect(page.get_by_text("Offline, retrying")).to_be_visible()
    cable.repair()
    assert_logged_out(expect, page)


def test_cut_off(new_person, cable, fabio, expect):
    """A tab that was cut off while its session lived goes on."""
    page = new_person(url=cable.url).log_in("luca", "lasagne")
    cable.cut()
    expect(page.get_by_text("Offline, retrying")).to_be_visible()
    button(fabio, "Log out").click()
    assert_logged_out(expect, fabio)
    cable.repair()
    expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    expect(session_row(page, "fabio")).to_have_count(0)
    expect(session_row(page, "luca")).to_be_visible()


def test_offline(luca, admin, expect):
    """A browser that was offline learns of the end too."""
    luca.context.set_offline(True)
    expect(luca.get_by_text("Offline, retrying")).to_be_visible()
    button(admin, "Log everyone out").click()
    assert_logged_out(expect, admin)
    luca.context.set_offline(False)
    assert_logged_out(expect, luca)


def test_button_while_cut_off(new_person, cable, expect):
    """A button that is pressed while the page is cut off is answered with a reason."""
    page = new_person(url=cable.url).log_in("luca", "lasagne")
    cable.cut()
    button(page, "I’m still here").click()
    expect(page.get_by_text("The server did not answer.")).to_be_visible()
    cable.repair()
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


def test_forged_keys(luca, new_person):
    """A stranger joins nothing with what is no key of a live session."""
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

    # What luca's connection alone hears: that its own wrong key is refused, and lists.
    assert luca.evaluate(SEND_KEY, forged) is False
    luca.wait_for_function("heard.includes('logout')")
    button(luca, "I’m still here").click()
    # Packets of one connection keep their order: had the stranger been sent something, it would be there before this.
    assert stranger.evaluate(SEND_KEY, forged) is False
    stranger.wait_for_function("(count) => heard.length >= count", arg=len(tries) + 1)
    assert stranger.evaluate("heard") == ["logout"] * (len(tries) + 1)


def test_visitor(luca, new_person, expect):
    """A visitor who is not logged in gets no names."""
    visitor = new_person().open_tab()
    visitor.evaluate(CONNECT)
    new_person().log_in("fabio", "focaccia")
    expect(session_row(luca, "fabio")).to_be_visible()
    assert visitor.evaluate(SEND_KEY, None) is False
    visitor.wait_for_function("heard.length > 0")
    assert visitor.evaluate("heard") == ["logout"]


def test_routes_after_the_end(luca, new_person, expect):
    """The routes answer 401 with a logout once the session has ended."""
    key = session_key(luca)
    button(luca, "Log out").click()
    assert_logged_out(expect, luca)
    request = new_person().context.request
    headers = {"Cookie": f"session_key={key}", "Content-Type": "application/json"}
    actions = ("still-here", "logout", "logout-there", "logout-elsewhere", "admin/logout-everyone")
    answers = [request.post(luca.url + path, headers=headers, data="{}") for path in actions]
    answers.append(request.get(luca.url + "sessions", headers=headers))
    assert [(answer.status, answer.json()) for answer in answers] == [(401, {"logout": True})] * 6


def test_401(luca, new_person, expect):
    """An answer 401 logs the page out."""
    # The connection of the page is still that of the first session, but the browser's cookie is gone.
    luca.context.clear_cookies()
    button(luca, "I’m still here").click()
    assert_logged_out(expect, luca)


def test_still_here(luca, admin, set_timeout, expect):
    """The button restarts the countdown, and reading does not."""

    def time_left() -> float:
        return luca.context.request.get(luca.url + "sessions").json()["you"]["left"]

    first, second = time_left(), time_left()
    assert second < first
    luca.reload()
    expect(luca.get_by_text("Connected", exact=True)).to_be_visible()
    assert time_left() < second

    set_timeout(3600)
    assert time_left() < second, "the new timeout is for countdowns that begin later"
    button(luca, "I’m still here").click()
    expect(luca.locator("#my-time")).to_have_text(re.compile(r"1:00:00|59:\d\d"))
    for row in (own_sessions(luca), sessions_of(admin, "luca")):
        expect(row).to_contain_text(re.compile(r"1:00:00|59:\d\d"))


def test_timeout_field(admin, expect):
    """The timeout field takes what the manager takes."""
    timeout = admin.get_by_label("Timeout in seconds")
    expect(timeout).to_have_value("600")
    for refused in ("1", "", "soon", "-5", "1e300"):
        timeout.fill(refused)
        button(admin, "Set").click()
        expect(admin.get_by_text("It has to be a number of at least 2 seconds.")).to_be_visible()
        expect(timeout).to_have_attribute("aria-invalid", "true")
    timeout.fill("5")
    timeout.press("Enter")
    expect(admin.get_by_text("Set to 5 seconds.")).to_be_visible()
    expect(timeout).to_have_attribute("aria-invalid", "false")


def test_next_login(new_person, fabio, expect):
    """The next login in a browser ends the session before."""
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


def test_key_in_cookie_alone(new_person, example, expect):
    """The key is nowhere but in a cookie that no script can read."""
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


def test_keyboard(new_person, expect):
    """A keyboard is enough."""
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


def test_screen_reader(luca, admin, expect):
    """A screen reader announces the logout at once."""
    alarm = luca.locator("[aria-live=assertive]")
    expect(alarm).to_have_text("")
    button(admin, "Log everyone out").click()
    expect(alarm).to_have_text("You are logged out.")


def test_stay_logged_in(new_person, fabio, ask, expect):
    """To stay logged in in one tab closes the warning in all."""
    person = new_person()
    first, second = person.log_in(**ADMIN), person.open_tab()
    second.get_by_role("link", name="everyone’s sessions").click()
    expect(sessions_of(second, "admin")).to_have_count(1)
    ask(first)
    expect(warning(second)).to_be_visible()
    expect(first).to_have_title("Are you still there?")
    button(second, "Stay logged in").click()
    for page, title in ((first, "Who is logged in"), (second, "Everyone’s sessions")):
        expect(warning(page)).to_be_hidden()
        expect(page).to_have_title(title)
    expect(first.locator("#my-time")).to_have_text(re.compile(r"1:00:00|59:\d\d"))
    expect(warning(fabio)).to_be_hidden()


def test_no_reaction(new_person, set_timeout, expect):
    """Without a reaction to the warning the session ends in every tab."""
    person = new_person()
    first, second = person.log_in("luca", "lasagne"), person.open_tab()
    expect(second.get_by_text("Connected", exact=True)).to_be_visible()
    for page in (first, second):
        page.evaluate("""() => {
            const dialog = document.querySelector("dialog");
            new MutationObserver(() => { window.asked ||= dialog.open; }).observe(dialog, { attributes: true });
        }""")
    set_timeout(4)
    button(first, "I’m still here").click()
    assert_logged_out(expect, first, second)
    for page in (first, second):
        assert page.evaluate("window.asked") is True
        expect(page.get_by_role("heading", name="You are logged out")).to_be_focused()
        expect(page).to_have_title("Logged out")


def test_warning_without_list(new_person, ask):
    """The warning comes by itself, and waits for no list."""
    person = new_person()

    def swallow_lists(socket: Any) -> None:
        server = socket.connect_to_server()
        server.on_message(lambda text: None if text.startswith('42["sessions"') else socket.send(text))

    person.context.route_web_socket("**/socket.io/**", swallow_lists)
    ask(person.log_in("luca", "lasagne"))


def test_logout_in_warning(new_person, ask, expect):
    """A logout in the warning logs every tab out."""
    person = new_person()
    first, second = person.log_in("luca", "lasagne"), person.open_tab()
    ask(first)
    warning(first).get_by_role("button", name="Log out").click()
    assert_logged_out(expect, first, second)


def test_late_page(luca, ask, expect):
    """A page that loads after the warning shows it too."""
    ask(luca)
    luca.reload()
    expect(warning(luca)).to_be_visible()


def test_cut_off_at_the_warning(new_person, cable, example, ask, expect):
    """A page that was cut off at the warning shows it when it comes back."""
    person = new_person(url=cable.url)
    page = person.log_in("luca", "lasagne")
    person.url = example.url  # the same browser and the same cookie, by another cable
    other = person.open_tab()
    expect(other.get_by_text("Connected", exact=True)).to_be_visible()
    cable.cut()
    expect(page.get_by_text("Offline, retrying")).to_be_visible()
    ask(other)
    assert not warning(page).is_visible()
    cable.repair()
    expect(warning(page)).to_be_visible()


def test_escape(new_person, cable, ask, expect):
    """Escape counts as a reaction, and only the answer of the server closes the warning."""
    page = new_person(url=cable.url).log_in("luca", "lasagne")
    ask(page)
    cable.cut()
    expect(page.locator("#connection")).to_have_text("Offline, retrying")
    for _ in range(3):  # a browser listens to the page's objection once
        page.keyboard.press("Escape")
        expect(warning(page).get_by_role("alert")).to_have_text(re.compile("The server did not answer"))
        expect(warning(page)).to_be_visible()
    cable.repair()
    expect(page.locator("#connection")).to_have_text("Connected")
    expect(warning(page)).to_be_visible()
    page.keyboard.press("Escape")
    expect(warning(page)).to_be_hidden()
    expect(page.locator("#my-time")).to_have_text(re.compile(r"1:00:00|59:\d\d"))


def test_keyboard_in_warning(luca, ask, expect):
    """A keyboard is enough for the warning, and the focus comes back to where it was."""
    ask(luca)
    expect(button(luca, "Stay logged in")).to_be_focused()
    luca.keyboard.press("Tab")
    expect(warning(luca).get_by_role("button", name="Log out")).to_be_focused()
    luca.keyboard.press("Shift+Tab")
    luca.keyboard.press("Enter")
    expect(warning(luca)).to_be_hidden()
    expect(button(luca, "I’m still here")).to_be_focused()


def test_screen_reader_in_warning(luca, fabio, ask, expect):
    """A screen reader announces the warning once."""
    ask(luca)
    expect(warning(luca)).to_have_accessible_description(
        re.compile(r"^You will be logged out in \d+ seconds, here and in every other tab\.$")
    )
    text, digits = luca.locator("#warning-text").text_content(), warning(luca).get_by_role("timer")
    expect(digits).not_to_have_text(digits.text_content())
    button(fabio, "Log out").click()  # which brings a list
    expect(session_row(luca, "fabio")).to_have_count(0)
    assert luca.locator("#warning-text").text_content() == text
    assert warning(luca).locator("[aria-live], [role=status]").count() == 0
    expect(warning(luca).get_by_role("alert")).to_have_text("")


def test_logout_there(luca, fabio, new_person, expect):
    """A logout there logs that browser out and not this one."""
    there = new_person(user_agent=FIREFOX).log_in("luca", "lasagne")
    expect(own_sessions(luca)).to_have_count(2)
    expect(own_sessions(luca).nth(0)).to_contain_text("this one")
    expect(own_sessions(there).nth(0)).to_contain_text("Firefox on Windows this one")
    expect(session_row(fabio, "luca").get_by_role("cell")).to_have_text(["2"])
    luca.get_by_role("button", name=re.compile(r"^Log out there: Firefox on Windows, since \d\d:\d\d$")).click()
    assert_logged_out(expect, there)
    expect(own_sessions(luca)).to_have_count(1)
    expect(button(luca, "Log out everywhere else")).to_be_hidden()
    # Where the button was that had the focus.
    expect(luca.get_by_role("heading", name="Your sessions")).to_be_focused()
    expect(session_row(fabio, "luca").get_by_role("cell")).to_have_text(["1"])


def test_logout_everywhere_else(luca, fabio, new_person, expect):
    """A logout everywhere else spares this browser and other users."""
    others = [new_person().log_in("luca", "lasagne") for _ in range(2)]
    expect(own_sessions(luca)).to_have_count(3)
    button(luca, "Log out everywhere else").click()
    assert_logged_out(expect, *others)
    expect(own_sessions(luca)).to_have_count(1)
    expect(luca.get_by_role("heading", name="Your sessions")).to_be_focused()
    button(fabio, "I’m still here").click()
    expect(session_row(fabio, "luca").get_by_role("cell").nth(0)).to_have_text("1")


def test_focus(luca, new_person, expect):
    """A button keeps the focus while lists come in."""
    new_person(user_agent=FIREFOX).log_in("luca", "lasagne")
    there = luca.get_by_role("button", name="Log out there: Firefox on Windows")
    there.focus()
    first = new_person().log_in("luca", "lasagne")
    expect(own_sessions(luca)).to_have_count(3)
    expect(there).to_be_focused()
    button(first, "Log out").click()
    expect(own_sessions(luca)).to_have_count(2)
    expect(there).to_be_focused()


def test_administrator(luca, fabio, admin, new_person, expect):
    """The administrator ends the sessions of one user, and the others stay."""
    there = new_person(user_agent=FIREFOX).log_in("luca", "lasagne")
    expect(sessions_of(admin, "luca")).to_have_count(2)
    expect(sessions_of(admin, "luca").nth(1)).to_have_text(
        re.compile(r"Firefox on Windows.*\w+-\w+-\d\d-[a-z2-7]{4} · since \d\d:\d\d.*\d+:\d\d", re.DOTALL)
    )
    expect(sessions_of(admin, "admin")).to_contain_text("this one")

    admin.get_by_role("button", name="Log out luca: Firefox on Windows").click()
    assert_logged_out(expect, there)
    expect(sessions_of(admin, "luca")).to_have_count(1)
    expect(admin.get_by_role("heading", name="luca")).to_be_focused()
    expect(own_sessions(luca)).to_have_count(1)

    again = new_person().log_in("luca", "lasagne")
    expect(sessions_of(admin, "luca")).to_have_count(2)
    button(admin, "Log out luca everywhere").click()
    assert_logged_out(expect, luca, again)
    expect(sessions_of(admin, "luca")).to_have_count(0)
    expect(admin.get_by_role("heading", name="Everyone’s sessions")).to_be_focused()
    expect(sessions_of(admin, "fabio")).to_have_count(1)
    expect(session_row(fabio, "luca")).to_have_count(0)
    expect(session_row(fabio, "fabio")).to_be_visible()


def test_activity(admin, luca, expect):
    """The administrator's page shows each login and each end, until the administrator logs out."""
    activity = admin.get_by_role("list", name="What has happened").get_by_role("listitem")
    label = session_key(luca).partition("_")[0]
    expect(activity).to_have_text([f"luca logged in, session {label}"])
    button(luca, "Log out").click()
    ended = f"session {label} of luca has ended: deleted"
    expect(activity).to_have_text([ended, f"luca logged in, session {label}"])
    admin.get_by_role("button", name="Log out admin: ").click()
    assert_logged_out(expect, admin)


def test_administrator_logs_out(new_person, example, expect):
    """An administrator who logs out comes back to the same page."""
    person = new_person(url=example.url + "admin")
    page = person.open_tab()
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill("antipasti")
    button(page, "Log in").click()
    expect(page.get_by_role("heading", name="Everyone’s sessions")).to_be_visible()
    page.evaluate("window.neverReloaded = true")
    page.get_by_role("button", name="Log out admin: ").click()
    assert_logged_out(expect, page)
    button(page, "Log in again").click()
    expect(page.get_by_label("Username")).to_be_focused()
    assert page.url == example.url + "?next=%2Fadmin"


def test_not_administrator(luca, example, expect):
    """Only the administrator sees that page."""
    answer = luca.goto(example.url + "admin")
    assert answer.status == 403
    expect(luca.get_by_role("heading", name="For the administrator")).to_be_visible()
    luca.get_by_role("link", name="Back to your own page").click()
    expect(luca.get_by_role("heading", name="Hello, luca")).to_be_visible()


def test_login_again(new_person, expect):
    """Another login of the same user in a browser keeps the session."""
    person = new_person()
    waiting = person.open_tab()
    first = person.log_in("luca", "lasagne")
    key = session_key(first)
    waiting.get_by_label("Username").fill("luca")
    waiting.get_by_label("Password").fill("lasagne")
    button(waiting, "Log in").click()
    expect(waiting.get_by_text("Connected", exact=True)).to_be_visible()
    assert session_key(waiting) != key
    for page in (first, waiting):
        expect(own_sessions(page)).to_have_count(1)
        expect(own_sessions(page)).to_contain_text(session_key(waiting).partition("_")[0])
    button(first, "Log out").click()
    assert_logged_out(expect, first, waiting)


@pytest.mark.parametrize("width", [320, 375])
def test_phone(new_person, fabio, ask, expect, width):
    """Nothing sticks out on a phone."""

    def sticks_out(page: Page) -> bool:
        return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")

    phone = {"viewport": {"width": width, "height": 700}}
    person = new_person(**phone)
    page = person.open_tab()
    assert not sticks_out(page)
    new_person().log_in("luca", "lasagne")
    page = person.log_in("luca", "lasagne")
    expect(session_row(page, "fabio")).to_be_visible()
    expect(own_sessions(page)).to_have_count(2)
    assert not sticks_out(page)

    admin = open_administration(new_person(**phone))
    expect(sessions_of(admin, "luca")).to_have_count(2)
    assert not sticks_out(admin)

    ask(page)
    assert not sticks_out(page)
    box = warning(page).bounding_box()
    assert 0 < box["x"] < box["x"] + box["width"] < width
    assert 0 < box["y"] < box["y"] + box["height"] < 700
    for name in ("Stay logged in", "Log out"):
        expect(warning(page).get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    warning(page).get_by_role("button", name="Log out").click()
    assert_logged_out(expect, page)
    assert not sticks_out(page)


# Two screenshots side by side; the page exists for the picture alone.
SIDE_BY_SIDE = """<style>
body {{ margin: 0; padding: 28px; display: flex; gap: 28px; background: #d9dfd9 }}
img {{ border-radius: 12px; box-shadow: 0 6px 24px #0003 }}
</style><img width=760 src="data:image/png;base64,{}"><img width=375 src="data:image/png;base64,{}">"""


def test_picture_of_readme(
    browser: Browser, new_person: Any, start_example: Any, set_timeout: Any, tmp_path: Path, expect: Any
):
    """The picture of the README shows the example."""
    # For the README there are 20 seconds for this, as there are for visitors; a test is given more.
    last = 20 if os.environ.get("UPDATE_PICTURE") else 300
    url = start_example("--warning", str(last)).url
    still = {"url": url, "reduced_motion": "reduce", "timezone_id": "Europe/Rome"}
    set_timeout(3 * last, url=url)
    new_person(user_agent=FIREFOX, **still).log_in("luca", "lasagne")
    wide = new_person(viewport={"width": 760, "height": 820}, user_agent=CHROME, **still).log_in("luca", "lasagne")
    set_timeout(last + 2, url=url)
    narrow = {"viewport": {"width": 375, "height": 820}, "color_scheme": "dark", "user_agent": IPHONE}
    phone = new_person(**narrow, **still).log_in("fabio", "focaccia")
    expect(warning(phone)).to_be_visible()
    expect(session_row(wide, "fabio")).to_be_visible()
    expect(warning(wide)).to_be_hidden()
    shots = [base64.b64encode(page.screenshot()).decode() for page in (wide, phone)]
    frame = browser.new_page(viewport={"width": 1219, "height": 876})
    frame.set_content(SIDE_BY_SIDE.format(*shots))
    path = DOCS / "flask_app.png" if os.environ.get("UPDATE_PICTURE") else tmp_path / "flask_app.png"
    path.parent.mkdir(exist_ok=True)
    frame.screenshot(path=path)
    frame.close()
    assert 10_000 < path.stat().st_size < 200_000


@pytest.fixture
def unserved(new_person: Callable[..., Any], expect: Any) -> Page:
    """A page in which luca is logged in, and which has not got socket.io-client."""
    person = new_person()
    person.context.route("**/socket.io-client.js", lambda route: route.abort())
    page = person.open_tab()
    page.get_by_label("Username").fill("luca")
    page.get_by_label("Password").fill("lasagne")
    button(page, "Log in").click()
    expect(page.get_by_text("No live updates")).to_be_visible()
    return page


def test_without_script(unserved, new_person, expect):
    """Without the client script the page says so, and works."""
    there = new_person(user_agent=FIREFOX).log_in("luca", "lasagne")
    expect(own_sessions(unserved)).to_have_count(2)  # it asks by itself
    unserved.get_by_role("button", name="Log out there: Firefox on Windows").click()
    assert_logged_out(expect, there)
    expect(own_sessions(unserved)).to_have_count(1)
    button(unserved, "Log out").click()
    assert_logged_out(expect, unserved)


def test_warning_without_script(unserved, ask, example, expect):
    """Without the client script a page learns of the warning and of the end."""
    ask(unserved)
    button(unserved, "Stay logged in").click()
    expect(warning(unserved)).to_be_hidden()
    unserved.context.request.post(example.url + "logout", data={})
    assert_logged_out(expect, unserved)
