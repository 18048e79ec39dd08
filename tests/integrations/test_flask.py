"""The Flask extension: what it has beside what `test_web.py` checks in every framework."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("flask")

from flask import Blueprint, Flask, render_template_string, request
from flask.views import MethodView

from users_session_manager import AuthenticationTooOld, SessionError, SessionManager, SessionRejected, StoreUnavailable
from users_session_manager.integrations.flask import UserSessions, current_session, session_required
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
    assert answer.headers["Cache-Control"] == "no-store"


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
            assert answer.headers["Cache-Control"] == "no-store"
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
        """What a view lets be stored is still not for everyone."""
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


class TestCurrentSession:
    def test_template(self, client, manager):
        """Templates have it, and it is false without a session."""
        key = manager.loadNewSession("Luca")
        answers = [client.get("/greeting", headers=headers) for headers in (header(key), cookie(key))]
        assert [answer.text for answer in answers] == ["hello Luca"] * 2
        answers = [client.get("/greeting", headers=headers) for headers in (header(UNKNOWN), cookie(UNKNOWN), {})]
        assert [(answer.status_code, answer.text) for answer in answers] == [(200, "hello stranger")] * 3
        assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}

    def test_ends_in_between(self, manager):
        """It stays readable when its session ends during the request."""
        key = manager.loadNewSession("Luca")
        with make_app().test_request_context(headers=header(key)):
            assert current_session
            manager.deleteSession(key)
            assert current_session.username == "Luca"

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
        assert answer.headers["Set-Cookie"] == f"{COOKIE}={key}; Secure; HttpOnly; Path=/; SameSite=Lax"
        assert answer.headers["Cache-Control"] == "no-store"
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
        """What the manager refuses is refused, and changes nothing."""
        sessions, key = UserSessions(), manager.loadNewSession("Luca", data=1)
        with make_app(sessions).test_request_context(headers=header(key)):
            for username, timeout in (("", None), (None, None), (False, None), ("Luca", 1), ("Luca", "60")):
                with pytest.raises((TypeError, ValueError)):
                    sessions.sign_in(username, timeout=timeout)
            with pytest.raises(ValueError, match="overlap"):
                sessions.renew_key(overlap=-1)
        assert (list(manager.sessions), manager.getSessionData(key)) == ([key], 1)

    def test_never_stored(self, manager):
        """An answer with a cookie is not to be stored, whatever the view says."""
        sessions = UserSessions()
        app = make_app(sessions)
        app.add_url_rule("/stored", view_func=lambda: (sessions.sign_in("Luca"), 200, {"Cache-Control": "max-age=60"}))
        assert client_of(app).get("/stored").headers["Cache-Control"] == "no-store"


class TestSignOut:
    @pytest.mark.parametrize("carry", [header, cookie])
    def test_says_whether(self, client, manager, carry):
        """It says whether there was a session, deletes the cookie, and its answer is not to be stored."""
        answer = client.post("/logout", headers=carry(manager.loadNewSession("Luca")))
        assert answer.json == {"ended": True, "now": False}
        assert answer.headers["Cache-Control"] == "no-store"
        if carry is cookie:
            assert_deletes_cookie(answer)
        for headers in ({}, carry(UNKNOWN)):
            assert client.post("/logout", headers=headers).json == {"ended": False, "now": False}


def assert_deletes_cookie(answer: Any, name: str = COOKIE) -> None:
    (line,) = answer.headers.getlist("Set-Cookie")
    assert line.startswith(f"{name}=; Expires=Thu, 01 Jan 1970")
    assert ("; Secure;" in line) is name.startswith("__Host-")
    assert line.endswith("; HttpOnly; Path=/; SameSite=Lax")


class TestRefusal:
    def test_login_page(self, manager):
        """A browser is sent to the login page and back, and its dead cookie is deleted."""
        for login in ("login_page", "/login"):
            client = client_of(make_app(LOGIN_URL=login))
            answer = client.get("/me?a=1&b=%2F", headers=BROWSER | cookie(UNKNOWN))
            assert (answer.status_code, answer.location) == (303, "/login?next=%2Fme%3Fa%3D1%26b%3D%252F")
            assert answer.headers["Cache-Control"] == "no-store"
            assert_deletes_cookie(answer)
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
        """A client that takes JSON as gladly as HTML gets JSON, and so does a browser without a login page."""
        with_page = client_of(make_app(LOGIN_URL="login_page"))
        for accept in ("*/*", "application/json", "application/json, text/html", "", "image/png"):
            assert_logged_out(with_page.get("/me", headers={"Accept": accept}))
        assert_logged_out(client.get("/me", headers=BROWSER))

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
            assert (answer.status_code, answer.headers["Cache-Control"]) == (503, "no-store")


class TestSettings:
    def test_defaults(self, manager):
        """The defaults are in the configuration."""
        app = make_app()
        settings = {name: value for name, value in app.config.items() if name.startswith("USER_SESSIONS_")}
        assert settings == {
            "USER_SESSIONS_HEADER": "Session-Key",
            "USER_SESSIONS_COOKIE": "session_key",
            "USER_SESSIONS_COOKIE_SECURE": True,
            "USER_SESSIONS_LOGIN_URL": None,
        }

    def test_wrong_settings(self, manager):
        """A setting that cannot work is refused by name; the cookie cannot be that of Flask's own session."""
        wrong = [("HEADER", "session_key"), ("HEADER", ""), ("HEADER", 5), ("COOKIE", "a b"), ("COOKIE", "session")]
        wrong += [("COOKIE", 5), ("COOKIE_SECURE", "yes"), ("COOKIE_SECURE", None), ("LOGIN_URL", ""), ("LOGIN_URL", 5)]
        for name, value in wrong:
            with pytest.raises(ValueError, match=f"USER_SESSIONS_{name}\\b") as refusal:
                make_app(**{name: value})
            assert repr(value) in str(refusal.value) or "both are None" in str(refusal.value)

    def test_neither(self, manager):
        """A key needs a header or a cookie."""
        with pytest.raises(ValueError, match=r"^USER_SESSIONS_HEADER (and|or) USER_SESSIONS_COOKIE: .* both are None"):
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
    expected = "MissingDependency flask is not installed: pip install 'users-session-manager[flask]'\n"
    assert done.stdout == expected
