"""The Flask extension: what it has beside what `test_web.py` checks in every framework."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

pytest.importorskip("flask")

from flask import (
    Blueprint,
    Flask,
    Response,
    render_template_string,
    request,
    send_file,
    stream_with_context,
    url_for,
)
from flask.views import MethodView
from watched_store import CountingStore

from users_session_manager import (
    AuthenticationTooOld,
    MemoryStore,
    SessionError,
    SessionManager,
    SessionRejected,
    StoreUnavailable,
    TooManySessions,
)
from users_session_manager.integrations._script import SCRIPT
from users_session_manager.integrations.flask import (
    UserSessions,
    current_session,
    passive,
    session_optional,
    session_required,
)
from users_session_manager.keys import new_key

UNKNOWN = new_key()  # issued by this process, and no session has it
COOKIE = "__Host-session_key"
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
GUARDED = ("/me", "/async/me", "/passive", "/class", "/area/me")


def make_app(sessions: UserSessions | None = None, *, debug: bool = False, **config: Any) -> Flask:
    app = Flask(__name__)
    app.debug = debug
    app.config.update(TESTING=True, **{f"USER_SESSIONS_{name}": value for name, value in config.items()})
    sessions = sessions or UserSessions()
    sessions.init_app(app)

    @app.post("/login")
    def login() -> Any:
        return {"session_key": sessions.sign_in(request.form["name"]), "now": current_session.username}

    @app.get("/login")
    def login_page() -> str:
        return sessions.next_page()

    @app.post("/logout")
    def logout() -> Any:
        return {"ended": sessions.sign_out(), "now": bool(current_session)}

    @app.get("/recent")
    @session_required(max_age=3600)
    def recent() -> Any:
        return {"username": current_session.username}

    @app.route("/me", methods=["GET", "POST"])
    @session_required
    def me() -> Any:
        return {"username": current_session.username}

    @app.get("/async/me")
    @session_required
    async def async_me() -> Any:
        return {"username": current_session.username}

    @app.get("/passive")
    @session_required(passive=True)
    def passive() -> Any:
        return {"username": current_session.username}

    class Me(MethodView):
        decorators = [session_required]  # noqa: RUF012  # Flask's way

        def get(self) -> Any:
            return {"username": current_session.username}

    app.add_url_rule("/class", view_func=Me.as_view("class"))

    area = Blueprint("area", __name__, url_prefix="/area")
    area.before_request(session_required(lambda: None))

    @area.get("/me")
    def area_me() -> Any:
        return {"username": current_session.username}

    app.register_blueprint(area)

    @app.get("/open")
    def open_to_all() -> str:
        return "hello"

    @app.get("/greeting")
    def greeting() -> str:
        name = "{% if current_session %}{{ current_session.username }}{% else %}stranger{% endif %}"
        return render_template_string("hello " + name)

    @app.get("/file")
    @session_required
    def file() -> Any:
        return "picture", 200, {"Cache-Control": "private, max-age=60"}

    @app.get("/docs/<path:rest>")
    @session_required
    def documents(rest: str) -> str:
        return rest

    return app


def client_of(app: Flask) -> Any:
    # Its jar would put the cookies it knows in place of those a test sends.
    return app.test_client(use_cookies=False)


@pytest.fixture
def client(manager: SessionManager) -> Any:
    return client_of(make_app())


def header(key: str) -> dict[str, str]:
    return {"Session-Key": key}


def cookie(key: str, name: str = COOKIE) -> dict[str, str]:
    return {"Cookie": f"{name}={key}"}


def assert_logged_out(answer: Any) -> None:
    assert (answer.status_code, answer.json) == (401, {"logout": True})
    assert answer.headers["Cache-Control"] == "no-store, private"


class TestGuard:
    def test_kinds_of_views(self, client, manager, clock):
        """A function, a coroutine function, a class and a whole blueprint are guarded, and prolong the session."""
        key = manager.loadNewSession("Luca")
        for path in GUARDED:
            assert_logged_out(client.get(path))
            assert_logged_out(client.get(path, headers=cookie(UNKNOWN)))
            clock.turn(10)
            answer = client.get(path, headers=header(key))
            assert (answer.status_code, answer.json["username"]) == (200, "Luca")
            assert answer.headers["Cache-Control"] == "no-store, private"
            assert manager.getSessionTimeLeft(key) == (2990 if path == "/passive" else 3000)

    def test_open_views(self, client, manager, clock):
        """An open view prolongs nothing; one that does not ask is left alone."""
        key = manager.loadNewSession("Luca")
        clock.turn(1000)
        assert client.get("/greeting", headers=header(key)).text == "hello Luca"
        answer = client.get("/open", headers=header(key))
        assert "Cache-Control" not in answer.headers
        assert "Vary" not in answer.headers
        assert manager.getSessionTimeLeft(key) == 2000

    def test_stored_answer(self, client, manager):
        """An answer that a view lets caches store is still not for all clients."""
        answer = client.get("/file", headers=header(manager.loadNewSession("Luca")))
        assert answer.headers["Cache-Control"] == "private, max-age=60"
        assert set(answer.vary) == {"Cookie", "Session-Key"}

    def test_keeps_name(self):
        """A guarded view keeps its name and its docstring."""

        @session_required(passive=True)
        def profile() -> None:
            """Who you are."""

        assert (profile.__name__, profile.__doc__) == ("profile", "Who you are.")

    def test_wrong_max_age(self):
        """A `max_age` that is no number of seconds is refused where it is written."""
        for max_age in ("60", -1, float("nan"), float("inf"), True):
            with pytest.raises((TypeError, ValueError), match="max_age"):
                session_required(max_age=max_age)(lambda: None)


class TestOptional:
    def test_view(self, manager, clock):
        """A view that is open to all prolongs the session if there is one, and has it."""
        app = make_app()

        @session_optional
        async def home() -> Any:
            return {"username": current_session.username if current_session else None}

        app.add_url_rule("/home", view_func=home)
        client, key = client_of(app), manager.loadNewSession("Luca")
        clock.turn(1000)
        for headers, name in ((header(key), "Luca"), (header(UNKNOWN), None), (cookie(UNKNOWN), None), ({}, None)):
            answer = client.get("/home", headers=headers)
            assert (answer.status_code, answer.json) == (200, {"username": name})
            assert answer.headers["Cache-Control"] == "no-store, private"
        assert manager.getSessionTimeLeft(key) == 3000

    def test_application(self, manager, clock, tmp_path):
        """A whole application prolongs, but for static files, passive views and what does not exist."""
        app = make_app()
        app.static_folder = str(tmp_path)
        (tmp_path / "style.css").write_text("x")
        app.register_blueprint(Blueprint("shop", __name__, static_folder=tmp_path, static_url_path="/shop"))
        app.before_request(session_optional(lambda: None))
        client, key = client_of(app), manager.loadNewSession("Luca")
        for path, left in (("/open", 3000), ("/me", 3000), ("/greeting", 3000), ("/passive", 2000), ("/none", 2000)):
            clock.turn(1000)
            client.get(path, headers=header(key))
            assert manager.getSessionTimeLeft(key) == left, path
            manager.restartSessionTimer(key)
        clock.turn(1000)
        for path in ("/static/style.css", "/shop/style.css"):
            with client.get(path, headers=header(key)) as answer:
                assert answer.text == "x"
        assert manager.getSessionTimeLeft(key) == 2000
        assert_logged_out(client.get("/me", headers=header(UNKNOWN)))

    def test_open_answer(self, manager):
        """An answer that does not depend on the session may be stored as before."""
        app = make_app()
        app.before_request(session_optional(lambda: None))
        for headers in ({}, header(manager.loadNewSession("Luca")), header(UNKNOWN)):
            answer = client_of(app).get("/open", headers=headers)
            assert (answer.status_code, "Cache-Control" in answer.headers, "Vary" in answer.headers) == (
                200,
                False,
                False,
            )

    def test_preflight(self, manager):
        """An open view answers a preflight itself."""
        app = make_app()
        app.before_request(session_optional(lambda: None))
        app.add_url_rule("/cors", view_func=lambda: ("", 204), methods=["PUT", "OPTIONS"])
        answer = client_of(app).options("/cors", headers={"Access-Control-Request-Method": "PUT"})
        assert answer.status_code == 204

    def test_asked_once(self, manager, monkeypatch):
        """With another guard and `current_session` the store is asked once; data that was stored before stays."""
        manager.close()
        store = CountingStore()
        sessions = UserSessions(manager=SessionManager(store=store))
        app = make_app(sessions)
        app.before_request(session_optional(lambda: None))

        @app.before_request
        def write() -> None:
            if request.args:
                current_session.data = request.args["data"]

        @app.get("/data")
        @session_required
        def data() -> Any:
            return {"data": current_session.data}

        client, key = client_of(app), sessions.manager.loadNewSession("Luca")
        for path in ("/me", "/greeting", "/open", "/data"):
            store.asked.clear()
            assert client.get(path, headers=header(key)).status_code == 200
            assert len(store.asked) == 1, path
        resume = sessions.manager.resumeSession
        # A shared store returns the session as it was then.
        monkeypatch.setattr(sessions.manager, "resumeSession", lambda key: copy(resume(key)))
        assert client.get("/data?data=cart", headers=header(key)).json == {"data": "cart"}
        store.unreachable = True
        assert client.get("/open", headers=header(key)).status_code == 503
        assert client.get("/open").status_code == 200

    def test_events(self, manager, heard):
        """A dead key is one rejection a request, however many ask."""
        app = make_app()
        app.before_request(session_optional(lambda: None))
        assert_logged_out(client_of(app).get("/me", headers=header(UNKNOWN)))
        assert heard.names() == ["error"]


class TestCaches:
    """Shared caches and answers that depend on a session."""

    @pytest.fixture
    def answer(self, manager: SessionManager, tmp_path: Path) -> Any:
        (tmp_path / "invoice.txt").write_text("of Luca")

        def answer(sends: Any, **config: Any) -> Any:
            app = make_app()
            app.config.update(config)
            app.add_url_rule("/invoice", view_func=session_required(lambda: sends(tmp_path / "invoice.txt")))
            with client_of(app).get("/invoice", headers=header(manager.loadNewSession("Luca"))) as answer:
                assert answer.text == "of Luca"
                assert set(answer.vary) == {"Cookie", "Session-Key"}
                return answer.headers["Cache-Control"]

        return answer

    def test_send_file(self, answer):
        """The `Cache-Control` of `send_file` is not the view's."""
        assert answer(send_file) == "no-store, private"
        assert answer(send_file, SEND_FILE_MAX_AGE_DEFAULT=3600) == "no-store, private"

    def test_own(self, answer):
        """The `Cache-Control` of the view stays, for a file too."""
        assert answer(lambda path: send_file(path, max_age=60)) == "public, max-age=60"

        def private(path: Path) -> Any:
            response = send_file(path, max_age=60)
            response.headers["Cache-Control"] = "private, max-age=60"
            return response

        assert answer(private) == "private, max-age=60"
        assert answer(lambda path: (path.read_text(), {"Cache-Control": "no-cache"})) == "no-cache"

    def test_own_vary(self, manager):
        """The headers that the view names stay, and none is named twice."""
        app = make_app()
        app.add_url_rule("/menu", view_func=session_required(lambda: ("pasta", {"Vary": "Accept-Language, cookie"})))
        answer = client_of(app).get("/menu", headers=header(manager.loadNewSession("Luca")))
        assert sorted(each.lower() for each in answer.vary) == ["accept-language", "cookie", "session-key"]

    def test_varies(self, client, manager):
        """The answer varies in any case: an application may change the rest afterwards."""
        for headers in (header(manager.loadNewSession("Luca")), {}):
            assert set(client.get("/me", headers=headers).vary) >= {"Cookie", "Session-Key"}


