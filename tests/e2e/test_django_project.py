"""The Django example in Chromium: Django's own login and admin, and a session that ends in both."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import EXAMPLES, copy_example, sessions_of
from npm_client import client_script

pytest.importorskip("django")
pytest.importorskip("simple_websocket")

pytestmark = pytest.mark.browser


def copy_project(folder: Path, more_settings: str = "") -> str:
    """Copy the example into an empty folder, so that its database is its own; return the program that starts it."""
    program = copy_example("django_project", folder)
    with (folder / "django_project" / "demo" / "settings.py").open("a") as settings:
        settings.write('PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]\n')  # the others are slow
        settings.write(more_settings)
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def project(start_shared_example: Callable[..., Any], program: str) -> Any:
    return start_shared_example("--timeout", "600", script=program)


@pytest.fixture
def example(project: Any, program: str) -> Any:
    """The example without a session."""
    with sessions_of(program) as manager:
        manager.deleteAllSessions()
    project.begin()
    return project


@pytest.fixture
def admin(new_person: Callable[..., Any]) -> Any:
    """A page in which the one who may use the admin is logged in."""
    return new_person().log_in("admin", "antipasti")


def key_cookie(context: Any) -> dict[str, Any]:
    (cookie,) = [cookie for cookie in context.cookies() if cookie["name"] == "session_key"]
    return cookie


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def online(page: Any) -> Any:
    return page.get_by_role("list", name="Online now").get_by_role("listitem")


def expect_login_page(expect: Any, *pages: Any, reason: str = "") -> None:
    for page in pages:
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        expect(page.locator("#reason")).to_contain_text(reason)


def enter_admin(context: Any, example: Any, *, live: bool = True) -> Any:
    """Open a page of the admin, which hears of a logout if it is `live`."""
    page = context.new_page()
    if not live:
        page.route("**/socket.io/**", lambda route: route.abort())
    page.goto(f"{example.url}admin/")
    page.get_by_role("heading", name="Site administration").wait_for()
    if live:
        assert page.evaluate(SHOW_KEY) is True
    return page


SHOW_KEY = "new Promise((answer) => userSessions.socket.emit('session_key', answer))"
"""The answer to this comes after all earlier events of the page: whether its session is live."""


def assert_at_login_of_admin(page: Any, expect: Any) -> None:
    expect(page.locator("#id_username")).to_be_visible()
    assert "/admin/login/" in page.url


def assert_signed_in(page: Any, expect: Any) -> None:
    """A page of the admin is as it was, and so is the next one."""
    page.get_by_role("link", name="Home", exact=True).or_(
        page.get_by_role("link", name="Django administration")
    ).first.click()
    expect(page.get_by_role("heading", name="Site administration")).to_be_visible()


def test_login_and_logout(new_person, example, expect):
    """Users see who is online, and log themselves out."""
    luca = new_person().log_in("luca", "lasagne")
    cookie = key_cookie(luca.context)
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Lax", False)
    fabio = new_person().log_in("fabio", "focaccia")
    expect(online(luca)).to_have_text(["fabio", "lucathis is you"])
    second = luca.context.new_page()
    second.goto(example.url)
    second.get_by_text("this is you").wait_for()
    button(second, "Log out").click()
    expect_login_page(expect, second)
    expect_login_page(expect, luca, reason="in another tab")
    expect(online(fabio)).to_have_text(["fabiothis is you"])
    example.wait_for_output("The session of luca has ended: deleted\n")
    button(luca, "Log in as luca").click()
    expect(luca.get_by_role("heading", name="Hello, luca")).to_be_visible()


def test_expiry(admin, example, program, new_person, expect):
    """A session that expires ends the page and the admin, and no other session."""
    inside, second = enter_admin(admin.context, example), enter_admin(admin.context, example)
    elsewhere = new_person().log_in("admin", "antipasti")
    silent = enter_admin(elsewhere.context, example, live=False)
    expire(admin, program)
    expect_login_page(expect, admin, reason="after a time without activity")
    for page in (inside, second):
        assert_at_login_of_admin(page, expect)
    assert_signed_in(silent, expect)
    expire(elsewhere, program)
    expect_login_page(expect, elsewhere, reason="after a time without activity")
    silent.get_by_role("link", name="Groups", exact=True).first.click()
    assert_at_login_of_admin(silent, expect)


def expire(page: Any, program: str) -> None:
    """Let the session of a page expire soon, as any process that shares it can."""
    with sessions_of(program) as manager:
        manager.setSessionTimeOut(2)
        assert manager.restartSessionTimer(key_cookie(page.context)["value"])


def test_warning(start_example, tmp_path, new_person, expect):
    """A page warns before its session expires, and its button prolongs the session."""
    example = start_example("--timeout", "600", "--warning", "599", script=copy_project(tmp_path))
    page = new_person(url=example.url).log_in("admin", "antipasti")
    expect(page.get_by_role("dialog")).to_contain_text("seconds, in every tab.")
    with page.expect_response(example.url) as answer:
        button(page, "Stay logged in").click()
    assert answer.value.ok


def test_log_out_user(admin, fabio, new_person, expect, example):
    """Staff log a user out in every browser, and the others stay."""
    pages = [new_person().log_in("luca", "lasagne") for _ in range(2)]
    button(admin, "Log out luca").click()
    expect_login_page(expect, *pages, reason="by the administrator")
    expect(online(admin)).to_have_text(["adminthis is you", "fabioLog out"])
    expect(fabio.get_by_role("button", name="Log out admin")).to_have_count(0)
    headers = {"X-CSRFToken": fabio.locator("[name=csrfmiddlewaretoken]").get_attribute("value")}
    request = fabio.context.request
    assert request.post(example.url + "logout-user", data={"username": "admin"}, headers=headers).status == 403
    assert admin.context.request.post(example.url + "logout-user", data={"username": "fabio"}).status == 403


def test_logout_everywhere(admin, new_person, expect, example):
    """A login elsewhere is pushed to the open page; a logout in every browser reaches it, and the admin."""
    inside = enter_admin(admin.context, example)
    there = new_person().log_in("admin", "antipasti")
    expect(admin.get_by_text("You have also logged in with another browser.")).to_be_visible()
    expect(there.locator("#notice")).to_have_text("")
    button(there, "Log out in every browser").click()
    expect_login_page(expect, admin, there)
    assert_at_login_of_admin(inside, expect)


def test_deactivated(admin, new_person, expect, example):
    """A user who is deactivated in the admin is logged out at once."""
    luca = new_person().log_in("luca", "lasagne")
    page = enter_admin(admin.context, example)
    for now_active in (False, True):
        page.goto(f"{example.url}admin/auth/user/")
        page.get_by_role("link", name="luca", exact=True).click()
        page.get_by_label("Active").set_checked(now_active)
        page.get_by_role("button", name="Save", exact=True).click()
        expect(page.get_by_text("was changed successfully")).to_be_visible()
        expect_login_page(expect, luca, reason="You were logged out")


def test_wrong_password(new_person, expect):
    """A wrong password is shown as such, and logs no user in."""
    page = new_person().open_tab()
    for username in ("luca", "nobody"):
        page.get_by_label("Username").fill(username)
        page.get_by_label("Password").fill("wrong")
        button(page, "Log in").click()
        expect(page.get_by_role("alert")).to_have_text("The username or the password is wrong.")
    assert [cookie["name"] for cookie in page.context.cookies()] == ["csrftoken"]


def test_dead_key(new_person, example, expect):
    """A forged key, and that of a session that has ended, open nothing."""
    page = new_person().log_in("luca", "lasagne")
    ended = key_cookie(page.context)
    page.get_by_role("button", name="Log out", exact=True).click()
    expect(page.get_by_label("Password")).to_be_visible()
    forged = ended["value"].partition("_")[0] + "_" + "0" * 32
    for value in (ended["value"], forged, "'; DROP TABLE auth_user"):
        page.context.add_cookies([{**ended, "value": value.replace(";", "%3B")}])
        page.goto(example.url)
        expect(page.get_by_label("Password")).to_be_visible()
    page = page.context.new_page()  # the admin asks for an icon that is not there, which is no complaint of ours
    page.goto(f"{example.url}admin/")
    expect(page.locator("#id_username")).to_be_visible()


class Staff:
    """A user who may use the admin, in a browser with two pages of it, and in a second browser."""

    def __init__(self, admin: Any, new_person: Callable[..., Any], example: Any, name: str) -> None:
        self.name = name
        self._example = example
        self.administrator = enter_admin(admin.context, example)
        self.create(name)
        self.change(lambda page: [page.get_by_label(right).check() for right in ("Staff status", "Superuser status")])
        first, second = (new_person().log_in(name, "risotto-giallo") for _ in range(2))
        self.own_page = first
        self.tabs = [enter_admin(first.context, example) for _ in range(2)]
        self.elsewhere = enter_admin(second.context, example)
        self.silent = enter_admin(second.context, example, live=False)

    def create(self, name: str) -> None:
        """Let the administrator add a user, and show the page that changes one."""
        self.administrator.goto(f"{self._example.url}admin/auth/user/add/")
        self.administrator.get_by_label("Username").fill(name)
        self._fill_in_password("risotto-giallo")
        self._click("Save", "was added successfully")
        self.url = self.administrator.url

    def change(self, fill_in: Callable[[Any], Any], button: str = "Save and continue editing") -> None:
        """Let the administrator change the user who was added last."""
        self.administrator.goto(self.url)
        fill_in(self.administrator)
        self._click(button, "was changed successfully")

    def delete(self) -> None:
        """Let the administrator delete the user who was added last."""
        self.administrator.goto(self.url)
        self.administrator.locator("a.deletelink").click()
        self._click("Yes, I’m sure", "was deleted successfully")

    def set_password(self) -> None:
        """Let the administrator set another password of the user who was added last."""
        self.administrator.goto(self.url.replace("change/", "password/"))
        self._fill_in_password("gnocchi-verdi")
        self._click("Change password", "Password changed successfully")

    def _fill_in_password(self, password: str) -> None:
        for field in ("#id_password1", "#id_password2"):
            self.administrator.locator(field).fill(password)

    def _click(self, button: str, answer: str) -> None:
        self.administrator.get_by_role("button", name=button, exact=True).click()
        self.administrator.get_by_text(answer).wait_for()

    def assert_kept(self, expect: Any, *pages: Any) -> None:
        """The pages hear of no logout, and each is let in again."""
        for page in pages:
            if page is not self.silent:
                assert page.evaluate(SHOW_KEY) is True
            assert_signed_in(page, expect)

    def assert_ended(self, expect: Any, *pages: Any) -> None:
        """The pages hear of the logout; the one without a socket learns it at the next click."""
        for page in pages:
            if page is self.silent:
                page.get_by_role("link", name="Groups", exact=True).first.click()
            assert_at_login_of_admin(page, expect)


@pytest.fixture
def anna(admin: Any, new_person: Callable[..., Any], example: Any) -> Any:
    anna = Staff(admin, new_person, example, "anna")
    yield anna
    for name in ("anna", "giulia"):  # the next test adds them again
        delete_user(anna.administrator, example, name)


def delete_user(page: Any, example: Any, name: str) -> None:
    page.goto(f"{example.url}admin/auth/user/?q={name}")
    link = page.get_by_role("link", name=name, exact=True)
    if link.count():
        link.click()
        page.locator("a.deletelink").click()  # its role depends on the version
        page.get_by_role("button", name="Yes, I’m sure").click()
        page.get_by_text("was deleted successfully").wait_for()


def test_log_out_in_the_admin(anna, expect):
    """The admin's own logout ends the other page of the same browser, and nothing else."""
    anna.tabs[0].get_by_role("button", name="Log out").click()
    anna.assert_ended(expect, anna.tabs[1])
    expect_login_page(expect, anna.own_page, reason="You were logged out")
    anna.assert_kept(expect, anna.elsewhere, anna.silent)


