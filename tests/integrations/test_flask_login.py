"""Flask-Login with sessions: an application changes nothing but `UserSessions(app, login_manager=...)`."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("flask_login")

from flask import Flask, jsonify, request, session
from flask_login import (
    FlaskLoginClient,
    LoginManager,
    UserMixin,
    confirm_login,
    current_user,
    fresh_login_required,
    login_fresh,
    login_required,
    login_user,
    logout_user,
)
from foreign_key import foreign_key
from watched_store import WatchedStore

from users_session_manager import SessionError, SessionManager
from users_session_manager.integrations.flask import UserSessions, current_session, passive, session_required

KEY = "_user_session_key"
DAY = 24 * 60 * 60


class User(UserMixin):
    def __init__(self, user_id: int, username: str) -> None:
        self.id = user_id
        self.username = username
        self.may_log_in = True

    @property
    def is_active(self) -> bool:
        return self.may_log_in


class Users(dict[str, User]):
    """The users of the application; `asked` counts how often one was loaded."""

    asked = 0

    def load(self, user_id: str) -> User | None:
        self.asked += 1
        return self.get(user_id)


def make_app(users: Users, **config: Any) -> Flask:
    """An application as Flask-Login's own documentation would have it, and one line more."""
    app = Flask(__name__)
    app.config.update(SECRET_KEY="a secret", **config)
    app.test_client_class = FlaskLoginClient
    login_manager = LoginManager(app)
    login_manager.login_view = "login"
    sessions = UserSessions(app, login_manager=login_manager)
    login_manager.user_loader(users.load)

    @login_manager.request_loader
    def load_by_token(request: Any) -> User | None:
        return users.get(request.headers.get("Token"))

    @app.route("/login", methods=["GET", "POST"])
    def login() -> Any:
        if request.method == "GET":
            return "a form"
        done = login_user(users[request.form["id"]], remember="remember" in request.form)
        return {"done": done, "next": request.args.get("next"), "key": current_session.key if done else None}

    @app.post("/logout")
    @login_required
    def logout() -> Any:
        logout_user()
        return {}

    @app.post("/clear")
    def clear() -> Any:
        was_in = "look" in request.args and current_user.is_authenticated
        session.clear()
        return {"was_in": was_in}

    @app.post("/confirm")
    @login_required
    def confirm() -> Any:
        confirm_login()
        return {"key": current_session.key}

    @app.post("/renew")
    @login_required
    def renew() -> Any:
        return {"key": sessions.renew_key(overlap=60)}

    @app.get("/me")
    @login_required
    def me() -> Any:
        return {"username": current_user.username, "fresh": login_fresh()}

    @app.get("/fresh")
    @fresh_login_required
    def fresh() -> Any:
        return {"username": current_user.username}

    @app.get("/home")
    def home() -> Any:
        return {"username": current_user.username if current_user.is_authenticated else None}

    @app.get("/unread")
    @passive
    @login_required
    def unread() -> Any:
        return {"username": current_user.username}

    @app.get("/ours")
    @session_required
    def ours() -> Any:
        return jsonify(username=current_session.username, user=current_user.username)

    @app.get("/our-home")
    def our_home() -> Any:
        return {"username": current_session.username if current_session else None}

    @app.get("/open")
    def open_to_all() -> str:
        return "hello"

    return app


@pytest.fixture
def users() -> Users:
    return Users({str(user.id): user for user in (User(7, "luca"), User(8, "fabio"))})


@pytest.fixture
def app(users: Users, manager: SessionManager) -> Flask:
    return make_app(users)


@pytest.fixture(params=["session_key", None])
def browser(users: Users, manager: SessionManager, request: pytest.FixtureRequest) -> Any:
    """Once with our cookie, once with that of Flask's own session alone, as over http, where ours is dropped."""
    return make_app(users, USER_SESSIONS_COOKIE=request.param).test_client()


def log_in(browser: Any, user_id: int = 7, **form: Any) -> str:
    answer = browser.post("/login", data={"id": user_id, **form})
    assert answer.json["done"]
    return answer.json["key"]


def is_in(browser: Any, **options: Any) -> bool:
    """Return whether the client is signed in; all that asks agrees."""
    answers = [browser.get(path, **options) for path in ("/me", "/ours", "/home", "/our-home", "/unread")]
    found = [answer.status_code == 200 and answer.json["username"] is not None for answer in answers]
    assert len(set(found)) == 1, [(answer.status_code, answer.text) for answer in answers]
    return found[0]