class TestCurrentSession:
    def test_template(self, client, manager):
        """Templates have it, and it is false without a session."""
        key = manager.loadNewSession("Luca")
        answers = [client.get("/greeting", headers=headers) for headers in (header(key), cookie(key))]
        assert [answer.text for answer in answers] == ["hello Luca"] * 2
        answers = [client.get("/greeting", headers=headers) for headers in (header(UNKNOWN), cookie(UNKNOWN), {})]
        assert [(answer.status_code, answer.text) for answer in answers] == [(200, "hello stranger")] * 3
        assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store, private"}

    def test_ends_in_between(self, manager):
        """It stays readable when its session ends during the request."""
        key = manager.loadNewSession("Luca")
        with make_app().test_request_context(headers=header(key)):
            assert current_session
            manager.deleteSession(key)
            assert current_session.username == "Luca"

    def test_no_user(self, manager):
        """Without a session it says what to do; otherwise it is as `None`, which a template shows as nothing."""
        with make_app().test_request_context():
            for use in (lambda: current_session.username, lambda: setattr(current_session, "data", 1)):
                with pytest.raises(AttributeError, match=r"no user is signed in.*@session_required.*flask\.md"):
                    use()
            assert not hasattr(current_session, "username")
            assert (current_session == None, repr(current_session)) == (True, "None")  # noqa: E711
            assert render_template_string("[{{ current_session.username }}]") == "[]"

    def test_asked_once(self, manager, heard):
        """The store is asked once a request."""
        with make_app().test_request_context(headers=header(UNKNOWN)):
            assert not current_session
            assert not current_session
        assert heard.names() == ["error"]

    def test_application_context(self, client, manager):
        """Requests in one application context do not share it."""
        key = manager.loadNewSession("Luca")
        with client.application.app_context():
            assert client.get("/greeting", headers=header(key)).text == "hello Luca"
            assert client.get("/greeting").text == "hello stranger"
            assert_logged_out(client.get("/me"))

    def test_repr(self, manager):
        """Its `repr` has no secret."""
        key = manager.loadNewSession("Luca")
        with make_app().test_request_context(headers=header(key)):
            assert current_session.username == "Luca"
            assert repr(current_session) == f"<RequestSession {key.partition('_')[0]}>"
        assert key.partition("_")[2] not in repr(current_session)