def test_own_password(anna, expect):
    """A user who changes the password stays signed in there, and is signed out elsewhere."""
    page, second = anna.tabs
    second.evaluate("window.neverReloaded = true")
    page.get_by_role("link", name="Change password").click()
    page.locator("#id_old_password").fill("risotto-giallo")
    for field in ("#id_new_password1", "#id_new_password2"):
        page.locator(field).fill("gnocchi-verdi")
    page.get_by_role("button", name="Change my password").click()
    expect(page.get_by_role("heading", name="Password change successful")).to_be_visible()
    anna.assert_ended(expect, anna.elsewhere, anna.silent)
    expect(online(anna.own_page)).to_have_text(["adminLog out", "annathis is you"])
    assert second.evaluate("window.neverReloaded") is True
    for page in anna.tabs:
        assert_signed_in(page, expect)


@pytest.mark.parametrize("how", ["another password", "deactivated", "deleted"])
def test_locked_out(anna, expect, how):
    """A user whom the administrator locks out is signed out everywhere; the administrator stays."""
    if how == "another password":
        anna.set_password()
    elif how == "deactivated":
        anna.change(lambda page: page.get_by_label("Active").uncheck())
    else:
        anna.delete()
    anna.assert_ended(expect, *anna.tabs, anna.elsewhere, anna.silent)
    expect_login_page(expect, anna.own_page, reason="You were logged out")
    assert_signed_in(anna.administrator, expect)


