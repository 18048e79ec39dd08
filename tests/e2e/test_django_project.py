"""The Django example in Chromium: Django's own login and admin, and a session that ends in both."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from npm_client import EXAMPLES

pytest.importorskip("django")
pytest.importorskip("simple_websocket")

pytestmark = pytest.mark.browser


def start_project(start: Callable[..., Any], folder: Path) -> Any:
    """Start a copy of the example in an empty folder, so that its database is its own."""
    shutil.copytree(EXAMPLES / "django_project", folder / "django_project", ignore=shutil.ignore_patterns("instance"))
    (folder / "shared").symlink_to(EXAMPLES / "shared")
    return start("--timeout", "600", script=str(folder / "django_project" / "app.py"))


@pytest.fixture(scope="module")
def project(start_shared_example: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return start_project(start_shared_example, tmp_path_factory.mktemp("project"))


@pytest.fixture
def example(project: Any) -> Any:
    """The example without a session."""
    with requests.Session() as administrator:
        administrator.get(project.url + "login/").raise_for_status()
        for path, form in (("login/", {"username": "admin", "password": "antipasti"}), ("logout-everyone/", {})):
            token = {"X-CSRFToken": administrator.cookies["csrftoken"]}
            administrator.post(project.url + path, form, headers=token).raise_for_status()
    return project


@pytest.fixture
def admin(new_person: Callable[..., Any]) -> Any:
    """A page in which the one who may use the admin is logged in."""
    return new_person().log_in("admin", "antipasti")


def key_cookie(context: Any) -> dict[str, Any]:
    (cookie,) = [cookie for cookie in context.cookies() if cookie["name"] == "session_key"]
    return cookie


def assert_logged_out_without_reload(page: Any, expect: Any) -> None:
    expect(page.get_by_role("heading", name="You are logged out")).to_be_visible()
    expect(page.locator("#inside")).to_be_hidden()
    expect(page.locator("#sessions tr")).to_have_count(0)
    assert page.evaluate("window.neverReloaded") is True


def enter_admin(context: Any, example: Any) -> Any:
    page = context.new_page()
    page.goto(f"{example.url}admin/")
    page.get_by_role("heading", name="Site administration").wait_for()
    return page


def test_login_and_logout(new_person, example, expect):
    """Users see who is logged in, and log themselves out."""
    luca = new_person().log_in("luca", "lasagne")
    cookie = key_cookie(luca.context)
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Lax", False)
    fabio = new_person().log_in("fabio", "focaccia")
    expect(luca.locator("#sessions th")).to_have_text(["luca this is you", "fabio"])
    expect(luca.locator("#my-time")).to_have_text(re.compile(r"^(10:00|9:\d\d)$"))
    expect(luca.get_by_role("button", name="Log everyone out")).to_have_count(0)
    second = luca.context.new_page()
    second.goto(example.url)
    expect(second.get_by_text("Connected", exact=True)).to_be_visible()
    second.get_by_role("button", name="Log out").click()
    expect(second.get_by_role("heading", name="Log in")).to_be_visible()
    expect(luca.get_by_role("heading", name="You are logged out")).to_be_visible()
    expect(fabio.locator("#sessions th")).to_have_text(["fabio this is you"])
    luca.get_by_role("button", name="Log in again").click()
    expect(luca.get_by_label("Password")).to_be_visible()


def test_expiry(start_example, tmp_path, new_person, expect):
    """A session that expires ends the page and the admin."""
    example = start_project(start_example, tmp_path)
    admin = new_person(url=example.url).log_in("admin", "antipasti")
    inside = enter_admin(admin.context, example)
    admin.evaluate("window.neverReloaded = true")
    for seconds, answer in (("1", "It has to be at least 2 seconds."), ("2", "Set to 2 seconds.")):
        admin.get_by_label("Timeout in seconds").fill(seconds)
        admin.get_by_role("button", name="Set").click()
        expect(admin.locator("#timeout-answer")).to_have_text(answer)
    admin.get_by_role("button", name="I’m still here").click()
    assert_logged_out_without_reload(admin, expect)
    inside.goto(f"{example.url}admin/auth/user/")
    expect(inside.locator("#id_username")).to_be_visible()
    assert "/admin/login/" in inside.url


def test_log_everyone_out(admin, new_person, expect, example):
    """Staff log everyone out."""
    luca = new_person().log_in("luca", "lasagne")
    inside = enter_admin(admin.context, example)
    for page in (luca, admin):
        page.evaluate("window.neverReloaded = true")
    admin.get_by_role("button", name="Log everyone out").click()
    for page in (luca, admin):
        assert_logged_out_without_reload(page, expect)
    inside.reload()
    expect(inside.locator("#id_username")).to_be_visible()


def test_deactivated(admin, new_person, expect, example):
    """A user who is deactivated in the admin is logged out at once."""
    luca = new_person().log_in("luca", "lasagne")
    luca.evaluate("window.neverReloaded = true")
    page = enter_admin(admin.context, example)
    for now_active in (False, True):
        page.goto(f"{example.url}admin/auth/user/")
        page.get_by_role("link", name="luca", exact=True).click()
        page.get_by_label("Active").set_checked(now_active)
        page.get_by_role("button", name="Save", exact=True).click()
        expect(page.get_by_text("was changed successfully")).to_be_visible()
        assert_logged_out_without_reload(luca, expect)


def test_wrong_password(new_person, expect):
    """A wrong password is shown as such, and logs no user in."""
    page = new_person().open_tab()
    for username in ("luca", "nobody"):
        page.get_by_label("Username").fill(username)
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("That username and password do not go together.")
        expect(page.get_by_label("Username")).to_have_value(username)
    assert [cookie["name"] for cookie in page.context.cookies()] == ["csrftoken"]


def test_dead_key(new_person, example, expect):
    """A forged key, and that of a session that has ended, open nothing."""
    page = new_person().log_in("luca", "lasagne")
    ended = key_cookie(page.context)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Password")).to_be_visible()
    forged = ended["value"].partition("_")[0] + "_" + "0" * 32
    for value in (ended["value"], forged, "'; DROP TABLE auth_user"):
        page.context.add_cookies([{**ended, "value": value.replace(";", "%3B")}])
        page.goto(example.url)
        expect(page.get_by_label("Password")).to_be_visible()
        assert "session_key" not in {cookie["name"] for cookie in page.context.cookies()}
    page = page.context.new_page()  # the admin asks for an icon that is not there, which is no complaint of ours
    page.goto(f"{example.url}admin/")
    expect(page.locator("#id_username")).to_be_visible()