class TestSignIn:
    def test_cookie_header(self, client, manager):
        """The answer to a login is not to be stored, and its cookie is exactly this; browsers send it back."""
        answer = client.post("/login", data={"name": "Luca"})
        key = answer.json["session_key"]
        assert answer.json["now"] == manager.getUsernameFromSessionKey(key) == "Luca"
        assert answer.headers["Set-Cookie"] == f"{COOKIE}={key}; HttpOnly; Path=/; SameSite=Lax; Secure"
        assert answer.headers["Cache-Control"] == "no-store, private"
        browser = client.application.test_client()
        browser.post("/login", data={"name": "Fabio"}, base_url="https://localhost")
        assert browser.get("/me", base_url="https://localhost").json["username"] == "Fabio"

    def test_twice_in_a_request(self, manager):
        """The last login of a request counts."""
        sessions = UserSessions()
        with make_app(sessions).test_request_context():
            sessions.sign_in("Luca")
            key = sessions.sign_in("Fabio")
            assert manager.getLoggedUsers() == ["Fabio"]
            assert (current_session.key, current_session.username) == (key, "Fabio")

    def test_wrong_values(self, manager):
        """A login that the manager refuses changes nothing."""
        sessions, key = UserSessions(), manager.loadNewSession("Luca", data=1)
        with make_app(sessions).test_request_context(headers=header(key)):
            for username, timeout in (("", None), (None, None), (False, None), ("Luca", 1), ("Luca", "60")):
                with pytest.raises((TypeError, ValueError)):
                    sessions.sign_in(username, timeout=timeout)
            with pytest.raises(ValueError, match="overlap"):
                sessions.renew_key(overlap=-1)
        assert (list(manager.sessions), manager.getSessionData(key)) == ([key], 1)

    def test_user_id(self, manager):
        """The user id is an int, a UUID or a str, and decides whose session goes on under a new key."""
        sessions = UserSessions()
        for user_id in (7, UUID(int=7), "seven"):
            with make_app(sessions).test_request_context():
                first = sessions.sign_in("Luca", data="cart", userId=user_id, securityStamp="a stamp")
                assert (current_session.userId, current_session.username) == (str(user_id), "Luca")
                assert manager.getSession(first).securityStamp == "a stamp"
                key = sessions.sign_in("Luca Rossi", userId=user_id)
                assert (list(manager.sessions), current_session.data) == ([key], "cart")
                sessions.sign_in("Luca", userId=8)
                assert (current_session.userId, current_session.data) == ("8", None)
                with pytest.raises(TypeError, match="user id"):
                    sessions.sign_in("Luca", userId=7.0)
            manager.deleteAllSessions()

    def test_never_stored(self, manager):
        """An answer with a cookie is not to be stored, whatever the view says."""
        sessions = UserSessions()
        app = make_app(sessions)
        app.add_url_rule("/stored", view_func=lambda: (sessions.sign_in("Luca"), 200, {"Cache-Control": "max-age=60"}))
        assert client_of(app).get("/stored").headers["Cache-Control"] == "no-store, private"