def test_renamed(anna, expect):
    """A user who is renamed stays signed in everywhere; a new user with the former name is another one."""
    pages = [*anna.tabs, anna.elsewhere, anna.silent]
    anna.change(lambda page: page.get_by_label("Username").fill("giulia"))
    anna.assert_kept(expect, *pages)
    for page in pages:
        expect(page.locator("#user-tools strong")).to_have_text("giulia")
    anna.create("anna")
    anna.set_password()
    anna.delete()
    anna.assert_kept(expect, *pages)
    expect(anna.own_page.get_by_role("heading", name="Hello, anna")).to_be_visible()


RUNSERVER = """
import os
import sys

import django
from django.core.management import call_command, execute_from_command_line

sys.stdout.reconfigure(line_buffering=True)
sys.argv = ["manage.py", "runserver", "--noreload", "127.0.0.1:0"]
os.environ["DJANGO_SETTINGS_MODULE"] = "demo.settings"
django.setup()
call_command("migrate", verbosity=0)
from demo.users import create_demo_users
create_demo_users()
execute_from_command_line(sys.argv)
"""


def test_runserver(start_example, tmp_path, new_person, expect):
    """Django's development server pushes logouts too, and prints no traceback."""
    copy_project(tmp_path)
    (tmp_path / "django_project" / "runserver.py").write_text(RUNSERVER)
    example = start_example(script=str(tmp_path / "django_project" / "runserver.py"))
    admin = new_person(url=example.url).log_in("admin", "antipasti")
    inside = enter_admin(admin.context, example)
    elsewhere = new_person(url=example.url).log_in("admin", "antipasti")
    button(elsewhere, "Log out in every browser").click()
    expect_login_page(expect, admin, elsewhere)
    assert_at_login_of_admin(inside, expect)
    handshake = requests.get(f"{example.url}socket.io/?EIO=4&transport=polling")
    assert '"upgrades":[]' in handshake.text  # else browsers try a WebSocket
    upgrade = requests.get(f"{example.url}socket.io/?EIO=4&transport=websocket", headers={"Upgrade": "websocket"})
    assert upgrade.status_code == 400


