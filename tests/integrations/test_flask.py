"""The Flask extension, in applications as its users write them."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from typing import Any

import pytest

pytest.importorskip("flask")

from flask import Blueprint, Flask, render_template_string, request
from flask.views import MethodView

from users_session_manager import (
    AuthenticationTooOld,
    SessionError,
    SessionManager,
    SessionRejected,
    StoreUnavailable,
    TooManySessions,
)
from users_session_manager.integrations.flask import UserSessions, current_session, session_required

UNKNOWN = "Otter-candid-46_" + "0" * 32
COOKIE = "__Host-session_key"
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
GUARDED = ("/me", "/async/me", "/passive", "/class", "/area/me")


def as_async(view: Any) -> Any:
    async def async_view() -> Any:
        return view()

    return async_view


both_views = pytest.mark.parametrize("area", ["", "/async"])


def make_app(sessions: UserSessions | None = None, *, debug: bool = False, **config: Any) -> Flask:
    app = Flask(__name__)
    app.debug = debug
    app.config.update(TESTING=True, **{f"USER_SESSIONS_{name}": value for name, value in config.items()})
    sessions = sessions or UserSessions()
    sessions.init_app(app)

    @app.post("/login")
    def login() -> Any:
        timeout = request.form.get("timeout", type=float)
        key = sessions.sign_in(request.form["name"], data=request.form.get("data"), timeout=timeout)
        return {"session_key": key, "now": current_session.username}

    @app.get("/login")
    def login_page() -> str:
        return sessions.next_page()

    @app.post("/logout")
    def logout() -> Any:
        return {"ended": sessions.sign_out(), "now": bool(current_session)}

    @app.post("/renew")
    def renew() -> Any:
        key = sessions.renew_key(overlap=request.form.get("overlap", 0, type=float))
        return {"session_key": key, "now": current_session.key}

    @app.post("/elsewhere")
    def elsewhere() -> Any:
        return {"ended": sessions.sign_out_elsewhere()}

    for view in (login, renew, elsewhere):
        app.add_url_rule(f"/async/{view.__name__}", f"async_{view.__name__}", as_async(view), methods=["POST"])

    @app.get("/recent")
    @session_required(max_age=3600)
    def recent() -> Any:
        return {"username": current_session.username}

    @app.get("/async/recent")
    @session_required(max_age=3600)
    async def async_recent() -> Any:
        return {"username": current_session.username}

    @app.get("/me")
    @session_required
    def me() -> Any:
        return {"username": current_session.username, "data": current_session.data}

    @app.post("/me")
    @session_required
    def keep() -> Any:
        current_session.data = request.form["data"]
        return {"data": current_session.data}

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

    @app.get("/ends")
    @session_required
    def ends() -> str:
        sessions.manager.deleteSession(current_session.key)
        return current_session.username

    @app.get("/ends-and-writes")
    @session_required
    def ends_and_writes() -> str:
        sessions.manager.deleteSession(current_session.key)
        current_session.data = "lost"
        return "written"

    @app.get("/looks-up")
    @session_required
    def looks_up() -> Any:
        return str(sessions.manager.getSessionDetails(UNKNOWN))

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


@pytest.fixture(params=["with an error listener", "without"])
def either(request: pytest.FixtureRequest, manager: SessionManager) -> SessionManager:
    if request.param == "with an error listener":
        manager.on("error", lambda *_: None)
    return manager


def header(key: str) -> dict[str, str]:
    return {"Session-Key": key}


def cookie(key: str, name: str = COOKIE) -> dict[str, str]:
    return {"Cookie": f"{name}={key}"}


def assert_logged_out(answer: Any) -> None:
    assert (answer.status_code, answer.json) == (401, {"logout": True})
    assert answer.headers["Cache-Control"] == "no-store"


class TestGuard:
    @pytest.mark.parametrize("path", GUARDED)
    def test_a_live_session_gets_in_by_header_or_by_cookie(self, either, path):
        client = client_of(make_app())
        key = either.loadNewSession("Luca")
        for headers in (header(key), cookie(key), header(key) | cookie(UNKNOWN)):
            answer = client.get(path, headers=headers)
            assert (answer.status_code, answer.json["username"]) == (200, "Luca")
            assert answer.headers["Cache-Control"] == "no-store"
            assert "Set-Cookie" not in answer.headers

    @pytest.mark.parametrize("path", GUARDED)
    def test_everyone_else_is_answered_401_and_logout(self, either, path):
        client = client_of(make_app())
        ended, live = either.loadNewSession("Luca"), either.loadNewSession("Luca")
        either.deleteSession(ended)
        assert_logged_out(client.get(path))
        for key in (ended, UNKNOWN, "", "x" * 5000, f"{live},{live}", live[:-1], live.lower()):
            assert_logged_out(client.get(path, headers=header(key)))
            assert_logged_out(client.get(path, headers=header(key) | cookie(live)))
        for key in (ended, UNKNOWN, "", live[:-1]):
            assert_logged_out(client.get(path, headers=cookie(key)))
        assert_logged_out(client.get(path, headers=cookie(live, name="session_key")))
        assert_logged_out(client.get(f"{path}?session_key={live}&Session-Key={live}"))
        assert_logged_out(client.get(path, headers=[("Session-Key", live), ("Session-Key", live)]))

    def test_a_visit_prolongs_and_a_passive_one_does_not(self, client, manager, clock):
        key = manager.loadNewSession("Luca")
        clock.turn(1000)
        client.get("/passive", headers=header(key))
        client.get("/greeting", headers=header(key))
        client.get("/open", headers=header(key))
        assert manager.getSessionTimeLeft(key) == 2000
        for path in ("/me", "/async/me", "/class", "/area/me"):
            clock.turn(10)
            client.get(path, headers=header(key))
            assert manager.getSessionTimeLeft(key) == 3000
        clock.turn(3000)
        assert_logged_out(client.get("/me", headers=header(key)))

    def test_what_was_let_in_stays_readable_when_the_session_ends_meanwhile(self, either):
        client = client_of(make_app())
        headers = header(either.loadNewSession("Luca"))
        answer = client.get("/ends", headers=headers)
        assert (answer.status_code, answer.text) == (200, "Luca")
        assert_logged_out(client.get("/ends", headers=headers))

    def test_writing_to_a_session_that_has_ended_meanwhile_is_a_rejection(self, either):
        client = client_of(make_app())
        for carry in (header, cookie):
            answer = client.get("/ends-and-writes", headers=carry(either.loadNewSession("Luca")))
            assert_logged_out(answer)
        assert_takes_the_cookie_back(answer)

    def test_the_data_of_a_session_is_kept(self, client, manager):
        key = manager.loadNewSession("Luca")
        assert client.post("/me", data={"data": "a"}, headers=header(key)).json == {"data": "a"}
        assert client.get("/me", headers=header(key)).json["data"] == "a" == manager.getSessionData(key)

    def test_what_a_view_lets_be_stored_is_still_not_for_everyone(self, client, manager):
        answer = client.get("/file", headers=header(manager.loadNewSession("Luca")))
        assert answer.headers["Cache-Control"] == "private, max-age=60"
        assert set(answer.vary) == {"Cookie", "Session-Key"}

    def test_a_view_that_nobody_guards_is_left_alone(self, client):
        answer = client.get("/open")
        assert "Cache-Control" not in answer.headers
        assert "Vary" not in answer.headers


class TestCurrentSession:
    def test_on_an_open_route_it_is_the_live_session_or_false(self, either):
        client = client_of(make_app())
        key = either.loadNewSession("Luca")
        answers = [client.get("/greeting", headers=headers) for headers in (header(key), cookie(key))]
        assert [answer.text for answer in answers] == ["hello Luca"] * 2
        either.deleteSession(key)
        answers = [client.get("/greeting", headers=headers) for headers in (header(key), cookie(UNKNOWN), {})]
        assert [(answer.status_code, answer.text) for answer in answers] == [(200, "hello stranger")] * 3
        assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}

    def test_on_an_open_route_nobody_is_sent_away_when_it_ends_meanwhile(self, either):
        key = either.loadNewSession("Luca")
        with make_app().test_request_context(headers=header(key)):
            assert current_session
            either.deleteSession(key)
            assert current_session.username == "Luca"

    def test_it_is_asked_for_once_a_request(self, manager, heard):
        app = make_app()
        with app.test_request_context(headers=header(UNKNOWN)):
            manager.on("error", lambda *_: None)
            assert not current_session
            assert not current_session
        assert heard.names() == ["error"]

    def test_requests_in_one_application_context_do_not_share_it(self, client, manager):
        key = manager.loadNewSession("Luca")
        with client.application.app_context():
            assert client.get("/greeting", headers=header(key)).text == "hello Luca"
            assert client.get("/greeting").text == "hello stranger"
            assert_logged_out(client.get("/me"))

    def test_no_secret_in_its_repr(self, manager):
        key = manager.loadNewSession("Luca")
        with make_app().test_request_context(headers=header(key)):
            assert current_session.username == "Luca"
            assert repr(current_session) == f"<RequestSession {key.partition('_')[0]}>"
        assert key.partition("_")[2] not in repr(current_session)


class TestSignIn:
    def test_the_key_is_in_the_answer_and_in_a_cookie_for_the_server_alone(self, client, manager):
        answer = client.post("/login", data={"name": "Luca"})
        key = answer.json["session_key"]
        assert answer.json["now"] == manager.getUsernameFromSessionKey(key) == "Luca"
        assert answer.headers["Set-Cookie"] == f"{COOKIE}={key}; Secure; HttpOnly; Path=/; SameSite=Lax"
        assert answer.headers["Cache-Control"] == "no-store"
        client = client.application.test_client()
        client.post("/login", data={"name": "Fabio"}, base_url="https://localhost")
        assert client.get("/me", base_url="https://localhost").json["username"] == "Fabio"

    def test_the_session_before_ends(self, either):
        client = client_of(make_app())
        for carry in (header, cookie):
            before = either.loadNewSession("Fabio")
            key = client.post("/login", data={"name": "Luca"}, headers=carry(before)).json["session_key"]
            assert key != before
            assert either.getLoggedUsers() == ["Luca"]
            either.deleteSession(key)

    @both_views
    @pytest.mark.parametrize("carry", [header, cookie])
    def test_that_of_the_same_user_goes_on_under_a_new_key(self, either, clock, carry, area):
        client = client_of(make_app())
        old = either.loadNewSession("Luca", data="cart")
        session = either.sessions[old]
        session.createdAt = session.authenticatedAt = 1000.0
        clock.turn(1000)
        answer = client.post(f"{area}/login", data={"name": "Luca"}, headers=carry(old))
        key = answer.json["session_key"]
        assert answer.headers["Set-Cookie"].startswith(f"{COOKIE}={key};")
        assert_logged_out(client.get("/me", headers=carry(old)))
        assert client.get("/passive", headers=carry(key)).json == {"username": "Luca"}
        assert (list(either.sessions), either.getSessionData(key)) == ([key], "cart")
        assert session.createdAt == 1000.0 < session.authenticatedAt
        assert either.getSessionTimeLeft(key) == 3000

    @both_views
    def test_an_attacker_never_knows_the_key_the_victim_ends_up_with(self, either, area):
        client = client_of(make_app())
        planted = [either.loadNewSession("Mallory"), either.loadNewSession("Luca"), UNKNOWN]
        for key in planted:
            headers = [*header(key).items(), *cookie(planted[1]).items()]
            new = client.post(f"{area}/login", data={"name": "Luca"}, headers=headers).json["session_key"]
            assert new not in planted
        for key in planted:
            assert_logged_out(client.get("/me", headers=header(key)))

    def test_the_sessions_of_both_the_header_and_the_cookie_are_gone(self, either):
        client = client_of(make_app())
        for method in ("/login", "/logout"):
            both = header(either.loadNewSession("Fabio")) | cookie(either.loadNewSession("Mallory"))
            client.post(method, data={"name": "Luca"}, headers=both)
            assert either.getLoggedUsers() == ["Luca"]

    @both_views
    def test_a_refused_login_leaves_the_clients_session_and_cookie_alone(self, either, area):
        either.setMaxSessionsPerUser(1, "reject")
        app = make_app()
        app.register_error_handler(TooManySessions, lambda _: ("somewhere else already", 409))
        client = client_of(app)
        either.loadNewSession("Luca")
        here = either.loadNewSession("Fabio", data="cart")
        answer = client.post(f"{area}/login", data={"name": "Luca"}, headers=cookie(here))
        assert answer.status_code == 409
        assert "Set-Cookie" not in answer.headers
        assert client.get("/me", headers=cookie(here)).json == {"username": "Fabio", "data": "cart"}

    @both_views
    def test_with_a_timeout_of_its_own_the_session_keeps_to_it_and_the_browser_keeps_the_cookie(
        self, either, clock, area
    ):
        client = client_of(make_app())
        answer = client.post(f"{area}/login", data={"name": "Luca", "data": "cart", "timeout": 9000})
        key = answer.json["session_key"]
        assert "; Max-Age=34560000;" in answer.headers["Set-Cookie"]
        clock.turn(8000)
        assert client.get("/me", headers=cookie(key)).json["data"] == "cart"
        assert either.getSessionTimeLeft(key) == 9000
        again = client.post(f"{area}/renew", headers=cookie(key))
        assert "; Max-Age=34560000;" in again.headers["Set-Cookie"]

    def test_a_key_that_is_given_to_the_client_is_never_taken_over(self, either):
        client = client_of(make_app())
        for carry in (header, cookie):
            answer = client.post("/login", data={"name": "Luca"}, headers=carry(UNKNOWN))
            assert answer.json["session_key"] != UNKNOWN
        assert UNKNOWN not in either.sessions

    def test_twice_in_a_request_leaves_one_session(self, manager):
        sessions = UserSessions()
        with make_app(sessions).test_request_context():
            sessions.sign_in("Luca")
            key = sessions.sign_in("Fabio")
            assert manager.getLoggedUsers() == ["Fabio"]
            assert (current_session.key, current_session.username) == (key, "Fabio")

    def test_what_the_manager_refuses_is_refused(self, manager):
        sessions = UserSessions()
        with make_app(sessions).test_request_context(), pytest.raises(ValueError, match="non-empty"):
            sessions.sign_in("")


class TestRenewKey:
    @both_views
    def test_the_new_key_is_in_the_answer_and_the_cookie_and_the_old_one_is_dead_at_once(self, either, clock, area):
        client = client_of(make_app())
        old = either.loadNewSession("Luca", data="cart")
        clock.turn(1000)
        answer = client.post(f"{area}/renew", headers=cookie(old))
        key = answer.json["session_key"]
        assert answer.json["now"] == key != old
        assert answer.headers["Set-Cookie"] == f"{COOKIE}={key}; Secure; HttpOnly; Path=/; SameSite=Lax"
        assert answer.headers["Cache-Control"] == "no-store"
        assert either.getSessionTimeLeft(key) == 2000
        assert_logged_out(client.get("/me", headers=cookie(old)))
        assert client.get("/me", headers=cookie(key)).json == {"username": "Luca", "data": "cart"}

    @both_views
    def test_with_an_overlap_a_request_under_way_passes_and_is_rejected_from_then_on(self, either, clock, area):
        client = client_of(make_app())
        old = either.loadNewSession("Luca")
        key = client.post(f"{area}/renew", data={"overlap": 10}, headers=cookie(old)).json["session_key"]
        clock.turn(9.5)
        answer = client.get("/me", headers=cookie(old))
        assert answer.status_code == 200
        assert "Set-Cookie" not in answer.headers  # the browser has got it from the other answer
        clock.turn(0.5)
        assert_logged_out(client.get("/me", headers=cookie(old)))
        assert client.get("/me", headers=cookie(key)).status_code == 200

    def test_twice_in_a_request_leaves_one_key(self, manager):
        sessions = UserSessions()
        with make_app(sessions).test_request_context(headers=header(manager.loadNewSession("Luca"))):
            first, second = sessions.renew_key(), sessions.renew_key()
            assert first != second == current_session.key
            assert list(manager.sessions) == [second]

    @both_views
    def test_without_a_session_it_is_a_rejection(self, either, area):
        client = client_of(make_app())
        for headers in ({}, header(UNKNOWN), cookie(UNKNOWN)):
            assert_logged_out(client.post(f"{area}/renew", headers=headers))

    def test_an_overlap_that_is_no_time_changes_nothing(self, manager):
        sessions = UserSessions()
        key = manager.loadNewSession("Luca")
        with make_app(sessions).test_request_context(headers=header(key)), pytest.raises(ValueError, match="overlap"):
            sessions.renew_key(overlap=-1)
        assert list(manager.sessions) == [key]


@pytest.mark.parametrize("path", ["/recent", "/async/recent"])
class TestMaxAge:
    def test_without_a_session_it_is_401(self, either, path):
        client = client_of(make_app())
        for headers in ({}, header(UNKNOWN), cookie(UNKNOWN)):
            assert_logged_out(client.get(path, headers=headers))

    def test_a_login_that_is_too_old_is_403_until_the_key_is_renewed(self, either, path):
        client = client_of(make_app())
        key = either.loadNewSession("Luca")
        assert client.get(path, headers=cookie(key)).json == {"username": "Luca"}
        # The second one: as if the computer's time had been set back since.
        for away in (-3601, +3600):
            either.sessions[key].authenticatedAt = time.time() + away
            answer = client.get(path, headers=cookie(key))
            assert (answer.status_code, answer.json) == (403, {"reauthenticate": True})
            assert answer.headers["Cache-Control"] == "no-store"
            assert "Set-Cookie" not in answer.headers
            assert client.get("/me", headers=cookie(key)).status_code == 200
        key = client.post("/renew", headers=cookie(key)).json["session_key"]
        assert client.get(path, headers=cookie(key)).json == {"username": "Luca"}

    def test_the_application_may_answer_in_its_own_way(self, manager, path):
        app = make_app(LOGIN_URL="/login")
        app.register_error_handler(AuthenticationTooOld, lambda _: ("your password, please", 403))
        key = manager.loadNewSession("Luca")
        manager.sessions[key].authenticatedAt = 1000.0
        assert client_of(app).get(path, headers=BROWSER | cookie(key)).text == "your password, please"


@pytest.mark.parametrize("max_age", ["60", -1, float("nan"), float("inf"), True])
def test_a_max_age_that_is_no_time_is_refused_where_it_stands(max_age):
    with pytest.raises((TypeError, ValueError), match="max_age"):
        session_required(max_age=max_age)(lambda: None)


class TestSignOutElsewhere:
    @both_views
    @pytest.mark.parametrize("carry", [header, cookie])
    def test_the_others_of_the_same_user_end_and_nobody_elses(self, either, carry, area):
        client = client_of(make_app())
        here, there = either.loadNewSession("Luca"), either.loadNewSession("Luca")
        either.loadNewSession("Fabio")
        answer = client.post(f"{area}/elsewhere", headers=carry(here))
        assert answer.json == {"ended": 1}
        assert "Set-Cookie" not in answer.headers
        assert_logged_out(client.get("/me", headers=carry(there)))
        assert client.get("/me", headers=carry(here)).status_code == 200
        assert either.getLoggedUsers() == ["Luca", "Fabio"]

    @both_views
    def test_without_a_session_it_is_a_rejection_and_ends_nothing(self, either, area):
        client = client_of(make_app())
        either.loadNewSession("Luca")
        for headers in ({}, header(UNKNOWN), cookie(UNKNOWN)):
            assert_logged_out(client.post(f"{area}/elsewhere", headers=headers))
        assert either.getLoggedUsers() == ["Luca"]


class TestSignOut:
    @pytest.mark.parametrize("carry", [header, cookie])
    def test_the_session_and_the_cookie_go(self, either, carry):
        client = client_of(make_app())
        key = either.loadNewSession("Luca")
        answer = client.post("/logout", headers=carry(key))
        assert answer.json == {"ended": True, "now": False}
        assert answer.headers["Cache-Control"] == "no-store"
        assert_takes_the_cookie_back(answer)
        assert either.getLoggedUsers() == []
        assert_logged_out(client.get("/me", headers=carry(key)))

    def test_without_a_session_it_is_no_event(self, client, heard):
        for headers in ({}, header(UNKNOWN), cookie(UNKNOWN)):
            assert client.post("/logout", headers=headers).json == {"ended": False, "now": False}
        assert heard.events == []


def assert_takes_the_cookie_back(answer: Any, name: str = COOKIE) -> None:
    (line,) = answer.headers.getlist("Set-Cookie")
    assert line.startswith(f"{name}=; Expires=Thu, 01 Jan 1970")
    assert ("; Secure;" in line) is name.startswith("__Host-")
    assert line.endswith("; HttpOnly; Path=/; SameSite=Lax")


class TestRejection:
    def test_a_dead_cookie_is_taken_back(self, either):
        client = client_of(make_app())
        for key in (UNKNOWN, "luca"):
            assert_takes_the_cookie_back(client.get("/me", headers=cookie(key)))

    def test_a_live_cookie_stays_when_another_key_is_rejected(self, manager):
        client = client_of(make_app())
        live = cookie(manager.loadNewSession("Luca"))
        for answer in (client.get("/me", headers=header(UNKNOWN) | live), client.get("/looks-up", headers=live)):
            assert_logged_out(answer)
            assert "Set-Cookie" not in answer.headers

    def test_the_cookie_of_a_login_stays_when_another_key_is_rejected(self, manager):
        sessions = UserSessions()
        app = make_app(sessions)
        app.add_url_rule("/login-and-look", view_func=lambda: sessions.sign_in("Luca") and manager_rejects())
        answer = client_of(app).get("/login-and-look", headers=cookie(UNKNOWN))
        assert_logged_out(answer)
        (key,) = manager.sessions
        assert answer.headers.getlist("Set-Cookie")[0].startswith(f"{COOKIE}={key};")

    def test_a_browser_is_sent_to_the_login_page(self, either):
        for login in ("login_page", "/login"):
            client = client_of(make_app(LOGIN_URL=login))
            answer = client.get("/me?a=1&b=%2F", headers=BROWSER | cookie(UNKNOWN))
            assert (answer.status_code, answer.location) == (303, "/login?next=%2Fme%3Fa%3D1%26b%3D%252F")
            assert answer.headers["Cache-Control"] == "no-store"
            assert_takes_the_cookie_back(answer)
            assert client.get(answer.location).text == "/me?a=1&b=%2F"

    def test_the_url_of_a_login_page_keeps_its_query(self, manager):
        client = client_of(make_app(LOGIN_URL="https://sso.example.test/in?for=app"))
        answer = client.get("/me", headers=BROWSER)
        assert answer.location == "https://sso.example.test/in?for=app&next=%2Fme"

    def test_below_a_prefix_the_way_back_has_it_too(self, manager):
        client = client_of(make_app(LOGIN_URL="login_page"))
        answer = client.get("/me", headers=BROWSER, base_url="https://localhost/app")
        assert answer.location == "/app/login?next=%2Fapp%2Fme"

    def test_what_cannot_be_repeated_has_no_way_back(self, manager):
        client = client_of(make_app(LOGIN_URL="login_page"))
        assert client.post("/me", headers=BROWSER).location == "/login"
        assert client.get("/docs/a\\b", headers=BROWSER).location == "/login"

    @pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/html", "", "image/png"])
    def test_whoever_takes_json_as_gladly_gets_json(self, manager, accept):
        client = client_of(make_app(LOGIN_URL="login_page"))
        assert_logged_out(client.get("/me", headers={"Accept": accept}))

    def test_without_a_login_page_a_browser_gets_json_too(self, client):
        assert_logged_out(client.get("/me", headers=BROWSER))

    @pytest.mark.parametrize(
        "path", ["//evil.test", "/\\evil.test", "https://evil.test", "/\t/evil.test", "\\", "", "javascript:1", "/a\nb"]
    )
    def test_the_way_back_leads_nowhere_else(self, client, path):
        assert client.get("/login", query_string={"next": path}).text == "/"

    def test_the_application_may_answer_in_its_own_way(self, manager):
        app = make_app()
        app.register_error_handler(SessionRejected, lambda _: ("who are you?", 403))
        answer = client_of(app).get("/me")
        assert (answer.status_code, answer.text) == (403, "who are you?")


class TestStoreAway:
    @pytest.fixture
    def away(self, clock, monkeypatch):
        def go() -> None:
            def ask(*_: Any, **__: Any) -> Any:
                raise StoreUnavailable("no answer")

            for name in ("add", "get", "restart", "remove", "renew_key", "set_data", "remove_user"):
                monkeypatch.setattr(clock.store, name, ask)

        return go

    def test_nobody_knows_so_nobody_gets_in_and_nobody_is_logged_out(self, client, manager, away):
        key = manager.loadNewSession("Luca")
        away()
        client.application.add_url_rule("/users", view_func=lambda: manager.getUsernameFromSessionKey(key) or "nobody")
        calls = [("get", path) for path in (*GUARDED, "/greeting", "/users")] + [
            ("post", "/login"),
            ("post", "/logout"),
            ("post", "/renew"),
            ("post", "/elsewhere"),
            ("get", "/recent"),
        ]
        for method, path in calls:
            answer = getattr(client, method)(path, headers=cookie(key), data={"name": "Luca"})
            assert (answer.status_code, answer.json) == (503, {"unavailable": True}), path
            assert answer.headers["Retry-After"] == "5"
            assert answer.headers["Cache-Control"] == "no-store"
            assert "Set-Cookie" not in answer.headers

    def test_a_cookie_that_is_not_known_to_be_dead_stays(self, client, manager, away):
        client.application.add_url_rule("/rejected", view_func=lambda: away() or manager_rejects())
        answer = client.get("/rejected", headers=cookie(manager.loadNewSession("Luca")))
        assert_logged_out(answer)
        assert "Set-Cookie" not in answer.headers


def manager_rejects() -> Any:
    raise SessionRejected


class TestSettings:
    def test_their_defaults_stand_in_the_configuration(self, manager):
        app = make_app()
        settings = {name: value for name, value in app.config.items() if name.startswith("USER_SESSIONS_")}
        assert settings == {
            "USER_SESSIONS_HEADER": "Session-Key",
            "USER_SESSIONS_COOKIE": "session_key",
            "USER_SESSIONS_COOKIE_SECURE": True,
            "USER_SESSIONS_LOGIN_URL": None,
        }

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("HEADER", "session_key"),
            ("HEADER", ""),
            ("HEADER", 5),
            ("COOKIE", "a b"),
            ("COOKIE", "session"),  # Flask's own
            ("COOKIE", 5),
            ("COOKIE_SECURE", "yes"),
            ("COOKIE_SECURE", None),
            ("LOGIN_URL", ""),
            ("LOGIN_URL", 5),
        ],
    )
    def test_one_that_cannot_work_is_refused_by_name(self, manager, name, value):
        with pytest.raises(ValueError, match=f"^USER_SESSIONS_{name}\\b") as refusal:
            make_app(**{name: value})
        assert repr(value) in str(refusal.value) or "both are None" in str(refusal.value)

    def test_the_key_needs_some_way(self, manager):
        with pytest.raises(ValueError, match=r"^USER_SESSIONS_HEADER and USER_SESSIONS_COOKIE: .* both are None"):
            make_app(HEADER=None, COOKIE=None)

    def test_while_debugging_the_cookie_works_over_http(self, manager):
        client = client_of(make_app(debug=True))
        answer = client.post("/login", data={"name": "Luca"})
        key = answer.json["session_key"]
        assert answer.headers["Set-Cookie"] == f"session_key={key}; HttpOnly; Path=/; SameSite=Lax"
        assert client.get("/me", headers=cookie(key, "session_key")).status_code == 200
        assert_takes_the_cookie_back(client.post("/logout", headers=cookie(key, "session_key")), "session_key")

    def test_header_alone(self, manager):
        client = client_of(make_app(COOKIE=None))
        answer = client.post("/login", data={"name": "Luca"})
        key = answer.json["session_key"]
        assert client.get("/me", headers=header(key)).status_code == 200
        assert set(client.get("/file", headers=header(key)).vary) == {"Session-Key"}
        for name in (COOKIE, "session_key", "None"):
            assert_logged_out(client.get("/me", headers=cookie(key, name)))
        for late in (client.get("/me", headers=header(UNKNOWN)), client.post("/logout", headers=header(key)), answer):
            assert "Set-Cookie" not in late.headers

    def test_cookie_alone(self, manager):
        client = client_of(make_app(HEADER=None))
        key = manager.loadNewSession("Luca")
        assert client.get("/me", headers=cookie(key)).status_code == 200
        assert set(client.get("/file", headers=cookie(key)).vary) == {"Cookie"}
        assert_logged_out(client.get("/me", headers=header(key)))

    def test_other_names(self, manager):
        client = client_of(make_app(HEADER="X-Key", COOKIE="key", COOKIE_SECURE=False))
        key = manager.loadNewSession("Luca")
        for headers in ({"X-Key": key}, cookie(key, "key")):
            assert client.get("/me", headers=headers).status_code == 200


class TestApplications:
    def test_one_extension_serves_several_each_with_settings_of_its_own(self, manager):
        sessions = UserSessions()
        first, second = client_of(make_app(sessions)), client_of(make_app(sessions, HEADER="X-Key", COOKIE=None))
        key = first.post("/login", data={"name": "Luca"}).json["session_key"]
        assert second.get("/me", headers={"X-Key": key}).json["username"] == "Luca"
        assert_logged_out(second.get("/me", headers=header(key)))
        assert "Set-Cookie" not in second.post("/login", data={"name": "Fabio"}).headers

    def test_it_stands_where_flask_keeps_extensions(self, manager):
        app = Flask(__name__)
        sessions = UserSessions(app)
        installed = app.extensions["users_session_manager"]
        assert (installed.sessions, installed.carrier.cookie) == (sessions, COOKIE)

    def test_twice_in_one_application_is_an_error(self, manager):
        with pytest.raises(SessionError, match="already"):
            UserSessions(make_app())

    def test_an_application_without_it_is_told_so(self, manager):
        app = Flask(__name__)
        with app.test_request_context(), pytest.raises(SessionError, match="has not been called"):
            session_required(lambda: None)()

    def test_the_manager_is_the_one_there_is_or_the_one_that_was_given(self, manager):
        first = UserSessions()
        assert first.manager is manager is UserSessions(manager=manager).manager
        manager.close()
        assert first.manager is not manager
        first.manager.close()

    def test_a_guarded_view_keeps_its_name(self):
        @session_required(passive=True)
        def profile() -> None:
            """Who you are."""

        assert (profile.__name__, profile.__doc__) == ("profile", "Who you are.")


def test_no_secret_in_a_url_a_log_or_an_answer_but_that_of_the_login(client, manager, caplog):
    key = client.post("/login", data={"name": "Luca"}).json["session_key"]
    answers = [client.get(path, headers=cookie(key)) for path in (*GUARDED, "/greeting", "/ends", "/me")]
    answers.append(client_of(make_app(LOGIN_URL="/login")).get("/me", headers=BROWSER | cookie(key)))
    lines = [logging.Formatter().format(record) for record in caplog.records]
    for answer in answers:
        lines += [answer.text, str(answer.headers)]
    assert key.partition("_")[2] not in "\n".join(lines)


def test_without_flask_the_import_says_what_to_install():
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