class TestSignOut:
    @pytest.mark.parametrize("carry", [header, cookie])
    def test_says_whether(self, client, manager, carry):
        """It says whether there was a session, deletes the cookie, and its answer is not to be stored."""
        answer = client.post("/logout", headers=carry(manager.loadNewSession("Luca")))
        assert answer.json == {"ended": True, "now": False}
        assert answer.headers["Cache-Control"] == "no-store, private"
        if carry is cookie:
            assert_deletes_cookie(answer)
        for headers in ({}, carry(UNKNOWN)):
            assert client.post("/logout", headers=headers).json == {"ended": False, "now": False}


def assert_deletes_cookie(answer: Any, name: str = COOKIE) -> None:
    (line,) = answer.headers.getlist("Set-Cookie")
    secure = "; Secure" if name.startswith("__Host-") else ""
    expected = f"{name}=; expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; Max-Age=0; Path=/; SameSite=Lax{secure}"
    assert line == expected


class TestRefusal:
    def test_login_page(self, manager):
        """A browser is sent to the login page and back, and keeps its cookie until it logs in."""
        for login in ("login_page", "/login"):
            client = client_of(make_app(LOGIN_URL=login))
            answer = client.get("/me?a=1&b=%2F", headers=BROWSER | cookie(UNKNOWN))
            assert (answer.status_code, answer.location) == (303, "/login?next=%2Fme%3Fa%3D1%26b%3D%252F")
            assert answer.headers["Cache-Control"] == "no-store, private"
            assert "Set-Cookie" not in answer.headers
            assert client.get(answer.location).text == "/me?a=1&b=%2F"

    def test_login_page_elsewhere(self, manager):
        """The URL of a login page keeps its query."""
        client = client_of(make_app(LOGIN_URL="https://sso.example.test/in?for=app"))
        answer = client.get("/me", headers=BROWSER)
        assert answer.location == "https://sso.example.test/in?for=app&next=%2Fme"

    def test_prefix(self, manager):
        """Below a prefix the way back has the prefix too."""
        client = client_of(make_app(LOGIN_URL="login_page"))
        answer = client.get("/me", headers=BROWSER, base_url="https://localhost/app")
        assert answer.location == "/app/login?next=%2Fapp%2Fme"

    def test_no_way_back(self, manager):
        """A request that cannot be repeated, or whose path could name another site, has no way back."""
        client = client_of(make_app(LOGIN_URL="login_page"))
        assert client.post("/me", headers=BROWSER).location == "/login"
        assert client.get("/docs/a\\b", headers=BROWSER).location == "/login"

    def test_next_page(self, client):
        """The way back leads to this site alone."""
        wrong = ["//evil.test", "/\\evil.test", "https://evil.test", "/\t/evil.test", "\\", "", "javascript:1", "/a\nb"]
        for path in wrong:
            assert client.get("/login", query_string={"next": path}).text == "/"

    def test_json(self, client, manager):
        """A client that takes JSON as gladly as HTML gets JSON; a browser without a login page gets a page."""
        with_page = client_of(make_app(LOGIN_URL="login_page"))
        for accept in ("*/*", "application/json", "application/json, text/html", "", "image/png"):
            assert_logged_out(with_page.get("/me", headers={"Accept": accept}))
        answer = client.get("/me", headers=BROWSER)
        assert (answer.status_code, answer.mimetype) == (401, "text/html")
        assert "Please sign in." in answer.text

    def test_no_api(self, manager):
        """A site without an API sends every client to the login page, and answers with pages."""
        client = client_of(make_app(LOGIN_URL="login_page", API=False))
        for accept in ("*/*", "application/json", ""):
            answer = client.get("/me", headers={"Accept": accept})
            assert (answer.status_code, answer.location) == (303, "/login?next=%2Fme")
        manager.setMaxSessionsPerUser(1, "reject")
        manager.loadNewSession("Luca")
        assert client.post("/login", data={"name": "Luca"}).mimetype == "text/html"
        with pytest.raises(SessionError, match="USER_SESSIONS_API"):
            client_of(make_app(API=False)).get("/open")

    @pytest.mark.parametrize("path", ["/login", "/recent", "/me"])
    def test_pages(self, manager, clock, monkeypatch, path):
        """A browser gets a page where a client of an API gets JSON: for 403, 409 and 503."""

        def fail(*_: Any) -> Any:
            raise StoreUnavailable("no answer")

        client, key = client_of(make_app(LOGIN_URL="login_page")), manager.loadNewSession("Luca", timeout=1e9)
        manager.setMaxSessionsPerUser(1, "reject")
        clock.turn(1e8)
        if path == "/me":
            monkeypatch.setattr(clock.store, "restart", fail)
        said = {
            "/recent": (403, {"reauthenticate": True}, "enter your password again"),
            "/login": (409, {"tooManySessions": True}, "sign out elsewhere first"),
            "/me": (503, {"unavailable": True}, "try again"),
        }
        status, body, text = said[path]
        options = {"headers": header(key)} if path != "/login" else {"data": {"name": "Luca"}, "method": "POST"}
        answer = client.open(path, **options)
        assert (answer.status_code, answer.json) == (status, body)
        options["headers"] = options.get("headers", {}) | BROWSER
        answer = client.open(path, **options)
        assert (answer.status_code, answer.mimetype) == (status, "text/html")
        assert text in answer.text

    def test_catch_all(self, manager, clock):
        """The guard answers itself, whatever handles all exceptions, also for what the view raises."""
        app = make_app()
        area = Blueprint("catching", __name__, url_prefix="/catching")

        def catch(_: Exception) -> Any:
            return {"caught": True}, 500

        area.register_error_handler(Exception, catch)
        app.register_error_handler(Exception, catch)

        @area.get("/me")
        @session_required
        def me() -> Any:
            return {"username": current_session.username}

        @area.get("/recent")
        @session_required(max_age=60)
        def recent() -> Any:
            return {}

        @area.get("/signs-in")
        @session_required
        def signs_in() -> Any:
            manager.loadNewSession("Luca")
            return {}

        @area.get("/fails")
        @session_required
        async def fails() -> Any:
            raise StoreUnavailable("no answer")

        app.register_blueprint(area)
        client, key = client_of(app), manager.loadNewSession("Luca")
        assert_logged_out(client.get("/catching/me"))
        clock.turn(100)
        manager.setMaxSessionsPerUser(1, "reject")
        for path, status in (("recent", 403), ("signs-in", 409), ("fails", 503)):
            answer = client.get(f"/catching/{path}", headers=header(key))
            assert (answer.status_code, "caught" in answer.json) == (status, False)

    def test_own_answer_of_blueprint(self, manager):
        """A blueprint may answer in its own way too, before the application."""
        app = make_app()
        app.register_error_handler(SessionRejected, lambda _: ("application", 403))
        area = Blueprint("own", __name__, url_prefix="/own")
        area.before_request(session_required(lambda: None))
        area.register_error_handler(SessionRejected, lambda error: (f"blueprint: {type(error).__name__}", 403))
        area.add_url_rule("/", view_func=lambda: "x")
        app.register_blueprint(area)
        assert client_of(app).get("/own/").text == "blueprint: SessionRejected"
        assert client_of(app).get("/me").text == "application"

    def test_extension_that_answers_errors(self, manager):
        """An extension with a handler of its own in place of Flask's, such as Flask-RESTful, changes nothing."""
        app = make_app()
        app.handle_user_exception = lambda error: app.make_response(({"message": "Internal Server Error"}, 500))
        client = client_of(app)
        for path in GUARDED:
            assert_logged_out(client.get(path))
            assert client.get(path, headers=header(manager.loadNewSession("Luca"))).json == {"username": "Luca"}


