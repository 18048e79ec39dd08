"""`user-sessions.js` in Chromium, on a site of each framework."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MAX_WAIT, Example

SITES = Path(__file__).parents[1] / "support" / "script_sites.py"


@pytest.fixture(scope="module", params=["flask", "django", "fastapi"])
def example(request: pytest.FixtureRequest, start_shared_example: Callable[..., Example]) -> Example:
    pytest.importorskip(request.param)
    return start_shared_example(request.param, script=str(SITES))


@pytest.fixture
def sign_in(new_person: Callable[..., Any], example: Example) -> Callable[..., Any]:
    """Returns a page in which a user is signed in, and joined."""

    def sign_in(name: str, person: Any = None) -> Any:
        page = (person or new_person()).context.new_page()
        page.goto(example.url + "inside")
        page.get_by_label("Name").fill(name)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Inside").wait_for()
        wait_until_joined(page)
        return page

    return sign_in


def wait_until_joined(page: Any) -> None:
    page.wait_for_function("() => window.userSessions?.socket?.connected")
    page.evaluate("() => new Promise((done) => userSessions.socket.emit('session_key', null, done))")


def refuse(page: Any) -> Any:
    """Present the key that a page does not have once more; return what the logout carries."""
    page.wait_for_function("() => window.userSessions?.socket?.connected")
    return page.evaluate(
        "new Promise((done) => userSessions.socket.on('logout', done).emit('session_key', null, () => {}))"
    )


def open_tab(page: Any) -> Any:
    tab = page.context.new_page()
    tab.goto(page.url)
    wait_until_joined(tab)
    return tab


def test_sign_out(sign_in, expect):
    """The tab that signs out gets the answer of the site, and another tab goes to the login page with the reason."""
    page = sign_in("luca")
    other = open_tab(page)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Goodbye")).to_be_visible()
    other.wait_for_url("**/login?reason=deleted")


def test_key_in_variable(sign_in, new_person, example):
    """A page that keeps its key in a variable presents that key, and hears of the end."""
    page = sign_in("luca")
    [key] = [cookie["value"] for cookie in page.context.cookies() if "session_key" in cookie["name"]]
    other = new_person().context.new_page()
    other.goto(example.url + "login")
    other.evaluate(
        """(key) => {
            userSessions.key = () => key;
            window.joined = new Promise((done) => (userSessions.onjoin = () => done(true)));
            userSessions.socket.disconnect().connect();
        }""",
        key,
    )
    assert other.evaluate("joined") is True
    page.get_by_role("button", name="Sign out").click()
    other.wait_for_url("**/login?reason=deleted")


@pytest.mark.slow
def test_fifty_logouts(sign_in, new_person, expect):
    """The answer of the site is never replaced by the login page."""
    person = new_person()
    for _ in range(50):
        page = sign_in("luca", person)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading")).not_to_have_text("Inside")
        assert page.url.endswith("/goodbye"), page.url
        page.close()


def test_download(sign_in):
    """A download does not stop the page from listening."""
    page = sign_in("luca")
    other = open_tab(page)
    with page.expect_download():
        page.get_by_role("link", name="Download").click()
    other.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login?reason=deleted", timeout=MAX_WAIT * 1000)


def test_back_button(sign_in, expect):
    """After a logout the back button shows the login page, whether the browser has kept the page or requests it."""
    page = sign_in("luca")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Goodbye")).to_be_visible()
    page.go_back(wait_until="commit")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_back_from_another_page(sign_in):
    """A page to which the back button leads listens again."""
    page = sign_in("luca")
    page.get_by_role("link", name="Another page").click()
    page.wait_for_url("**/inside?page=2")
    page.go_back()
    wait_until_joined(page)
    other = open_tab(page)
    other.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login?reason=deleted")


def test_ended_before_joining(sign_in, example):
    """A page that is shown although its session has ended is left at once; one that is always refused, only once."""
    page = sign_in("luca")
    shown = page.context.request.get(example.url + "inside").text()
    page.context.clear_cookies()
    page.route("**/inside", lambda route: route.fulfill(body=shown, content_type="text/html"))
    page.reload()
    page.wait_for_url("**/login")
    page.goto(example.url + "inside")
    page.evaluate("window.neverReloaded = true")
    assert refuse(page) == {"reason": None}
    assert page.evaluate("window.neverReloaded") is True


def test_stranger(new_person, example):
    """A page without a session is refused, and not requested again and again."""
    page = new_person().context.new_page()
    page.goto(example.url + "login")
    page.evaluate("window.neverReloaded = true")
    assert refuse(page) == {"reason": None}
    assert page.evaluate("window.neverReloaded") is True


def test_two_slashes(sign_in, example):
    """A path that begins with two slashes leads to no other host."""
    page = sign_in("luca")
    page.evaluate("""() => {
        document.querySelector("script[data-login]").removeAttribute("data-login");
        history.replaceState(null, "", location.origin + "//elsewhere.test/");
    }""")
    other = page.context.new_page()
    other.goto(example.url + "inside")
    with page.expect_navigation():
        other.get_by_role("button", name="Sign out").click()
    assert page.url.startswith(example.url)


def test_trusted_types(sign_in, expect):
    """Under a policy that lets no script make HTML of a text, the warning is shown all the same."""
    policy = "default-src 'self'; img-src data:; require-trusted-types-for 'script'; trusted-types 'none'"

    def add_policy(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, headers={**answer.headers, "Content-Security-Policy": policy})

    page = sign_in("luca")
    page.route("**/inside", add_policy)
    page.reload()
    wait_until_joined(page)
    page.evaluate("userSessions.socket.listeners('session_expiring')[0](30)")
    expect(page.get_by_role("dialog")).to_have_text(re.compile("^Seconds until you are signed out: .*Stay signed in$"))


class TestWarning:
    @pytest.fixture
    def example(self, start_example: Callable[..., Example]) -> Example:
        """A site that warns half a second after each request."""
        return start_example("flask", "--timeout", "60", "--warning", "59.5", script=str(SITES))

    def test_stay(self, sign_in, expect):
        """A dialog asks, in each tab; an answer in one of them prolongs the session, and closes it in all."""
        page = sign_in("luca")
        dialogs = [tab.get_by_role("dialog") for tab in (page, open_tab(page))]
        for dialog in dialogs:
            expect(dialog).to_have_text(re.compile(r"^Seconds until you are signed out: \d\dStay signed in$"))
        page.evaluate("document.querySelector('dialog').addEventListener('close', () => (window.dialogClosed = true))")
        with page.expect_response("**/inside") as answer:
            dialogs[0].get_by_role("button", name="Stay signed in").click()
        assert answer.value.ok
        page.wait_for_function("() => window.dialogClosed")
        expect(dialogs[0]).to_be_visible()  # the next countdown has come to its warning

    def test_callback(self, sign_in, expect):
        """A page may show the warning and the end itself."""
        page = sign_in("luca")
        page.evaluate("() => { window.warned = new Promise((done) => (userSessions.onwarning = done)) }")
        other = open_tab(page)  # a request, so there is another countdown
        assert 0 < page.evaluate("warned") <= 59.5
        page.evaluate("() => { window.left = new Promise((done) => (userSessions.onlogout = done)) }")
        expect(other.get_by_role("dialog")).to_be_visible()
        other.keyboard.press("Escape")
        other.get_by_role("button", name="Sign out").click()
        assert page.evaluate("left") == "deleted"
        assert page.url.endswith("/inside")


class TestExpiry:
    @pytest.fixture
    def example(self, start_example: Callable[..., Example]) -> Example:
        return start_example("flask", "--timeout", "20", "--warning", "10", script=str(SITES))

    def test_expired(self, sign_in):
        """A page whose session expires goes to the login page, with the reason and the way back."""
        page = sign_in("luca")
        page.wait_for_url("**/login?reason=expired&next=%2Finside", timeout=2 * MAX_WAIT * 1000)