def scripts_of_the_page() -> list[str]:
    """Return from `docs/frameworks/django.md` the scripts of any page, in the admin, and the admin's template."""
    page = (EXAMPLES.parent / "docs" / "frameworks" / "django.md").read_text()
    _, home, template = re.findall(r"^```html\n(.+?)^```$", page, re.DOTALL | re.MULTILINE)
    scripts = "".join(re.findall(r"<script src=.+?</script>", home, re.DOTALL))
    begin = '{% extends "admin/base_site.html" %}{% load static %}{% block extrahead %}{{ block.super }}'
    return [f"{begin}{{% if user.is_authenticated %}}{scripts}{{% endif %}}{{% endblock %}}", template]


def use_template(folder: Path, template: str) -> None:
    (folder / "django_project/demo/templates/admin/base_site.html").write_text(template)


def serve_cdn(context: Any) -> None:
    script = {"path": client_script(), "headers": {"Access-Control-Allow-Origin": "*"}}  # what the CDN has
    context.route("https://cdn.jsdelivr.net/**", lambda route: route.fulfill(**script))


@pytest.mark.parametrize("which", [0, 1], ids=["any page", "admin"])
def test_templates_of_the_page(start_example, tmp_path, new_person, expect, which):
    """The templates in `docs/frameworks/django.md` let pages hear of a logout, without a static file of the project."""
    program = copy_project(tmp_path)
    use_template(tmp_path, scripts_of_the_page()[which])
    example = start_example("--timeout", "600", script=program)
    admin = new_person(url=example.url).log_in("admin", "antipasti")
    serve_cdn(admin.context)
    inside = enter_admin(admin.context, example)
    admin.get_by_role("button", name="Log out", exact=True).click()
    if which == 0:
        expect_login_page(expect, inside, reason="in another tab")
        assert inside.url == f"{example.url}login?reason=deleted"
        return
    assert_at_login_of_admin(inside, expect)
    inside.get_by_label("Username").fill("admin")
    inside.get_by_label("Password").fill("antipasti")
    inside.get_by_role("button", name="Log in").click()
    assert_signed_in(inside, expect)


@pytest.mark.parametrize("which", [None, 0, 1], ids=["example", "any page", "admin"])
def test_admin_without_cookie(start_example, tmp_path, browser, expect, which):
    """A page that cannot present a key is left once, and not again and again."""
    program = copy_project(tmp_path, 'USER_SESSIONS["COOKIE"] = None')
    if which is not None:
        use_template(tmp_path, scripts_of_the_page()[which])
    example = start_example("--timeout", "600", script=program)
    with browser.new_context() as context:
        serve_cdn(context)
        page = context.new_page()
        page.add_init_script("sessionStorage.loads = Number(sessionStorage.loads ?? 0) + 1")
        page.goto(f"{example.url}admin/")
        assert page.evaluate("typeof io") == "undefined"  # no login, no script
        page.get_by_label("Username").fill("admin")
        page.get_by_label("Password").fill("antipasti")
        page.get_by_role("button", name="Log in").click()
        page.wait_for_function("() => sessionStorage.loads === '3'")  # the login page, one inside, and what follows it
        page.goto(f"{example.url}admin/")
        expect(page.get_by_role("heading", name="Site administration")).to_be_visible()
        page.evaluate("window.neverReloaded = true")
        for _ in range(3):  # each is answered after the logout that comes with the one before
            assert page.evaluate(SHOW_KEY) is False
        assert page.evaluate("window.neverReloaded") is True
        assert_signed_in(page, expect)