class TestPreflight:
    """A CORS preflight carries no key."""

    PREFLIGHT = {"Origin": "https://front.example", "Access-Control-Request-Method": "PUT"}  # noqa: RUF012

    def test_passes(self, client, manager):
        """Each guard answers it, without a session and without the view."""
        for path in GUARDED:
            answer = client.options(path, headers=self.PREFLIGHT)
            assert (answer.status_code, answer.text) == (200, ""), path
            assert "GET" in answer.allow

    def test_other_options(self, client, manager):
        """Any other `OPTIONS` of a guarded blueprint needs a session."""
        assert_logged_out(client.options("/area/me", headers={"Origin": "https://front.example"}))

    def test_view_that_lists_it(self, manager):
        """A view that merely lists the method does not give its data away; one that answers it is called."""
        app = make_app()

        @app.route("/listed", methods=["GET", "OPTIONS"])
        @session_required
        def listed() -> str:
            return "data"

        def own() -> Any:
            return "", 204, {"Access-Control-Allow-Origin": "https://front.example"}

        own.provide_automatic_options = False
        app.add_url_rule("/own", view_func=session_required(own), methods=["PUT", "OPTIONS"])

        class Resource(MethodView):
            decorators = [session_required]  # noqa: RUF012  # Flask's way
            put = options = staticmethod(own)

        app.add_url_rule("/class-with-options", view_func=Resource.as_view("class_with_options"))
        client = client_of(app)
        assert client.options("/listed", headers=self.PREFLIGHT).text == ""
        assert_logged_out(client.options("/listed"))
        for path in ("/own", "/class-with-options"):
            assert client.options(path, headers=self.PREFLIGHT).status_code == 204
            assert_logged_out(client.put(path, headers=self.PREFLIGHT))
            assert_logged_out(client.options(path))

    def test_own_answers(self, manager, clock):
        """The application may answer in its own way."""
        app = make_app(LOGIN_URL="/login")
        app.register_error_handler(SessionRejected, lambda _: ("who are you?", 403))
        app.register_error_handler(AuthenticationTooOld, lambda _: ("your password, please", 403))
        client, key = client_of(app), manager.loadNewSession("Luca", timeout=1e9)
        clock.turn(1e8)
        answer = client.get("/me")
        assert (answer.status_code, answer.text) == (403, "who are you?")
        assert client.get("/recent", headers=BROWSER | cookie(key)).text == "your password, please"

    def test_503_is_not_stored(self, client, manager, clock, monkeypatch):
        """A view that asks an unreachable store itself is answered 503, which is not to be stored."""

        def fail(*_: Any) -> Any:
            raise StoreUnavailable("no answer")

        client.application.add_url_rule("/user", view_func=lambda: manager.getUsernameFromSessionKey(UNKNOWN))
        monkeypatch.setattr(clock.store, "get", fail)
        for path in ("/user", "/me"):
            answer = client.get(path, headers=cookie(UNKNOWN))
            assert (answer.status_code, answer.headers["Cache-Control"]) == (503, "no-store, private")