class TestLogin:
    def test_session(self, browser, manager):
        """`login_user` starts a session with the user id and the name; `logout_user` ends it."""
        assert not is_in(browser)
        key = log_in(browser)
        session = manager.getSession(key)
        assert (session.username, session.userId, session.timeout) == ("luca", "7", None)
        assert is_in(browser)
        assert browser.get("/me").json == {"username": "luca", "fresh": True}
        assert browser.post("/logout").status_code == 200
        assert (list(manager.sessions), is_in(browser)) == ([], False)

    def test_next(self, browser):
        """Flask-Login's own redirect and message are as they were."""
        answer = browser.get("/me")
        assert (answer.status_code, answer.location) == (302, "/login?next=%2Fme")
        with browser.session_transaction() as flask_session:
            assert flask_session["_flashes"] == [("message", "Please log in to access this page.")]
        assert browser.post(answer.location, data={"id": 7}).json["next"] == "/me"

    def test_login_page(self, app, manager):
        """`session_required` sends a browser to Flask-Login's login page."""
        answer = app.test_client().get("/ours", headers={"Accept": "text/html"})
        assert (answer.status_code, answer.location) == (303, "/login?next=%2Fours")

    def test_ended(self, browser, manager, clock):
        """However a session ends, its user is anonymous at the next request."""
        for end in (
            lambda key: manager.deleteSession(key),
            lambda key: manager.deleteUserSessions(7),
            lambda key: manager.deleteAllSessions(),
            lambda key: clock.turn(3000),
        ):
            key = log_in(browser)
            assert is_in(browser)
            end(key)
            assert not is_in(browser)

    def test_copied_cookies(self, app, manager):
        """Cookies that were copied before a logout sign no user in after it."""
        browser = app.test_client()
        log_in(browser, remember="on")
        copied = [(cookie.key, cookie.value) for cookie in browser._cookies.values()]
        browser.post("/logout")
        thief = app.test_client(use_cookies=False)
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in copied)}
        assert not is_in(thief, headers=headers)

    def test_new_key(self, browser, manager):
        """Another login renews the key, and that of another user ends the session."""
        first = log_in(browser)
        second = log_in(browser)
        assert (first != second, list(manager.sessions)) == (True, [second])
        log_in(browser, 8)
        assert manager.getLoggedUsers() == ["fabio"]
        assert browser.get("/me").json["username"] == "fabio"

    def test_confirmed(self, browser, manager, clock):
        """`confirm_login` gives the session a new key, and makes its login a recent one."""
        first = log_in(browser)
        clock.turn(1000)
        key = browser.post("/confirm").json["key"]
        assert (key != first, list(manager.sessions)) == (True, [key])
        assert manager.getSession(key).authenticationAge == 0
        assert is_in(browser)

    def test_inactive(self, browser, users, manager):
        """A user whom Flask-Login does not let in gets no session."""
        users["7"].may_log_in = False
        assert browser.post("/login", data={"id": 7}).json["done"] is False
        assert list(manager.sessions) == []

    def test_cleared(self, browser, manager):
        """A logout by `session.clear()` ends the session too."""
        log_in(browser)
        browser.post("/clear")
        assert (list(manager.sessions), is_in(browser)) == ([], False)

    def test_cleared_after_the_end(self, browser, manager):
        """It removes a login whose session has ended, which otherwise stays in Flask's session until another login."""
        manager.deleteSession(log_in(browser))
        assert browser.get("/home").json == {"username": None}
        with browser.session_transaction() as flask_session:
            assert flask_session["_user_id"] == "7"
        assert browser.post("/clear?look").json == {"was_in": False}
        with browser.session_transaction() as flask_session:
            assert "_user_id" not in flask_session

    def test_another_user(self, browser, manager):
        """A user id that the application has put beside the key of another user's session signs no user in."""
        log_in(browser)
        with browser.session_transaction() as flask_session:
            flask_session["_user_id"] = "8"
        assert not is_in(browser)

    def test_too_many(self, app, manager):
        """A login too many is 409, and no user is signed in."""
        manager.setMaxSessionsPerUser(1, "reject")
        log_in(app.test_client())
        browser = app.test_client()
        assert browser.post("/login", data={"id": 7}).status_code == 409
        assert not is_in(browser)
        assert len(manager.sessions) == 1

    def test_refused(self, app, manager):
        """A login that is refused leaves the client signed in as it was."""
        manager.setMaxSessionsPerUser(1, "reject")
        log_in(app.test_client(), 8)
        browser = app.test_client()
        log_in(browser)
        assert browser.post("/login", data={"id": 8}).status_code == 409
        assert browser.get("/me").json["username"] == "luca"

    def test_name(self, users, manager):
        """The name shown is an attribute or a method of the user; the user id where it is empty."""
        users["7"].call = lambda: "Luca Rossi"
        for setting, name in (("username", "luca"), ("call", "Luca Rossi"), ("missing", "7")):
            log_in(make_app(users, USER_SESSIONS_USERNAME=setting).test_client())
            assert manager.getLoggedUsers() == [name]
            manager.deleteAllSessions()
        with pytest.raises(ValueError, match="USER_SESSIONS_USERNAME"):
            make_app(users, USER_SESSIONS_USERNAME=5)


