"""The Flask extension beside other extensions: those that answer errors themselves, and flask_socketio."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("flask")
pytest.importorskip("flask_restful")
pytest.importorskip("flask_restx")
pytest.importorskip("flask_socketio")

import flask_restful
import flask_restx
import flask_socketio
from flask import Blueprint, Flask

from users_session_manager import SessionError, SessionManager, SessionRejected, StoreUnavailable
from users_session_manager.integrations.flask import UserSessions, current_session
from users_session_manager.keys import new_key

UNKNOWN = new_key()  # issued by this process, and no session has it


def make_app(sessions: UserSessions, **config: Any) -> Flask:
    app = Flask(__name__)
    app.config.update({f"USER_SESSIONS_{name}": value for name, value in config.items()})
    sessions.init_app(app)
    return app


def header(key: str) -> dict[str, str]:
    return {"Session-Key": key}


def restful_api(app: Flask, views: dict[str, Any]) -> None:
    api, base = flask_restful.Api(app), flask_restful.Resource
    for name, view in views.items():
        api.add_resource(type(name, (base,), {"get": lambda self, view=view: view()}), f"/{name}")


def restx_api(app: Flask, views: dict[str, Any]) -> None:
    api, base = flask_restx.Api(app), flask_restx.Resource
    for name, view in views.items():
        api.route(f"/{name}")(type(name, (base,), {"get": lambda self, view=view: view()}))


def catching_blueprint(app: Flask, views: dict[str, Any]) -> None:
    area = Blueprint("catching", __name__)
    area.register_error_handler(Exception, lambda error: ({"message": "Internal Server Error"}, 500))
    for name, view in views.items():
        area.add_url_rule(f"/{name}", name, view)
    app.register_blueprint(area)


class OwnRejection(SessionRejected):
    """An application may make finer distinctions."""


def own_rejection() -> None:
    raise OwnRejection


class TestWithoutGuard:
    """An exception of a view without a guard is answered too, whatever else answers errors."""

    @pytest.fixture(params=[restful_api, restx_api, catching_blueprint])
    def client(self, request: pytest.FixtureRequest, manager: SessionManager) -> Any:
        sessions = UserSessions()
        app = make_app(sessions)
        views = {
            "sign-in": lambda: {"key": sessions.sign_in("Luca")},
            "renew": lambda: {"key": sessions.renew_key()},
            "own": own_rejection,
            "ended": lambda: manager.getSession(UNKNOWN).username,
            "who": lambda: {"username": current_session.username if current_session else None},
            "broken": lambda: 1 / 0,
        }
        request.param(app, views)
        return app.test_client(use_cookies=False)

    def test_answers(self, client, manager):
        """A login too many, a rejection and an unavailable store are answered as by a guard; other errors are not."""
        manager.setMaxSessionsPerUser(1, "reject")
        key = client.get("/sign-in").json["key"]
        assert client.get("/who", headers=header(key)).json == {"username": "Luca"}
        answer = client.get("/sign-in")
        assert (answer.status_code, answer.json) == (409, {"tooManySessions": True})
        assert answer.headers["Cache-Control"] == "no-store, private"
        for path in ("/renew", "/ended", "/own"):
            answer = client.get(path)
            assert (answer.status_code, answer.json) == (401, {"logout": True})
        answer = client.get("/sign-in", headers={"Accept": "text/html"})
        assert (answer.status_code, answer.mimetype) == (409, "text/html")
        answer = client.get("/broken")
        assert (answer.status_code, answer.json["message"]) == (500, "Internal Server Error")

    def test_unavailable(self, client, manager, monkeypatch):
        """A view that looks at the session while the store is unavailable is answered 503."""

        def fail(*_: Any) -> Any:
            raise StoreUnavailable("no answer")

        monkeypatch.setattr(manager, "getSession", fail)
        answer = client.get("/who", headers=header(UNKNOWN))
        assert (answer.status_code, answer.json, answer.headers["Retry-After"]) == (503, {"unavailable": True}, "5")

    def test_own_answer(self, client, manager):
        """The application may answer in its own way."""
        app = client.application
        app.error_handler_spec[None][None][SessionRejected] = lambda error: ("mine", 403)
        assert client.get("/ended").text == "mine"


class TestSocketIO:
    """A handler of flask_socketio has the request of its handshake, and no answer."""

    @pytest.fixture
    def call(self, manager: SessionManager) -> Any:
        """Return a function that calls a method of `UserSessions` in a handler, with the key of a session."""

        def call(how: str, *args: Any, cookie: str | None = "session_key") -> Any:
            sessions = UserSessions()
            app = make_app(sessions, COOKIE=cookie)
            app.secret_key = "of a test"
            io = flask_socketio.SocketIO(app, async_mode="threading")

            @io.on("call")
            def handle() -> Any:
                try:
                    return ["returned", getattr(sessions, how)(*args)]
                except SessionError as error:
                    return [type(error).__name__, str(error)]

            client = io.test_client(app, headers=header(manager.loadNewSession("Luca")))
            answer = client.emit("call", callback=True)
            client.disconnect()
            return answer

        return call

    @pytest.mark.parametrize(("how", "args"), [("sign_in", ["Fabio"]), ("renew_key", [])])
    def test_refused(self, call, manager, how, args):
        """Signing in and renewing the key say what to do, and change nothing: the client could not learn the key."""
        kind, text = call(how, *args)
        assert kind == "SessionError"
        assert "in a view" in text
        assert "USER_SESSIONS_COOKIE" in text
        assert manager.getLoggedUsers() == ["Luca"]

    @pytest.mark.parametrize(("how", "args"), [("sign_in", ["Luca"]), ("renew_key", [])])
    def test_header_alone(self, call, manager, how, args):
        """Without a cookie, the handler can send the key to the client."""
        kind, key = call(how, *args, cookie=None)
        assert (kind, list(manager.sessions)) == ("returned", [key])

    def test_sign_out(self, call, manager):
        """Signing out works: the session ends, and its key is rejected from now on."""
        assert call("sign_out") == ["returned", True]
        assert manager.getLoggedUsers() == []

    def test_sign_out_elsewhere(self, call, manager):
        """Signing out elsewhere works."""
        manager.loadNewSession("Luca")
        assert call("sign_out_elsewhere") == ["returned", 1]

    def test_flask_login(self, manager):
        """Flask-Login's `login_user` is refused too, and leaves no login; its `logout_user` ends the session."""
        flask_login = pytest.importorskip("flask_login")
        app, login_manager = Flask(__name__), flask_login.LoginManager()
        app.secret_key = "of a test"
        login_manager.init_app(app)
        UserSessions(app, login_manager=login_manager)
        users = {name: flask_login.UserMixin() for name in ("luca", "fabio")}
        for name, user in users.items():
            user.id = name
        login_manager.user_loader(users.get)
        app.add_url_rule("/login", "login", lambda: str(flask_login.login_user(users["luca"])))
        app.add_url_rule("/who", "who", lambda: getattr(flask_login.current_user, "id", "nobody"))
        io = flask_socketio.SocketIO(app, async_mode="threading")

        @io.on("log in")
        def log_in() -> list[Any]:
            with pytest.raises(SessionError, match="in a view"):
                flask_login.login_user(users["fabio"])
            return [getattr(flask_login.current_user, "id", "nobody"), manager.getLoggedUsers()]

        @io.on("log out")
        def log_out() -> bool:
            return bool(flask_login.logout_user())

        browser = app.test_client()
        browser.get("/login")
        tab = io.test_client(app, flask_test_client=browser)
        assert tab.emit("log in", callback=True)[1] == ["luca"]
        assert browser.get("/who").text == "luca"
        assert tab.emit("log out", callback=True) is True
        assert (browser.get("/who").text, manager.getLoggedUsers()) == ("nobody", [])
        tab.disconnect()