class TestSettings:
    def test_defaults(self, manager):
        """The defaults are in the configuration."""
        app = make_app()
        settings = {name: value for name, value in app.config.items() if name.startswith("USER_SESSIONS_")}
        assert settings == {
            "USER_SESSIONS_STORE": None,
            "USER_SESSIONS_TIMEOUT": None,
            "USER_SESSIONS_LIFETIME": None,
            "USER_SESSIONS_MAX_SESSIONS_PER_USER": None,
            "USER_SESSIONS_OVERFLOW": "evict",
            "USER_SESSIONS_WARNING": None,
            "USER_SESSIONS_HEADER": "Session-Key",
            "USER_SESSIONS_COOKIE": "session_key",
            "USER_SESSIONS_COOKIE_SECURE": True,
            "USER_SESSIONS_COOKIE_SAMESITE": "Lax",
            "USER_SESSIONS_COOKIE_DOMAIN": None,
            "USER_SESSIONS_COOKIE_PARTITIONED": False,
            "USER_SESSIONS_PROXIES": 0,
            "USER_SESSIONS_TRUSTED_ORIGINS": (),
            "USER_SESSIONS_LOGIN_URL": None,
            "USER_SESSIONS_API": True,
            "USER_SESSIONS_USERNAME": "username",
            "USER_SESSIONS_SCRIPT": "/user-sessions.js",
        }

    def test_policy(self, manager):
        """The manager has the timeout, the limits and the warning of the settings, also after a `close`."""
        sessions = UserSessions()
        make_app(sessions, TIMEOUT=60, LIFETIME=3600, MAX_SESSIONS_PER_USER=1, OVERFLOW="reject", WARNING=10)
        for _ in range(2):
            found = sessions.manager
            assert (found.getSessionTimeout(), found.getMaxSessionLifetime()) == (60, 3600)
            found.loadNewSession("Luca")
            with pytest.raises(TooManySessions):
                found.loadNewSession("Luca")
            found.close()
        assert sessions.manager._policy.warning == 10
        sessions.manager.close()

    def test_policy_is_left(self, manager):
        """Settings that are not given leave the manager as it is."""
        manager.setSessionTimeOut(60)
        manager.setMaxSessionLifetime(3600)
        assert client_of(make_app(WARNING=5)).get("/me", headers=header(UNKNOWN)).status_code == 401
        assert (manager.getSessionTimeout(), manager.getMaxSessionLifetime()) == (60, 3600)

    def test_given_manager(self, manager):
        """A manager that was given gets the settings too; a store it has already."""
        sessions = UserSessions(manager=manager)
        make_app(sessions, TIMEOUT=60)
        assert sessions.manager.getSessionTimeout() == 60
        with pytest.raises(ValueError, match=r"^USER_SESSIONS_STORE"):
            make_app(UserSessions(manager=manager), STORE=MemoryStore())

    def test_store(self, manager):
        """The store of the settings is the one that `SessionManager()` has from then on."""
        manager.close()
        store = MemoryStore()
        make_app(STORE=store)
        assert SessionManager().sessions is store.sessions
        with pytest.raises(SessionError, match="another"):
            make_app(STORE=MemoryStore())
        SessionManager().close()

    def test_misspelt(self, manager):
        """A setting that does not exist is an error that names the one that was meant."""
        for name, meant in (
            ("TIMOUT", "TIMEOUT"),
            ("MAX_SESSIONS", "MAX_SESSIONS_PER_USER"),
            ("LOGINURL", "LOGIN_URL"),
        ):
            with pytest.raises(ValueError, match=f"^USER_SESSIONS_{name}: .*did you mean USER_SESSIONS_{meant}\\?"):
                make_app(**{name: 60})
        with pytest.raises(ValueError, match=r"^USER_SESSIONS_X: .*there are .*USER_SESSIONS_TIMEOUT"):
            make_app(X=1)

    def test_set_too_late(self, manager):
        """A setting that comes after the extension is an error at each request, since it would be ignored."""
        for name, value in (("TIMEOUT", 60), ("TIMOUT", 60)):
            app = make_app()
            app.config[f"USER_SESSIONS_{name}"] = value
            for _ in range(2):
                with pytest.raises(SessionError, match=f"set USER_SESSIONS_{name} before UserSessions"):
                    client_of(app).get("/open")

    def test_login_url_without_endpoint(self, manager):
        """A login page that is no endpoint of the application is an error at each request, also at an open view."""
        client = client_of(make_app(LOGIN_URL="login_pgae"))
        for _ in range(2):
            with pytest.raises(SessionError, match=r"LOGIN_URL.*'login_pgae'.*did you mean login_page\?"):
                client.get("/open")

    def test_checked_once(self, manager):
        """Later requests do not pay for the check, and other functions run before each request."""
        app, calls = make_app(LOGIN_URL="login_page"), []
        app.before_request(lambda: calls.append(1))
        for _ in range(3):
            assert client_of(app).get("/open").status_code == 200
        assert (len(calls), len(app.before_request_funcs[None])) == (3, 1)

    def test_plain_http(self, manager, caplog):
        """A cookie for https that a client gets over http is a warning that says what to do, once."""
        client = client_of(make_app())
        for scheme in ("https", "http", "http"):
            client.post("/login", data={"name": "Luca"}, base_url=f"{scheme}://localhost")
        (line,) = [record.getMessage() for record in caplog.records if "https alone" in record.getMessage()]
        assert "test client" in line

    def test_proxies(self, manager, caplog):
        """Behind that many proxies the header of the first of them says whether the client came over https."""
        client = client_of(make_app(PROXIES=2))
        for schemes in ("https, http", "http, https, http"):
            client.post("/login", data={"name": "Luca"}, headers={"X-Forwarded-Proto": schemes})
        assert "https alone" not in caplog.text
        client.post("/login", data={"name": "Luca"}, headers={"X-Forwarded-Proto": "https, http, http"})
        assert "https alone" in caplog.text

    def test_wrong_settings(self, manager):
        """A setting that cannot work is refused by name; the cookie cannot be that of Flask's own session."""
        wrong = [("HEADER", "session_key"), ("HEADER", ""), ("HEADER", 5), ("COOKIE", "a b"), ("COOKIE", "session")]
        wrong += [("HEADER", "Cookie"), ("HEADER", "Authorization"), ("COOKIE", "__Host-x"), ("COOKIE", "path")]
        wrong += [("COOKIE_SAMESITE", "lax"), ("COOKIE_SAMESITE", None), ("COOKIE_DOMAIN", "localhost")]
        wrong += [
            ("COOKIE_PARTITIONED", 1),
            ("COOKIE", 5),
            ("COOKIE_SECURE", "yes"),
            ("COOKIE_SECURE", None),
            ("LOGIN_URL", ""),
            ("LOGIN_URL", 5),
        ]
        wrong += [("TIMEOUT", 1), ("LIFETIME", 0), ("MAX_SESSIONS_PER_USER", 0), ("OVERFLOW", "drop"), ("WARNING", 0)]
        wrong += [("STORE", 5), ("PROXIES", -1), ("PROXIES", True), ("PROXIES", "1"), ("API", "no"), ("USERNAME", 5)]
        for name, value in wrong:
            with pytest.raises(ValueError, match=f"USER_SESSIONS_{name}\\b") as refusal:
                make_app(**{name: value})
            assert repr(value) in str(refusal.value) or "both are None" in str(refusal.value)

    @pytest.mark.parametrize("prefix", ["", "__Host-", "__Secure-"])
    def test_own_cookie_of_flask(self, manager, prefix):
        """The cookie cannot have the name of that of Flask's own session, with whatever prefix."""
        app = Flask(__name__)
        app.config.update(SESSION_COOKIE_NAME=f"{prefix}mine", USER_SESSIONS_COOKIE="mine")
        with pytest.raises(ValueError, match=r"^USER_SESSIONS_COOKIE: cannot be 'mine': the framework has a cookie"):
            UserSessions(app)

    def test_wrong_combinations(self, manager):
        """A cookie that browsers drop is an error that names what to change, in debug mode too."""
        none, split = {"COOKIE_SAMESITE": "None"}, {"COOKIE_PARTITIONED": True}
        for debug, wrong, named in (
            (False, none | {"COOKIE_SECURE": False}, "COOKIE_SAMESITE: .*COOKIE_SECURE .*to True"),
            (True, none, "COOKIE_SAMESITE: .*COOKIE_SECURE .*to True"),
            (False, split, "COOKIE_PARTITIONED: .*SameSite is 'None'"),
            (True, split, "COOKIE_PARTITIONED: .*COOKIE_SECURE .*to True"),
        ):
            with pytest.raises(ValueError, match=f"^USER_SESSIONS_{named}"):
                make_app(debug=debug, **wrong)
        make_app(debug=True, COOKIE_SECURE=True, **none, **split)

    def test_neither(self, manager):
        """A key needs a header or a cookie."""
        with pytest.raises(
            ValueError, match=r"^USER_SESSIONS_COOKIE: a session key needs a header or a cookie .* both are None"
        ):
            make_app(HEADER=None, COOKIE=None)

    def test_debug(self, manager):
        """While debugging, the cookie works over http."""
        client = client_of(make_app(debug=True))
        answer = client.post("/login", data={"name": "Luca"})
        key = answer.json["session_key"]
        assert answer.headers["Set-Cookie"] == f"session_key={key}; HttpOnly; Path=/; SameSite=Lax"
        assert client.get("/me", headers=cookie(key, "session_key")).status_code == 200
        assert_deletes_cookie(client.post("/logout", headers=cookie(key, "session_key")), "session_key")

    def test_vary(self, manager):
        """An answer varies by what carries the key."""
        for settings, carry, vary in (({"COOKIE": None}, header, "Session-Key"), ({"HEADER": None}, cookie, "Cookie")):
            client = client_of(make_app(**settings))
            assert set(client.get("/file", headers=carry(manager.loadNewSession("Luca"))).vary) == {vary}