class TestHeader:
    def test_header(self, app, manager):
        """The key in the header signs in, and leaves no cookie."""
        key = log_in(app.test_client())
        client = app.test_client(use_cookies=False)
        assert is_in(client, headers={"Session-Key": key})
        assert "Set-Cookie" not in client.get("/me", headers={"Session-Key": key}).headers
        manager.deleteSession(key)
        assert not is_in(client, headers={"Session-Key": key})

    def test_header_first(self, app, manager):
        """The header comes before Flask's own login, which stays for the requests without it."""
        browser, other = app.test_client(), app.test_client()
        log_in(browser, 7)
        key = log_in(other, 8)
        assert browser.get("/me", headers={"Session-Key": key}).json["username"] == "fabio"
        assert browser.get("/ours", headers={"Session-Key": key}).json == {"username": "fabio", "user": "fabio"}
        assert not is_in(browser, headers={"Session-Key": "unknown"})
        assert browser.get("/me").json["username"] == "luca"
        assert sorted(manager.getLoggedUsers()) == ["fabio", "luca"]

    def test_own_request_loader(self, app, manager):
        """The application's own way to sign in by a header goes on."""
        client = app.test_client()
        assert client.get("/me", headers={"Token": "8"}).json["username"] == "fabio"
        assert client.get("/ours", headers={"Token": "8"}).status_code == 401
        log_in(client)
        assert client.get("/me", headers={"Token": "8"}).json["username"] == "luca"


class CountingStore(WatchedStore):
    """Counts a restart, which in memory asks for the session itself, once."""

    def restart(self, *args: Any) -> Any:
        session = super().restart(*args)
        self.asked.pop()
        return session


class TestUsers:
    @pytest.mark.parametrize("path", ["/me", "/ours"])
    @pytest.mark.parametrize("carry", ["cookie", "header"])
    def test_deleted(self, app, users, manager, path, carry):
        """A user whom the user_loader does not return any more is refused, and the session ends."""
        browser = app.test_client()
        key = log_in(browser)
        headers = {"Session-Key": key} if carry == "header" else {}
        client = app.test_client() if headers else browser
        assert client.get(path, headers=headers).status_code == 200
        user = users.pop("7")
        assert client.get(path, headers=headers).status_code in (302, 401)
        assert list(manager.sessions) == []
        users["7"] = user
        assert not is_in(client, headers=headers)

    def test_deactivated(self, app, users, manager):
        """A user who is not active is refused by cookie and by header."""
        browser = app.test_client()
        key = log_in(browser)
        users["7"].may_log_in = False
        assert not is_in(browser)
        assert not is_in(app.test_client(), headers={"Session-Key": key})

    def test_user_of_the_application(self, app, manager):
        """A session that the application has made is none of Flask-Login's, whatever its user id."""
        key = manager.loadNewSession("somebody", userId=7, securityStamp="of the application")
        client = app.test_client()
        assert client.get("/our-home", headers={"Session-Key": key}).json["username"] == "somebody"
        assert client.get("/home", headers={"Session-Key": key}).json["username"] is None

    def test_sign_in(self, app, manager):
        """A user whom the application signs in itself takes the place of Flask-Login's, and the other way round."""
        sessions = app.extensions["users_session_manager"].sessions
        app.add_url_rule("/sign-in", view_func=lambda: sessions.sign_in("somebody"), methods=["POST"])
        browser = app.test_client()
        log_in(browser)
        browser.post("/sign-in")
        assert manager.getLoggedUsers() == ["somebody"]
        assert browser.get("/our-home").json["username"] == "somebody"
        assert browser.get("/home").json["username"] is None
        log_in(browser)
        assert manager.getLoggedUsers() == ["luca"]
        assert is_in(browser)

    def test_asked_once(self, users, manager):
        """A request loads its user once, and asks the store once."""
        manager.close()
        store = CountingStore()
        SessionManager(store=store)
        browser = make_app(users).test_client()
        log_in(browser)
        for path in ("/me", "/ours", "/home", "/our-home", "/unread"):
            users.asked, store.asked = 0, []
            assert browser.get(path).json["username"] == "luca"
            assert (users.asked, len(store.asked)) == (1, 1), path


