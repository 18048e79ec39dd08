"""An answer that arrives late, to a request with an ended key, leaves the browser the login that it has since."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from http.cookies import SimpleCookie
from typing import Any

import pytest
from web_sites import Answer, AsyncDjangoSite, DjangoSite, FastApiSite, FlaskSite, Site

from users_session_manager import SessionManager, SessionRejected


class FlaskLoginSite(FlaskSite):
    """The site of these tests, with the guard and the login of Flask-Login."""

    def build(self, **names: Any) -> None:
        from flask import Flask, request
        from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user

        from users_session_manager.integrations.flask import UserSessions

        class User(UserMixin):
            def __init__(self, name: str) -> None:
                self.id = name

        app = Flask(__name__)
        app.secret_key = "secret"
        login_manager = LoginManager(app)
        login_manager.login_view = "login"  # a refusal then stores a message in Flask's session, and sends its cookie
        login_manager.user_loader(User)
        sessions = UserSessions(app, login_manager=login_manager)

        @app.post("/login")
        def login() -> Any:
            login_user(User(request.args["name"]))
            return {"key": sessions.manager.getUserSessions(request.args["name"])[0]["key"]}

        @app.post("/logout")
        def logout() -> Any:
            logout_user()
            return {}

        @app.get("/me")
        @login_required
        def me() -> Any:
            return {"username": current_user.id}

        @app.get("/optional")
        def optional() -> Any:
            return {"username": getattr(current_user, "id", None)}

        @app.post("/renew")
        def renew() -> Any:
            return {"key": sessions.renew_key()}

        @app.post("/signs-in-and-rejects")
        def signs_in_and_rejects() -> Any:
            login_user(User("Luca"))
            raise SessionRejected

        self.application = app


# The packages that it needs, and what it is.
SITES = {
    "flask": (["flask"], FlaskSite),
    "flask-login": (["flask", "flask_login"], FlaskLoginSite),
    "fastapi": (["fastapi"], FastApiSite),
    "django": (["django"], DjangoSite),
    "django-asgi": (["django"], AsyncDjangoSite),
}


class Browser:
    """Sends the cookies that it has when a request begins, and takes those of an answer when that arrives."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.cookies: dict[str, str] = {}

    def begin(self, method: str, path: str, cookies: dict[str, str] | None = None, **query: Any) -> Answer:
        """Return the answer that the site gives to a request; it has not arrived yet."""
        pairs = self.cookies if cookies is None else cookies
        headers = [("Cookie", "; ".join(f"{name}={value}" for name, value in pairs.items()))] if pairs else []
        return Site.send(self._site, method, path, headers, **query)

    def receive(self, answer: Answer) -> Answer:
        for name, value in answer.headers:
            if name.lower() == "set-cookie":
                for morsel in SimpleCookie(value).values():
                    if morsel["max-age"] == "0":
                        self.cookies.pop(morsel.key, None)
                    else:
                        self.cookies[morsel.key] = morsel.value
        return answer

    def request(self, method: str, path: str, **query: Any) -> Answer:
        return self.receive(self.begin(method, path, **query))


@pytest.fixture(params=SITES)
def browser(request: pytest.FixtureRequest, manager: SessionManager) -> Iterator[Browser]:
    packages, kind = SITES[request.param]
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"could not import {package!r}")
    site = kind(manager, is_async=request.param == "django-asgi")
    yield Browser(site)
    site.close()


def log_in(browser: Browser, name: str = "Luca") -> str:
    key: str = browser.request("POST", "/login", name=name).json["key"]
    return key


def is_logged_in(browser: Browser, name: str = "Luca") -> bool:
    answer = browser.request("GET", "/me")
    return answer.status == 200 and answer.json["username"] == name


# A guarded view refuses the request, the other one finds no session.
@pytest.mark.parametrize("path", ["/me", "/optional"])
class TestLateAnswer:
    def test_login_after_an_end(self, browser, manager, path):
        """The request comes before a login, which the user makes since the session has ended."""
        manager.deleteSession(log_in(browser))
        late = browser.begin("GET", path)
        log_in(browser)
        browser.receive(late)
        assert is_logged_in(browser)

    def test_login_overtakes(self, browser, manager, path):
        """The login is answered before the request that has been sent with the key of before."""
        manager.deleteSession(log_in(browser))
        before = dict(browser.cookies)
        log_in(browser)
        browser.receive(browser.begin("GET", path, before))
        assert is_logged_in(browser)

    @pytest.mark.parametrize("name", ["Luca", "Fabio"])
    def test_login_ends_the_session(self, browser, manager, path, name):
        """A login of the same user or of another one ends the key that a request under way has."""
        log_in(browser)
        before = dict(browser.cookies)
        log_in(browser, name)
        browser.receive(browser.begin("GET", path, before))
        assert is_logged_in(browser, name)

    def test_renewal(self, browser, manager, path):
        """So does a renewal of the key."""
        log_in(browser)
        before = dict(browser.cookies)
        assert browser.request("POST", "/renew").status == 200
        browser.receive(browser.begin("GET", path, before))
        assert is_logged_in(browser)


def test_login_that_is_undone(browser, manager):
    """A request that signs in and is then refused leaves the browser the login that it has since."""
    log_in(browser)
    late = browser.begin("POST", "/signs-in-and-rejects")
    assert late.status == 401
    log_in(browser)
    browser.receive(late)
    assert is_logged_in(browser)


def test_logout(browser, manager):
    """A logout deletes the cookies, also those of a session that has ended."""
    for ended in (False, True):
        key = log_in(browser)
        assert browser.cookies
        if ended:
            manager.deleteSession(key)
        browser.request("POST", "/logout")
        assert browser.cookies == {}