class TestApplications:
    def test_several(self, manager):
        """One extension serves several applications, each with its own settings."""
        sessions = UserSessions()
        first, second = client_of(make_app(sessions)), client_of(make_app(sessions, HEADER="X-Key", COOKIE=None))
        key = first.post("/login", data={"name": "Luca"}).json["session_key"]
        assert second.get("/me", headers={"X-Key": key}).json["username"] == "Luca"
        assert_logged_out(second.get("/me", headers=header(key)))
        assert "Set-Cookie" not in second.post("/login", data={"name": "Fabio"}).headers

    def test_extensions(self, manager):
        """It is where Flask keeps extensions."""
        app = Flask(__name__)
        sessions = UserSessions(app)
        installed = app.extensions["users_session_manager"]
        assert (installed.sessions, installed.carrier.cookie) == (sessions, COOKIE)

    def test_twice(self, manager):
        """Twice in one application is an error."""
        with pytest.raises(SessionError, match="already"):
            UserSessions(make_app())

    def test_missing(self, manager):
        """A guarded view of an application without it is an error."""
        app = Flask(__name__)
        with app.test_request_context(), pytest.raises(SessionError, match="has not been called"):
            session_required(lambda: None)()

    def test_manager(self, manager):
        """The manager is `SessionManager()` as it is when it is needed, or the one that was given."""
        first = UserSessions()
        assert first.manager is manager is UserSessions(manager=manager).manager
        manager.close()
        assert first.manager is not manager
        first.manager.close()


