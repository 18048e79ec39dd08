"""The actions of a user in a browser on the small sites of `tests/e2e/sites`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

SITES = Path(__file__).parents[1] / "e2e" / "sites"
LUCA = {"username": "luca", "password": "lasagne"}


def open_page(person: Any, path: str = "") -> Page:
    """Return a new tab of a person's browser at a path, wherever the site sends it."""
    page: Page = person.open_tab()
    if path:
        page.goto(person.url + path)
    return page


def fill_in(page: Page, *, username: str, password: str, remember: bool = False) -> None:
    """Send the form of the login page."""
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(password)
    if remember:
        page.get_by_label("Remember me").check()
    button(page, "Log in").click()


def sign_in(person: Any, path: str = "", *, remember: bool = False, **user: str) -> Page:
    """Return a tab in which a user, luca by default, has signed in, and whose Socket.IO client waits for a logout."""
    page = open_page(person, path)
    fill_in(page, **(user or LUCA), remember=remember)
    wait_until_live(page)
    return page


def sign_in_twice(person: Any, **options: Any) -> tuple[Page, Page]:
    """Return two such tabs of one browser."""
    first = sign_in(person, **options)
    second = open_page(person, "orders?of=today")
    wait_until_live(second)
    return first, second


def wait_until_live(page: Page) -> None:
    page.get_by_role("status").get_by_text("Live.").wait_for()


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def expect_login_page(expect: Any, *pages: Page) -> None:
    """The pages show the login page, as they are or by a push, and do so after a reload too."""
    for page in pages:
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def expect_signed_in(expect: Any, *pages: Page, username: str = "luca") -> None:
    """The pages are those of a user, and still are when they ask the server again."""
    for page in pages:
        page.reload()
        expect(page.get_by_text(f"You are {username}.")).to_be_visible()
        wait_until_live(page)


def change_password(page: Page, current: str, new: str) -> None:
    page.get_by_label("Current password").fill(current)
    page.get_by_label("New password").fill(new)
    with page.expect_navigation():  # a reload before the answer would fail
        button(page, "Change password").click()


def kept_after_restart(person: Any) -> list[Any]:
    """Return the cookies that a browser still has after it was closed and opened again."""
    return [cookie for cookie in person.context.cookies() if cookie["expires"] != -1]
