"""Applications with a login page in a real browser: what ends a login, in which tabs, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from site_pages import (
    LUCA,
    SITES,
    button,
    change_password,
    expect_login_page,
    expect_signed_in,
    fill_in,
    kept_after_restart,
    open_page,
    sign_in,
    sign_in_twice,
)

pytest.importorskip("socketio")

pytestmark = pytest.mark.browser

SECRET_KEY = "a secret key of the tests"

# The packages that a site needs, its program and the options of that.
PROGRAMS = {
    "fastapi": ("fastapi jinja2 uvicorn", "fastapi_site.py", ()),
    "flask-login": ("flask_login", "flask_login_site.py", ("--secret-key", SECRET_KEY)),
}
only_fastapi = pytest.mark.parametrize("program", ["fastapi"], indirect=True)
only_flask_login = pytest.mark.parametrize("program", ["flask-login"], indirect=True)


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The path of a site's program, and its options."""
    packages, name, options = PROGRAMS[request.param]
    for package in packages.split():
        pytest.importorskip(package)
    return str(SITES / name), *options


@pytest.fixture(scope="module")
def example(start_shared_example: Callable[..., Any], program: tuple[str, ...]) -> Any:
    """The site, with sessions that outlast every test."""
    script, *options = program
    return start_shared_example(*options, script=script)


def test_logout(new_person, expect):
    """A logout in one tab ends the login in the other one at once, and not that of another browser."""
    person, other = new_person(), sign_in(new_person())
    first, second = sign_in_twice(person)
    button(first, "Log out").click()
    expect_login_page(expect, first, second)
    assert "__Host-session_key" not in {cookie["name"] for cookie in person.context.cookies()}
    expect_signed_in(expect, other)


def test_logout_elsewhere(new_person, expect):
    """It ends the logins of this user in other browsers, at once; both tabs here and other users stay."""
    tabs, elsewhere = sign_in_twice(new_person()), sign_in_twice(new_person(), remember=True)
    fabio = sign_in(new_person(), username="fabio", password="focaccia")
    button(tabs[0], "Log out elsewhere").click()
    expect_login_page(expect, *elsewhere)
    expect_signed_in(expect, *tabs)
    expect_signed_in(expect, fabio, username="fabio")


def test_password(new_person, expect):
    """A changed password ends the logins elsewhere and keeps this one; a wrong one changes nothing."""
    tabs, elsewhere = sign_in_twice(new_person()), sign_in(new_person())
    change_password(tabs[0], "wrong", "pesto")
    expect(tabs[0].get_by_role("heading", name="Wrong password")).to_be_visible()
    expect_signed_in(expect, elsewhere)
    tabs[0].goto(elsewhere.url)
    change_password(tabs[0], "lasagne", "pesto")
    expect_login_page(expect, elsewhere)
    expect_signed_in(expect, *tabs)
    fill_in(elsewhere, **LUCA)
    expect(elsewhere.get_by_role("alert")).to_have_text("Wrong username or password.")
    change_password(tabs[0], "pesto", "lasagne")
    expect_signed_in(expect, *tabs)


def test_expiry(program, start_example, new_person, expect):
    """Both tabs go to the login page when the session expires; a remembered one has a timeout of its own."""
    url = start_example("--timeout", "2", script=program[0]).url
    remembered = sign_in(new_person(url=url), remember=True)
    person = new_person(url=url)
    first, second = open_page(person), open_page(person)
    fill_in(first, **LUCA)
    second.goto(url)
    # Whether they have seen the page or not: on a slow machine the session may expire before.
    expect_login_page(expect, first, second)
    expect_signed_in(expect, remembered)


def test_next(new_person, expect):
    """The login leads to the page that was asked for, and never to another site."""
    person = new_person()
    page = sign_in(person, "orders?of=yesterday")
    expect(page.get_by_role("heading", name="Orders of yesterday")).to_be_visible()
    button(page, "Log out").click()
    expect_login_page(expect, page)
    page.goto(person.url + "login?next=https://example.com/")
    fill_in(page, **LUCA)
    expect(page).to_have_url(person.url)


def test_back(new_person, expect):
    """After the logout the browser's way back shows the page of no user."""
    page = sign_in(new_person())
    page.get_by_role("link", name="Orders").click()
    expect(page.get_by_role("heading", name="Orders of today")).to_be_visible()
    button(page, "Log out").click()
    expect_login_page(expect, page)
    page.go_back()
    expect_login_page(expect, page)


def test_remember(new_person, expect):
    """A remembered login survives that the browser is closed, and any other one does not."""
    remembered, plain, again = new_person(), new_person(), new_person()
    sign_in(remembered, remember=True)
    sign_in(plain)
    again.context.add_cookies(kept_after_restart(remembered))
    page = open_page(again)
    expect_signed_in(expect, page)
    assert kept_after_restart(plain) == []
    button(page, "Log out").click()
    expect_login_page(expect, page)
    assert kept_after_restart(again) == []


@only_fastapi
def test_cookie_alone(new_person, expect):
    """A cookie that a browser has kept signs no user in after a logout elsewhere."""
    person, stale = new_person(), new_person()
    sign_in(person, remember=True)
    cookies = kept_after_restart(person)
    assert [cookie["name"] for cookie in cookies] == ["__Host-session_key"]
    button(sign_in(new_person()), "Log out elsewhere").click()
    stale.context.add_cookies(cookies)
    expect_login_page(expect, open_page(stale))


@only_fastapi
def test_api(new_person):
    """A script of the page, which takes JSON, is refused with 401 where a page is sent to the login."""
    page = open_page(new_person())
    ask = "fetch('/orders?of=today').then(async (answer) => [answer.status, await answer.json()])"
    assert page.evaluate(ask) == [401, {"logout": True}]
    fill_in(page, **LUCA)
    page.get_by_text("You are luca.").wait_for()
    status = page.evaluate("fetch('/orders?of=today').then((answer) => answer.status)")
    assert status == 200


@only_flask_login
def test_lost_cookie(new_person, expect):
    """A browser that has lost our cookie, which a permanent session of Flask's may outlive, is given it again."""
    person = new_person()
    first, second = sign_in_twice(person)
    person.context.clear_cookies(name="__Host-session_key")
    expect_signed_in(expect, first, second)
    button(first, "Log out").click()
    expect_login_page(expect, first, second)


@only_flask_login
def test_remember_cookie_alone(new_person, expect):
    """Neither a cookie of Flask-Login's own nor ours signs a user in after a logout everywhere else."""
    person, stale = new_person(), new_person()
    sign_in(person, remember=True)
    cookies = kept_after_restart(person)
    assert [cookie["name"] for cookie in cookies] == ["__Host-session_key"]
    button(sign_in(new_person()), "Log out elsewhere").click()
    stale.context.add_cookies(cookies)
    expect_login_page(expect, open_page(stale))
    token = pytest.importorskip("flask_login").encode_cookie("7", key=SECRET_KEY)
    stale.context.add_cookies([{"name": "remember_token", "value": token, "url": person.url}])
    expect_login_page(expect, open_page(stale))
    assert "remember_token" not in {cookie["name"] for cookie in stale.context.cookies()}