def test_no_secret(client, manager, caplog):
    """No secret is in a URL, a log line or an answer, except in the answer to the login."""
    key = client.post("/login", data={"name": "Luca"}).json["session_key"]
    answers = [client.get(path, headers=cookie(key)) for path in (*GUARDED, "/greeting")]
    answers.append(client_of(make_app(LOGIN_URL="/login")).get("/me", headers=BROWSER | cookie(key)))
    lines = [logging.Formatter().format(record) for record in caplog.records]
    for answer in answers:
        lines += [answer.text, str(answer.headers)]
    assert key.partition("_")[2] not in "\n".join(lines)


def test_missing_flask():
    """Without Flask, the import says what to install."""
    program = """
import sys
sys.modules["flask"] = None
try:
    import users_session_manager.integrations.flask
except ImportError as missing:
    print(type(missing).__name__, missing)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "MissingDependency flask is not installed: pip install 'users-session-manager[flask]'," in done.stdout


def test_asked_after_the_view(manager):
    """An `after_request` function may ask for the session of an open view, and sign in: the answer is as any other."""
    sessions, app = UserSessions(), Flask(__name__)

    @app.after_request
    def follow(response: Response) -> Response:
        if request.path == "/login":
            sessions.sign_in("luca")
        response.headers["User"] = current_session.username if current_session else "nobody"
        return response

    sessions.init_app(app)
    app.add_url_rule("/<path>", view_func=lambda path: path)
    client = app.test_client()
    for path, user in (("home", "nobody"), ("login", "luca"), ("home", "luca")):
        answer = client.get(f"/{path}", base_url="https://localhost")
        assert (answer.headers["User"], answer.headers["Cache-Control"]) == (user, "no-store, private")
        assert set(answer.vary) == {"Cookie", "Session-Key"}
        assert len(answer.headers.getlist("Set-Cookie")) == (path == "login")


@pytest.mark.parametrize("when", ["after_request", "stream"])
def test_after_the_answer(manager, when):
    """Code after a guarded view cannot change the cookie of its answer: a new key would log the client out."""
    sessions, problems = UserSessions(), []
    app = make_app(sessions)

    def try_both() -> Iterator[str]:
        yield "on"
        for call in (lambda: sessions.sign_in("fabio"), sessions.renew_key):
            with pytest.raises(SessionError, match="has its cookies already") as problem:
                call()
            problems.append(problem.value)

    @app.get("/late")
    @session_required
    def late() -> Any:
        return stream_with_context(try_both()) if when == "stream" else "on"

    @app.after_request
    def follow(response: Response) -> Response:
        if when == "after_request":
            assert [*try_both()] == ["on"]
        return response

    key = manager.loadNewSession("luca")
    with client_of(app) as client:
        assert client.get("/late", headers={"Cookie": f"__Host-session_key={key}"}).text == "on"
    assert len(problems) == 2
    assert list(manager.sessions) == [key]


class TestScript:
    def test_served(self, manager):
        """Each application serves the script, to all, and a browser may keep it; requesting it prolongs nothing."""
        app = make_app()
        app.before_request(session_optional(lambda: None))
        with client_of(app).get("/user-sessions.js") as answer:
            assert (answer.status_code, answer.mimetype, answer.data) == (200, "text/javascript", SCRIPT.read_bytes())
            assert len(answer.data) < 3 * 1024
            assert (answer.headers["Cache-Control"], answer.headers.get("Vary")) == ("public, max-age=3600", None)
        with app.test_request_context():
            assert url_for("user_sessions_script") == "/user-sessions.js"

    def test_elsewhere(self, manager):
        """It has another path, or none."""
        client = client_of(make_app(SCRIPT="/js/sessions.js"))
        with client.get("/js/sessions.js") as answer:
            assert answer.status_code == 200
        assert client.get("/user-sessions.js").status_code == 404
        assert client_of(make_app(SCRIPT=None)).get("/user-sessions.js").status_code == 404
        for wrong in ("user-sessions.js", "//elsewhere.example/", 1, "/", "/<name>.js", "/a.js?v=1", "/a.js#b"):
            with pytest.raises(ValueError, match=r"^USER_SESSIONS_SCRIPT: has to be a path"):
                make_app(SCRIPT=wrong)


class TestGuardAboveRoute:
    """A guard in the wrong place would leave the view open to all."""

    @pytest.mark.parametrize(
        "guard",
        [session_required, session_required(passive=True), session_optional, passive],
        ids=["required", "options", "optional", "passive"],
    )
    def test_refused(self, guard):
        app = make_app()

        @guard
        @app.get("/secret")
        def secret() -> str:
            return "secret"

        with pytest.raises(SessionError, match=r"secret is .* below the decorator of the route"):
            app.test_client().get("/secret")

    def test_two_applications(self):
        """A function that makes applications may guard one view for each."""

        def page() -> str:
            return "page"

        for app in (apps := [make_app() for _ in range(2)]):
            app.add_url_rule("/guarded", "guarded", session_required(page))
        for app in apps:
            assert app.test_client().get("/guarded").status_code == 401

    def test_both(self):
        """A view may have a route with its guard and another one without."""
        app = make_app()

        def page() -> str:
            return "page"

        app.add_url_rule("/open", "open", page)
        app.add_url_rule("/guarded", "guarded", session_required(page))
        assert app.test_client().get("/open").status_code == 200
        assert app.test_client().get("/guarded").status_code == 401
