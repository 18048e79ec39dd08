"""The main job, in a real browser: who is online, live, and a logout in every tab the moment a session ends."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import sessions_of
from waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser

pytest.importorskip("flask")
pytest.importorskip("simple_websocket")
pytest.importorskip("socketio")

Image = pytest.importorskip("PIL.Image")

DOCS = Path(__file__).parents[2] / "docs"


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def online(page: Page, username: str = "") -> Locator:
    """What a page shows of a user, or of all users."""
    items = page.get_by_role("list", name="Online now").get_by_role("listitem")
    return items.filter(has_text=username) if username else items


def warning(page: Page) -> Locator:
    return page.get_by_role("dialog")


def session_key(page: Page) -> str:
    return next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "session_key")


def open_tab(page: Page) -> Page:
    """Open a second tab in the browser of a page, and wait until it has joined the session."""
    tab: Page = page.context.new_page()
    tab.goto(page.url)
    tab.get_by_text("this is you").wait_for()
    return tab


def expect_login_page(expect: Any, *pages: Page, reason: str = "") -> None:
    for page in pages:
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        expect(page.locator("#reason")).to_have_text(re.compile(reason) if reason else "")


OTHER_TAB = "^You were logged out in another tab, or by the administrator.$"


@pytest.fixture
def admin(new_person: Callable[..., Any]) -> Page:
    """The page of the administrator, in a browser of its own."""
    return new_person().log_in("admin", "antipasti")


@pytest.fixture
def ask(flask_program: str, expect: Any) -> Callable[[Page], None]:
    """Lets the pages of a session warn: for 300 seconds, and this once."""

    def ask(page: Page) -> None:
        restart(page, 301, flask_program)
        expect(warning(page)).to_be_visible()

    return ask


def restart(page: Page, seconds: float, program: str) -> None:
    """Begin the timeout of the session of a page again, with that many seconds; it warns after one second."""
    with sessions_of(program) as manager:
        manager.setSessionTimeOut(seconds)
        manager.setExpiryWarning(seconds - 1)
        assert manager.restartSessionTimer(session_key(page))


def test_list_of_users(luca, fabio, expect):
    """A user who logs in sees themselves and everyone else, and who leaves."""
    expect(luca.get_by_role("heading", name="Hello, luca")).to_be_visible()
    expect(online(luca)).to_have_text(["fabio", "lucathis is you"])
    expect(online(fabio)).to_have_text(["fabiothis is you", "luca"])
    expect(online(luca).get_by_role("button")).to_have_count(0)
    button(fabio, "Log out").click()
    expect_login_page(expect, fabio)
    expect(online(luca)).to_have_text(["lucathis is you"])


@pytest.mark.parametrize("username", ["luca", "admin"])
def test_login_at_a_click(new_person, username, expect):
    """A button fills in the name and the password of a demo user, and logs in."""
    page = new_person().open_tab()
    button(page, f"Log in as {username}").click()
    expect(page.get_by_role("heading", name=f"Hello, {username}")).to_be_visible()


def test_wrong_password(new_person, expect):
    """A wrong password is shown as such, and logs no user in."""
    page = new_person().open_tab()
    expect(page.get_by_role("alert")).to_have_text("")
    page.get_by_label("Username").fill("luca")
    page.get_by_label("Password").fill("focaccia")
    button(page, "Log in").click()
    expect(page.get_by_role("alert")).to_have_text("The username or the password is wrong.")
    assert page.context.cookies() == []


def test_expiry(luca, fabio, flask_program, example, expect):
    """Both tabs of a session go to the login page when it expires, and another session stays."""
    second = open_tab(luca)
    restart(luca, 2, flask_program)
    expect_login_page(expect, luca, second, reason="^You were logged out after a time without activity.$")
    expect(online(fabio)).to_have_text(["fabiothis is you"])


def test_logout_in_one_tab(luca, fabio, example, expect):
    """A logout in one tab logs the other one out, and no other session; the code of the example hears of it."""
    second = open_tab(luca)
    button(luca, "Log out").click()
    expect_login_page(expect, luca)
    expect_login_page(expect, second, reason=OTHER_TAB)
    expect(online(fabio)).to_have_text(["fabiothis is you"])
    example.wait_for_output("The session of luca has ended: deleted\n")
    second.reload()
    expect_login_page(expect, second, reason=OTHER_TAB)


def test_logout_everywhere(luca, fabio, new_person, expect):
    """A login elsewhere is pushed to the open tabs; a logout in every browser reaches them, and no other user."""
    second = open_tab(luca)
    there = new_person().log_in("luca", "lasagne")
    for page in (luca, second):
        expect(page.get_by_text("You have also logged in with another browser.")).to_be_visible()
    for page in (there, fabio):
        expect(page.locator("#notice")).to_have_text("")
    button(luca, "Log out in every browser").click()
    expect_login_page(expect, luca)
    expect_login_page(expect, second, there, reason=OTHER_TAB)
    expect(online(fabio)).to_have_text(["fabiothis is you"])


def test_administrator(luca, fabio, admin, new_person, expect):
    """The administrator logs a user out in every browser, and the others stay."""
    there = new_person().log_in("luca", "lasagne")
    expect(online(admin)).to_have_text(["adminthis is you", "fabioLog out", "lucaLog out"])
    button(admin, "Log out luca").click()
    expect_login_page(expect, luca, there, reason=OTHER_TAB)
    for page in (admin, fabio):
        expect(online(page)).to_have_count(2)


def test_cut_off_at_the_end(new_person, cable, admin, expect):
    """A tab that was cut off while its session ended learns it when it comes back."""
    page = new_person(url=cable.url).log_in("luca", "lasagne")
    cut(cable, page)
    button(admin, "Log out luca").click()
    expect(online(admin, "luca")).to_have_count(0)
    expect(page.get_by_role("heading", name="Hello, luca")).to_be_visible()
    cable.repair()
    expect_login_page(expect, page)


def test_cut_off(new_person, cable, fabio, expect):
    """A tab that was cut off while its session lived goes on, and shows who is online now."""
    page = new_person(url=cable.url).log_in("luca", "lasagne")
    expect(online(page)).to_have_count(2)
    cut(cable, page)
    button(fabio, "Log out").click()
    expect_login_page(expect, fabio)
    cable.repair()
    expect(online(page)).to_have_text(["lucathis is you"])


def cut(cable: Any, page: Page) -> None:
    cable.cut()
    eventually(lambda: page.evaluate("!userSessions.socket.connected"))


def test_offline(luca, admin, expect):
    """A browser that was offline learns of the end too."""
    luca.context.set_offline(True)
    eventually(lambda: luca.evaluate("!userSessions.socket.connected"))
    button(admin, "Log out luca").click()
    expect(online(admin, "luca")).to_have_count(0)
    luca.context.set_offline(False)
    expect_login_page(expect, luca)


# A second connection of a page, made by hand, which keeps all it hears.
CONNECT = """() => new Promise((done) => {
    window.heard = [];
    window.raw = io({ forceNew: true });
    raw.onAny((event) => heard.push(event));
    raw.on("connect", () => done(raw.id));
})"""
SEND_KEY = "(data) => new Promise((done) => raw.emit('session_key', data, done))"


@pytest.fixture
def stranger(new_person: Callable[..., Any], luca: Page) -> Page:
    """A page without a session, with the script of socket.io-client."""
    page: Page = new_person().open_tab()
    page.add_script_tag(url=luca.locator("script[integrity]").get_attribute("src"))
    page.evaluate(CONNECT)
    return page


def test_forged_keys(luca, stranger, fabio):
    """A stranger joins nothing with what is no key of a live session."""
    lucas_sid = luca.evaluate(CONNECT)
    assert luca.evaluate(SEND_KEY, None) is True
    key = session_key(luca)
    forged = key.partition("_")[0] + "_" + "0" * 32
    tries = [lucas_sid, {"session_key": lucas_sid}, {"session_key": forged}, forged, key.lower(), key[:-1], None, {}]
    tries += ["", [], [key], 1, True, {"session_key": None}, {"session_key": {"session_key": key}}, "__proto__"]
    tries += ["x" * 3000]
    for count, wrong in enumerate(tries, 1):
        assert stranger.evaluate(SEND_KEY, wrong) is False, wrong
        eventually(lambda count=count: stranger.evaluate("heard.length") >= count)

    # What luca's connection alone hears: that its own wrong key is refused, and who goes.
    button(fabio, "Log out").click()
    eventually(lambda: luca.evaluate("heard.includes('presence')"))
    assert luca.evaluate(SEND_KEY, forged) is False
    eventually(lambda: luca.evaluate("heard.includes('logout')"))
    # Packets of one connection keep their order: had the stranger been sent something, it would be there before this.
    assert stranger.evaluate(SEND_KEY, forged) is False
    eventually(lambda: stranger.evaluate("heard.length") >= len(tries) + 1)
    assert stranger.evaluate("heard") == ["logout"] * (len(tries) + 1)


def test_visitor(luca, stranger, new_person, expect):
    """A visitor who is not logged in gets no names."""
    new_person().log_in("fabio", "focaccia")
    expect(online(luca, "fabio")).to_be_visible()
    assert stranger.evaluate("new Promise((done) => raw.emit('presence', done))") is False
    assert stranger.evaluate(SEND_KEY, None) is False
    eventually(lambda: stranger.evaluate("heard.length > 0"))
    assert stranger.evaluate("heard") == ["logout"]


def test_routes_after_the_end(luca, new_person, expect):
    """The routes answer 401 with a logout once the session has ended."""
    key = session_key(luca)
    button(luca, "Log out").click()
    expect_login_page(expect, luca)
    request = new_person().context.request
    headers = {"Cookie": f"session_key={key}"}
    url = luca.url.partition("login")[0]
    answers = [request.post(url + path, headers=headers) for path in ("logout-everywhere", "logout-user")]
    answers.append(request.get(url, headers=headers))
    assert [(answer.status, answer.json()) for answer in answers] == [(401, {"logout": True})] * 3


def test_next_login(new_person, fabio, expect):
    """A login of another user in the same browser ends the session before."""
    person = new_person()
    waiting = person.open_tab()
    first = person.log_in("luca", "lasagne")
    expect(online(fabio, "luca")).to_be_visible()
    button(waiting, "Log in as fabio").click()
    expect_login_page(expect, first, reason=OTHER_TAB)
    expect(waiting.get_by_role("heading", name="Hello, fabio")).to_be_visible()
    expect(online(fabio, "luca")).to_have_count(0)


def test_login_again(new_person, expect):
    """Another login of the same user in a browser keeps the session, under another key."""
    person = new_person()
    waiting = person.open_tab()
    first = person.log_in("luca", "lasagne")
    key = session_key(first)
    button(waiting, "Log in as luca").click()
    waiting.get_by_text("this is you").wait_for()
    assert session_key(waiting) != key
    expect(online(first)).to_have_text(["lucathis is you"])
    expect(first.locator("#notice")).to_have_text("")
    button(waiting, "Log out").click()
    expect_login_page(expect, first, reason=OTHER_TAB)


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
    page.reload()
    expect(online(page, "luca")).to_be_visible()
    new_person().log_in("fabio", "focaccia")
    expect(online(page, "fabio")).to_be_visible()
    storage = page.evaluate("[document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
    (cookie,) = person.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("session_key", True, "Lax")
    everything = "\n".join([*seen, page.content(), *storage, example.output])
    assert any(url.startswith("ws://") for url in seen), "the page went on polling"
    assert "fabio" in everything, "this test looks in the wrong places"
    assert cookie["value"].partition("_")[2] not in everything


def test_keyboard(new_person, ask, expect):
    """A keyboard is enough."""
    page = new_person().open_tab()
    expect(page.get_by_label("Username")).to_be_focused()
    page.keyboard.type("fabio")
    page.keyboard.press("Tab")
    page.keyboard.type("focaccia")
    page.keyboard.press("Enter")
    page.get_by_text("this is you").wait_for()
    ask(page)
    expect(button(page, "Stay logged in")).to_be_focused()
    page.keyboard.press("Enter")
    expect(warning(page)).to_be_hidden()
    button(page, "Log out").focus()
    page.keyboard.press("Enter")
    expect_login_page(expect, page)
    expect(page.get_by_label("Username")).to_be_focused()


def test_stay_logged_in(luca, fabio, ask, expect):
    """The warning counts down in each tab; to stay logged in in one of them closes it in all."""
    second = open_tab(luca)
    ask(luca)
    expect(warning(second)).to_contain_text(
        re.compile(r"You will be logged out in (300|2\d\d) seconds, in every tab\.")
    )
    button(second, "Stay logged in").click()
    for page in (luca, second):
        expect(warning(page)).to_be_hidden()
    expect(warning(fabio)).to_be_hidden()


def test_no_reaction(luca, ask, flask_program, expect):
    """Without a reaction to the warning the session ends in every tab."""
    second = open_tab(luca)
    ask(luca)
    expect(warning(second)).to_be_visible()
    restart(luca, 2, flask_program)
    expect_login_page(expect, luca, second, reason="without activity")


@pytest.mark.parametrize("width", [320, 375])
def test_phone(new_person, admin, ask, expect, width):
    """Nothing sticks out on a phone."""

    def sticks_out(page: Page) -> bool:
        return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")

    phone = {"viewport": {"width": width, "height": 700}}
    person = new_person(**phone)
    assert not sticks_out(person.open_tab())
    page = person.log_in("luca", "lasagne")
    new_person().log_in("luca", "lasagne")
    expect(page.locator("#notice")).not_to_have_text("")
    expect(online(page)).to_have_count(2)
    assert not sticks_out(page)
    small = new_person(**phone).log_in("admin", "antipasti")
    expect(online(small, "luca")).to_be_visible()
    assert not sticks_out(small)
    ask(page)
    assert not sticks_out(page)
    expect(button(page, "Stay logged in")).to_be_in_viewport(ratio=1)


def test_without_script(new_person, expect):
    """Without the script of socket.io-client the buttons of the page work."""
    person = new_person()
    person.context.route("**/socket.io.min.js", lambda route: route.abort())
    page = person.context.new_page()
    page.goto(person.url)
    button(page, "Log in as luca").click()
    expect(page.get_by_role("heading", name="Hello, luca")).to_be_visible()
    button(page, "Log out").click()
    expect_login_page(expect, page)


# Two tabs side by side, as they are in one browser; the page exists for the picture alone.
SIDE_BY_SIDE = """<!doctype html><style>
body {{ margin: 0; padding: 14px; background: #cfd6d1; font: 600 17px system-ui, sans-serif; color: #23211d }}
main {{ display: flex; gap: 14px }}
section {{ width: 386px; border-radius: 10px; overflow: hidden; background: #f6f4ee }}
h1 {{ margin: 0; padding: 8px 14px; background: #e7e3d8; font: 500 14px system-ui, sans-serif }}
h1::before {{ content: "●"; margin-right: 8px; color: #1d6b52 }}
img {{ display: block; width: 386px; height: 470px }}
p {{ margin: 12px 4px 0; height: 24px }}
i {{ position: absolute; width: 30px; height: 30px; margin: -15px; border-radius: 50%; background: #a3411c55;
     border: 3px solid #a3411c }}
</style><main>{tabs}</main><p>{caption}</p>{click}"""
TAB = '<section><h1>{name}</h1><img src="data:image/png;base64,{shot}"></section>'
TAB_SIZE = {"width": 386, "height": 470}
FRAME_SIZE = {"width": 814, "height": 571}


class Story:
    """The frames of the picture: two tabs, what happens, and where the click is."""

    def __init__(self, browser: Browser) -> None:
        self._frame = browser.new_page(viewport=FRAME_SIZE, device_scale_factor=1.5)
        self.frames: list[bytes] = []
        self.seconds: list[float] = []

    def show(self, tabs: list[Page], caption: str, seconds: float, *, click: Locator | None = None) -> None:
        """Add a frame that is shown so long. With `click`, the frame marks that element, which is clicked then."""
        shots = [base64.b64encode(tab.screenshot()).decode() for tab in tabs]
        html = [
            TAB.format(name=f"{name} tab", shot=shot) for name, shot in zip(("First", "Second"), shots, strict=True)
        ]
        mark = ""
        if click is not None:
            box, left = click.bounding_box(), 14 + 400 * tabs.index(click.page)
            mark = (
                f'<i style="left:{left + box["x"] + box["width"] / 2}px;top:{46 + box["y"] + box["height"] / 2}px"></i>'
            )
        self._frame.set_content(SIDE_BY_SIDE.format(tabs="".join(html), caption=caption, click=mark))
        self.frames.append(self._frame.screenshot())
        self.seconds.append(seconds)
        if click is not None:
            click.click()

    def save(self, path: Path) -> None:
        self._frame.close()
        pictures = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in self.frames]
        durations = [int(seconds * 1000) for seconds in self.seconds]
        pictures[0].save(
            path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=80, method=6
        )


def test_picture_of_readme(browser, new_person, flask_program, tmp_path, expect):
    """The picture of the README shows the example: a login, the warning, and a logout in both tabs."""
    is_kept = bool(os.environ.get("UPDATE_PICTURE"))
    person = new_person(viewport=TAB_SIZE, device_scale_factor=1.5, reduced_motion="reduce")
    first, second = tabs = [person.open_tab() for _ in range(2)]
    story = Story(browser)
    story.show(tabs, "Luca has two tabs open, and logs in.", 1.4, click=button(first, "Log in as luca"))
    first.get_by_text("this is you").wait_for()
    second.goto(first.url)
    second.get_by_text("this is you").wait_for()
    story.show(tabs, "Both tabs show who is online.", 1.2)
    new_person().log_in("fabio", "focaccia")
    for tab in tabs:
        expect(online(tab, "fabio")).to_be_visible()
    story.show(tabs, "Another user logs in, and both tabs show it at once.", 1.2)
    # The picture has the 20 seconds of the example; a test, which may be slow, has more.
    restart(first, 21 if is_kept else 301, flask_program)
    for tab in tabs:
        expect(warning(tab)).to_be_visible()
    story.show(tabs, "Before the session expires, both tabs warn.", 1.4)
    countdown = warning(second).get_by_role("paragraph")
    for _ in range(3):  # so that the picture shows other numbers
        expect(countdown).not_to_have_text(countdown.inner_text())
    second.wait_for_timeout(150)  # the other tab may show the next number a moment later
    story.show(tabs, "An answer in one tab closes the warning in both.", 1.4, click=button(second, "Stay logged in"))
    for tab in tabs:
        expect(warning(tab)).to_be_hidden()
    story.show(tabs, "Luca logs out in one tab.", 1.2, click=button(first, "Log out"))
    expect_login_page(expect, first)
    expect_login_page(expect, second, reason=OTHER_TAB)
    story.show(tabs, "Both tabs go to the login page at once.", 2.2)
    path = (DOCS if is_kept else tmp_path) / "two_tabs.webp"
    story.save(path)
    assert path.stat().st_size < 300_000
    with Image.open(path) as picture:
        assert picture.n_frames == len(story.frames)