class TestRemember:
    def test_timeout(self, app, users, manager, clock):
        """`remember=True` makes the idle timeout that of the setting, and our cookie is the one that is kept."""
        app.config["REMEMBER_COOKIE_DURATION"] = timedelta(days=30)
        browser = app.test_client()
        answer = browser.post("/login", data={"id": 7, "remember": "on"}, base_url="https://localhost")
        key = answer.json["key"]
        assert manager.getSession(key).timeout == 30 * DAY
        assert not any(line.startswith("remember_token") for line in answer.headers.getlist("Set-Cookie"))
        # A browser that was closed has lost Flask's own session.
        browser.delete_cookie("session")
        clock.turn(29 * DAY)
        assert is_in(browser, base_url="https://localhost")
        assert browser.get("/me", base_url="https://localhost").json == {"username": "luca", "fresh": False}
        assert browser.get("/fresh", base_url="https://localhost").status_code == 401
        clock.turn(30 * DAY)
        assert not is_in(browser, base_url="https://localhost")

    def test_browser_closed(self, app, manager):
        """Without it a login ends with Flask's own session, also if our cookie is still there."""
        browser = app.test_client()
        browser.post("/login", data={"id": 7}, base_url="https://localhost")
        assert is_in(browser, base_url="https://localhost")
        browser.delete_cookie("session")
        assert not is_in(browser, base_url="https://localhost")

    @pytest.mark.parametrize("lost", [True, False])
    def test_permanent(self, app, manager, lost):
        """A login that Flask's own session keeps without our cookie, or beside that of another session, gets ours."""
        browser, other = app.test_client(), app.test_client()
        browser.post("/login", data={"id": 7}, base_url="https://localhost")
        other.post("/login", data={"id": 8}, base_url="https://localhost")
        name, key = "__Host-session_key", browser.get_cookie("__Host-session_key").value
        if lost:
            browser.delete_cookie(name)
        else:
            browser.set_cookie(name, other.get_cookie(name).value)
        answer = browser.get("/me", base_url="https://localhost")
        assert answer.json["username"] == "luca"
        assert answer.headers["Cache-Control"] == "no-store, private"
        assert browser.get_cookie(name).value == key
        assert "Set-Cookie" not in browser.get("/me", base_url="https://localhost").headers
        assert is_in(other, base_url="https://localhost")

    def test_remember_cookie(self, app, users, manager):
        """The cookie of Flask-Login alone signs no user in, and is deleted."""
        plain = Flask("plain")
        plain.config["SECRET_KEY"] = app.config["SECRET_KEY"]
        LoginManager(plain).user_loader(users.load)
        plain.add_url_rule("/", view_func=lambda: str(login_user(users["7"], remember=True)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Flask-Login's own, from Python 3.12 on
            lines = plain.test_client().get("/").headers.getlist("Set-Cookie")
        (token,) = [line.partition(";")[0] for line in lines if line.startswith("remember_token")]
        client = app.test_client(use_cookies=False)
        assert not is_in(client, headers={"Cookie": token})
        answer = client.get("/home", headers={"Cookie": token})
        assert any(line.startswith("remember_token=;") for line in answer.headers.getlist("Set-Cookie"))
        assert list(manager.sessions) == []

    def test_log_out_everywhere(self, app, manager):
        """It ends remembered sessions too."""
        browser = app.test_client()
        browser.post("/login", data={"id": 7, "remember": "on"}, base_url="https://localhost")
        manager.deleteUserSessions(7)
        assert not is_in(browser, base_url="https://localhost")


class TestTests:
    @pytest.mark.parametrize("testing", [True, False])
    def test_client(self, app, users, manager, testing):
        """Flask-Login's test client signs in: its login gets a session with its first request."""
        app.testing = testing
        with app.test_client(user=users["7"]) as client:
            assert is_in(client)
            assert manager.getLoggedUsers() == ["luca"]
            manager.deleteAllSessions()
            assert not is_in(client)

    def test_old_login(self, app, users, manager, caplog):
        """Elsewhere a login without a session is refused, and the log says so once."""
        with app.test_client(user=users["7"]) as client:
            cookie = client.get_cookie("session").value
        for _ in range(2):
            assert call_as_a_server(app, "/me", f"session={cookie}") == "302 FOUND"
        assert len([each for each in caplog.records if "has to sign in again" in each.getMessage()]) == 1
        assert list(manager.sessions) == []


def call_as_a_server(app: Flask, path: str, cookie: str) -> str:
    """Return the status of an answer to a request that no test client sends."""
    from werkzeug.test import EnvironBuilder, run_wsgi_app

    environ = EnvironBuilder(path=path, headers={"Cookie": cookie}).get_environ()
    return run_wsgi_app(app, environ)[1]


class TestPassive:
    def test_prolongs(self, browser, manager, clock):
        """A request that asks for the user restarts the idle timeout, but for a passive view."""
        key = log_in(browser)
        for path, left in (("/me", 3000), ("/home", 3000), ("/ours", 3000), ("/unread", 2000), ("/open", 2000)):
            clock.turn(1000)
            assert browser.get(path).status_code == 200
            assert manager.getSessionTimeLeft(key) == left, path
            manager.restartSessionTimer(key)

    def test_passive_async(self, app, manager, clock):
        """A view stays what it is, and its guard is passive too."""

        @app.get("/count")
        @session_required
        @passive
        async def count() -> Any:
            return {"username": current_session.username}

        browser = app.test_client()
        key = log_in(browser)
        clock.turn(1000)
        assert browser.get("/count").json == {"username": "luca"}
        assert manager.getSessionTimeLeft(key) == 2000


class TestSeveralProcesses:
    def test_foreign_key(self, app, users, manager):
        """With sessions in memory, a login of another process is not removed: it may be live there."""
        browser = app.test_client()
        log_in(browser)
        with browser.session_transaction() as flask_session:
            flask_session[KEY] = foreign_key()
        assert not is_in(browser)
        with browser.session_transaction() as flask_session:
            assert flask_session["_user_id"] == "7"

    def test_former_key(self, app, manager, clock):
        """A former key in Flask's session does not sign out a client whose cookie has the present one."""
        browser, site = app.test_client(), {"base_url": "https://localhost"}
        browser.post("/login", data={"id": 7}, **site)
        before = browser.get_cookie("session").value
        assert browser.post("/confirm", **site).status_code == 200
        browser.set_cookie("session", before)
        assert is_in(browser, **site)

    def test_copy_of_a_former_key(self, app, manager):
        """A copy of Flask's cookie with a former key signs in during the overlap, and is given no present key."""
        browser, thief, site = app.test_client(), app.test_client(), {"base_url": "https://localhost"}
        browser.post("/login", data={"id": 7}, **site)
        thief.set_cookie("session", browser.get_cookie("session").value)
        assert browser.post("/renew", **site).status_code == 200
        assert is_in(thief, **site)
        assert thief.get_cookie("__Host-session_key") is None
        assert is_in(browser, **site)


class TestUnreachableStore:
    def test_503(self, users, manager):
        """While the store is unreachable, a request for the user is answered 503; no user is signed in or out."""
        manager.close()
        store = WatchedStore()
        SessionManager(store=store)
        app = make_app(users)
        browser = app.test_client()
        log_in(browser)
        store.unreachable = True
        for path in ("/me", "/ours", "/home", "/our-home"):
            assert browser.get(path).status_code == 503, path
        assert browser.post("/logout").status_code == 503
        assert browser.post("/login", data={"id": 8}).status_code == 503
        assert browser.get("/open").status_code == 200
        store.unreachable = False
        assert browser.get("/me").json["username"] == "luca"


class TestSetUp:
    def test_not_initialised(self, manager):
        """A login manager that is not that of the application, or knows no users, is an error at the first request."""
        for make, said in (
            (lambda app: LoginManager(), "init_app"),
            (lambda app: LoginManager(app), "user_loader"),
        ):
            app = Flask(__name__)
            UserSessions(app, login_manager=make(app))
            app.add_url_rule("/", view_func=lambda: "hello")
            app.testing = True
            with pytest.raises(SessionError, match=said):
                app.test_client().get("/")

    @pytest.mark.parametrize("config", [{}, {"REMEMBER_COOKIE_NAME": "mine"}])
    def test_name_of_the_remember_cookie(self, users, manager, config):
        """Our cookie cannot be called as that of Flask-Login, which is deleted wherever it is shown."""
        name = config.get("REMEMBER_COOKIE_NAME", "remember_token")
        with pytest.raises(ValueError, match=r"USER_SESSIONS_COOKIE: .*the framework has a cookie of that name"):
            make_app(users, USER_SESSIONS_COOKIE=name, USER_SESSIONS_COOKIE_SECURE=False, **config)

    def test_strong_protection(self, users, manager):
        """A login that Flask-Login removes, since the client looks like another one, ends its session."""
        app = make_app(users, SESSION_PROTECTION="strong")
        browser = app.test_client()
        log_in(browser)
        assert is_in(browser)
        assert not is_in(browser, headers={"User-Agent": "another"})
        assert list(manager.sessions) == []
