"""Forms of other origins sign no user in or out: the decision, and the answer of each framework."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from web_sites import ONE_OF_EACH, SITES, Answer, Site

from users_session_manager import CrossOriginRequest, SessionManager
from users_session_manager.integrations._forgery import OriginCheck, check_origins

FORM = "application/x-www-form-urlencoded"
HOST = "example.test"
OWN, OTHER = f"https://{HOST}", "https://evil.test"
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
COOKIE = "__Host-session_key"


def is_refused(check: OriginCheck, method: str, headers: dict[str, str], *, is_https: bool = True) -> bool:
    """Whether a request is; by default it comes over https."""
    try:
        check.require_own_form(method, {"Host": HOST, **headers}.get, is_https=is_https)
    except CrossOriginRequest:
        return True
    return False


class TestDecision:
    """Whether a form is refused, by what the browser says of it."""

    @pytest.mark.parametrize(
        ("site", "origin", "refused"),
        [
            ("same-origin", OWN, False),
            ("same-origin", "null", False),  # a page under `no-referrer`
            ("same-origin", None, False),
            ("none", None, False),  # the user has sent it, by a bookmark for example
            ("none", "null", False),
            ("same-site", OWN, True),
            ("same-site", f"https://blog.{HOST}", True),
            ("cross-site", OTHER, True),
            ("cross-site", "null", True),
            ("cross-site", None, True),
            ("Same-Origin", OWN, True),  # no browser says so
            ("", OWN, True),
            (None, None, False),  # no browser
            (None, OWN, False),
            (None, OWN.upper(), False),
            (None, f"{OWN}:443", False),
            (None, f"{OWN}:444", True),
            (None, f"http://{HOST}", True),
            (None, f"http://{HOST}:443", True),
            (None, f"{OWN}.evil.test", True),
            (None, f"https://evil.test/{HOST}", True),
            (None, OTHER, True),
            (None, "null", True),
            (None, "", True),
        ],
    )
    def test_headers(self, site, origin, refused):
        headers = {"Sec-Fetch-Site": site, "Origin": origin}
        present = {name: value for name, value in headers.items() if value is not None}
        assert is_refused(OriginCheck((), 0), "POST", present) is refused

    @pytest.mark.parametrize(
        ("media_type", "refused"),
        [
            (None, True),
            ("", True),
            (FORM, True),
            (FORM.upper(), True),
            (f" {FORM} ; charset=utf-8", True),
            ("multipart/form-data; boundary=application/json", True),
            ("text/plain", True),
            ("text/plain; application/json", True),
            ("text/ping", True),
            ("application/csp-report", True),
            ("application/json", False),
            ("application/json; charset=utf-8", False),
            ("application/vnd.api+json", False),
            ("application/xml", False),
        ],
    )
    def test_media_types(self, media_type, refused):
        """A page can post to another origin what a form can, and anything else after a CORS preflight alone."""
        headers = {"Origin": OTHER, "Sec-Fetch-Site": "cross-site"}
        headers |= {} if media_type is None else {"Content-Type": media_type}
        assert is_refused(OriginCheck((), 0), "POST", headers) is refused

    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"])
    def test_other_methods(self, method):
        """A GET comes from an identity provider, and what is neither that nor a POST needs a CORS preflight."""
        assert not is_refused(OriginCheck((), 0), method, {"Origin": OTHER, "Sec-Fetch-Site": "cross-site"})

    @pytest.mark.parametrize(
        ("proxies", "headers", "is_https", "refused"),
        [
            (0, {"Host": "127.0.0.1:8000"}, True, True),
            (0, {"Host": "127.0.0.1:8000", "X-Forwarded-Host": HOST}, True, True),  # the client may have written it
            (1, {"Host": "127.0.0.1:8000", "X-Forwarded-Host": HOST}, True, False),
            (1, {"Host": "127.0.0.1:8000", "X-Forwarded-Host": f"{HOST}:443"}, True, False),
            (1, {"Host": "127.0.0.1:8000", "X-Forwarded-Host": HOST}, False, True),
            (1, {"Host": "127.0.0.1:8000", "X-Forwarded-Host": f"evil.test, {HOST}"}, True, False),
            (1, {"Host": "127.0.0.1:8000", "X-Forwarded-Host": f"{HOST}, inner.test"}, True, True),
            (2, {"Host": "127.0.0.1:8000", "X-Forwarded-Host": f"{HOST}, inner.test"}, True, False),
            (2, {"Host": "127.0.0.1:8000", "X-Forwarded-Host": HOST}, True, False),
            (1, {"Host": HOST}, True, False),  # the proxy passes it
            (1, {"Host": HOST, "X-Forwarded-Host": ""}, True, False),
            (0, {"Host": HOST}, False, True),
        ],
    )
    def test_proxies(self, proxies, headers, is_https, refused):
        """The host is the one that the client has asked for, as the last proxies say that are known to be there."""
        check = OriginCheck((), proxies)
        assert is_refused(check, "POST", {**headers, "Origin": OWN}, is_https=is_https) is refused

    @pytest.mark.parametrize("host", ["192.168.0.7:8000", "[::1]:8000", "localhost", "example.test:80"])
    def test_plain_http(self, host):
        """Browsers leave the default port out, some proxies do not."""
        check, origin = OriginCheck((), 0), f"http://{host}".removesuffix(":80")
        assert not is_refused(check, "POST", {"Host": host, "Origin": origin}, is_https=False)
        assert is_refused(check, "POST", {"Host": host, "Origin": f"{origin}:81"}, is_https=False)

    def test_port_of_another_scheme(self):
        """The default port of http is none of https, and the other way round."""
        for is_https, scheme, port in ((True, "https", 80), (False, "http", 443)):
            headers = {"Host": HOST, "Origin": f"{scheme}://{HOST}:{port}"}
            assert is_refused(OriginCheck((), 0), "POST", headers, is_https=is_https)

    @pytest.mark.parametrize("site", [None, "cross-site", "same-site"])
    def test_trusted_origins(self, site):
        """An origin that is named may do it, in whatever way its name is written, and no other one."""
        check = OriginCheck(["https://App.example:443", "capacitor://localhost"], 0)
        headers = {} if site is None else {"Sec-Fetch-Site": site}
        for origin in ("https://app.example", "capacitor://localhost"):
            assert not is_refused(check, "POST", {"Origin": origin, **headers})
        for origin in ("http://app.example", "https://app.example:8443", "https://app.example.evil.test", "null"):
            assert is_refused(check, "POST", {"Origin": origin, **headers})

    @pytest.mark.parametrize("value", [(), [], {"https://a.example"}, ("http://[::1]:80",), ["app-1://x_y.z"]])
    def test_right_values(self, value):
        check_origins(value)

    @pytest.mark.parametrize(
        "value",
        [
            *(None, "https://app.example", [b"https://app.example"], 7),
            *(["null"], ["*"], ["https://*.example"], ["https://app.example/"], ["https://app.example/path"]),
            *(["app.example"], ["//app.example"], ["https://"], ["https://a b"], ["https://u@app.example"], [""]),
            *(["https://app.example:"], ["https://app.example:080"], ["https://app.example:123456"]),
        ],
    )
    def test_wrong_values(self, value):
        with pytest.raises((TypeError, ValueError)):
            check_origins(value)


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    return make_site(request.param)


@pytest.fixture(params=ONE_OF_EACH)
def make(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Callable[..., Site]:
    """Make a site of each framework with settings."""
    return functools.partial(make_site, request.param)


ATTACKS = [
    {"Sec-Fetch-Site": "cross-site", "Origin": OTHER},
    {"Sec-Fetch-Site": "same-site", "Origin": f"https://{HOST}:8443"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
    {"Origin": OTHER},
    {"Origin": f"https://{HOST}:8443"},
    {"Origin": "null"},
]


def cookie(key: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={key}"}


def assert_refused(answer: Answer, *, page: bool = False) -> None:
    assert answer.status == 403
    if page:
        assert "<h1>Please use a page of this site for that.</h1>" in answer.text
    else:
        assert answer.json == {"crossOrigin": True}
    assert answer.header("Cache-Control") == "no-store, private"
    assert answer.cookie is None, "what the attacker must not change is the cookie"


class TestForms:
    """Sign-in and sign-out by forms, in each framework."""

    @pytest.mark.parametrize("headers", ATTACKS, ids=lambda headers: "-".join(headers.values()))
    def test_attacks(self, site, manager, headers):
        """A form of another origin signs no user in or out, whether the cookie is sent or not."""
        key = site.post("/login", name="Luca").json["key"]
        for shown in ({}, cookie(key)):
            form = {"Content-Type": FORM, **headers, **shown}
            assert_refused(site.post("/login", form, name="Luca"))
            assert_refused(site.post("/logout", form))
            assert_refused(site.post("/logout", form | HTML), page=True)
        assert list(manager.sessions) == [key]

    def test_elsewhere(self, site, manager):
        """A form of another origin ends no other session of the user, and the own form does."""
        keys = [site.post("/login", name="Luca").json["key"] for _ in range(2)]
        form = {"Content-Type": FORM, **cookie(keys[0])}
        for headers in ATTACKS:
            assert_refused(site.post("/elsewhere", form | headers))
        assert list(manager.sessions) == keys
        assert site.post("/elsewhere", form | {"Origin": OWN}).json == {"ended": 1}
        assert list(manager.sessions) == keys[:1]

    def test_login_of_another(self, site, manager):
        """A forged login does not sign its attacker in."""
        assert_refused(site.post("/login", {"Content-Type": FORM, **ATTACKS[0]}, name="Fabio"))
        assert manager.getLoggedUsers() == []

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Origin": OWN},
            {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
            {"Sec-Fetch-Site": "none"},
            {"Content-Type": "application/json", **ATTACKS[0]},
        ],
        ids=["no browser", "Origin", "same-origin", "none", "JSON"],
    )
    def test_let_in(self, site, manager, headers):
        """The own forms, programs, and what needs a CORS preflight sign in and out."""
        answer = site.post("/login", {"Content-Type": FORM, **headers}, name="Luca")
        assert (answer.status, answer.cookie.value) == (200, answer.json["key"])
        answer = site.post("/logout", {"Content-Type": FORM, **headers, **cookie(answer.json["key"])})
        assert (answer.status, answer.cookie["max-age"]) == (200, "0")
        assert manager.getLoggedUsers() == []

    def test_key_in_header(self, site, manager):
        """A page of another origin sends the header after a CORS preflight alone, so it may sign out with it."""
        key = site.post("/login", name="Luca").json["key"]
        attack = {"Content-Type": FORM, **ATTACKS[0]}
        assert site.post("/logout", {**attack, "Session-Key": key}).status == 200
        assert manager.getLoggedUsers() == []

    def test_get(self, site, manager):
        """An identity provider redirects the browser back, from its own site and with a GET."""
        answer = site.get("/login", ATTACKS[0], name="Luca")
        assert (answer.status, answer.cookie.value) == (200, answer.json["key"])

    def test_cookie_that_was_not_shown(self, site, manager):
        """A logout deletes no cookie that the request has not shown: another site's page can send such a request."""
        key = site.post("/login", name="Luca").json["key"]
        for answer in (site.get("/logout", ATTACKS[0]), site.post("/logout"), site.get("/me")):
            assert answer.cookie is None
        assert list(manager.sessions) == [key]
        assert site.post("/logout", cookie(key)).cookie["max-age"] == "0"


class TestSettings:
    """The settings that decide it, in each framework."""

    def test_trusted_origins(self, make, manager):
        """An origin that is named may send forms."""
        site = make(trusted_origins=["https://app.example"])
        attack = {"Content-Type": FORM, "Sec-Fetch-Site": "cross-site"}
        assert site.post("/login", {**attack, "Origin": "https://app.example"}, name="Luca").status == 200
        assert_refused(site.post("/login", {**attack, "Origin": OTHER}, name="Luca"))

    def test_proxies(self, make, manager):
        """Behind a proxy, the requested host is known if the setting counts the proxy."""
        shown = {"Origin": "https://public.test", "X-Forwarded-Host": "public.test", "X-Forwarded-Proto": "https"}
        assert_refused(make().post("/login", shown, name="Luca"))
        assert make(proxies=1).post("/login", shown, name="Luca").status == 200

    @pytest.mark.parametrize("value", ["https://app.example", ["app.example"], ["*"], None])
    def test_wrong_value(self, make, value):
        """A value that cannot work is an error at the start that names the setting."""
        with pytest.raises(Exception, match=r"(?i)trusted_origins") as error:
            make(trusted_origins=value).get("/open")
        assert type(error.value).__name__ in ("ValueError", "ImproperlyConfigured")

    def test_log(self, make, manager, caplog):
        """The log says once what was refused, by which values, and which settings decide it."""
        site = make()
        for headers in ATTACKS:
            assert_refused(site.post("/login", headers, name="Luca"))
        [line] = [
            each for each in caplog.records if each.name == "users_session_manager" and each.levelno > logging.INFO
        ]
        text = line.getMessage()
        for part in ("'cross-site'", f"'{OTHER}'", f"'{OWN}'", "PROXIES", "proxies", "TRUSTED_ORIGINS", "same-origin"):
            assert part in text


@pytest.mark.parametrize("name", ["flask", "fastapi"])
def test_no_cookie(name, manager, make_site):
    """Where keys travel in headers alone, a front end of another origin signs in by a form, as with OAuth2."""
    site = make_site(name, cookie=None)
    for headers in ATTACKS:
        answer = site.post("/login", {"Content-Type": FORM, **headers}, name="Luca")
        assert (answer.status, answer.cookie) == (200, None)
    assert manager.getLoggedUsers() == len(ATTACKS) * ["Luca"]


def test_bearer(manager, make_site):
    """FastAPI: a bearer token needs a CORS preflight too; other credentials browsers send by themselves."""
    site = make_site("fastapi", bearer=True)
    for scheme, status in (("Bearer", 200), ("Basic", 403)):
        key = manager.loadNewSession("Luca")
        headers = {"Content-Type": FORM, **ATTACKS[0], "Authorization": f"{scheme} {key}"}
        assert site.post("/logout", headers).status == status
    assert list(manager.sessions) == [key]


class TestFlaskLogin:
    """A form of another origin, in an application whose logins are those of Flask-Login."""

    @pytest.fixture(params=["session_key", None])
    def client(self, manager: SessionManager, request: pytest.FixtureRequest) -> Any:
        """Once with our cookie, once with that of Flask's own session alone."""
        pytest.importorskip("flask_login")
        from flask import Flask, session
        from flask_login import LoginManager, UserMixin, current_user, login_user, logout_user

        from users_session_manager.integrations.flask import UserSessions

        class User(UserMixin):
            def __init__(self, user_id: str) -> None:
                self.id = user_id

        app = Flask(__name__)
        app.config.update(SECRET_KEY="a secret", USER_SESSIONS_COOKIE_SECURE=False)
        app.config["USER_SESSIONS_COOKIE"] = request.param
        login_manager = LoginManager(app)
        login_manager.user_loader(User)
        UserSessions(app, login_manager=login_manager)

        @app.route("/login/<name>", methods=["GET", "POST"])
        def login(name: str) -> str:
            login_user(User(name), remember=True)
            return name

        @app.post("/logout")
        def logout() -> str:
            logout_user()
            return "bye"

        @app.route("/me", methods=["GET", "POST"])
        def me() -> dict[str, Any]:
            return {"user": current_user.get_id(), "cart": session.get("cart")}

        @app.post("/cart")
        def fill() -> str:
            session["cart"] = "lasagne"
            return "full"

        return app.test_client()

    @pytest.mark.parametrize("headers", ATTACKS, ids=lambda headers: "-".join(headers.values()))
    def test_attacks(self, client, manager, headers):
        """Neither `login_user` nor `logout_user` changes anything: the login and Flask's own session stay."""
        stranger = client.application.test_client()
        for path in ("/login/fabio", "/logout"):
            answer = stranger.post(path, headers=headers)
            assert (answer.status_code, answer.json) == (403, {"crossOrigin": True})
            assert "Set-Cookie" not in answer.headers
        client.post("/cart")
        client.post("/login/luca")
        for path in ("/login/fabio", "/logout", "/login/luca"):
            assert client.post(path, headers=headers).json == {"crossOrigin": True}
            assert client.get("/me").json == {"user": "luca", "cart": "lasagne"}
        assert manager.getLoggedUsers() == ["luca"]
        assert client.post("/logout", headers=headers | HTML).text.startswith("<!doctype html>")

    @pytest.mark.parametrize("headers", [{}, {"Origin": "http://localhost"}, {"Sec-Fetch-Site": "same-origin"}])
    def test_let_in(self, client, manager, headers):
        """Forms of the application sign in and out."""
        assert client.post("/login/luca", headers=headers).text == "luca"
        assert client.get("/me").json["user"] == "luca"
        assert client.post("/logout", headers=headers).text == "bye"
        assert manager.getLoggedUsers() == []

    def test_session_protection(self, client, manager):
        """A login that Flask-Login itself ends, since another client uses it, ends whatever the request looks like."""
        client.application.config["SESSION_PROTECTION"] = "strong"
        client.post("/login/luca", headers={"User-Agent": "a browser"})
        assert client.post("/me", headers={**ATTACKS[0], "User-Agent": "another"}).json["user"] is None
        assert manager.getLoggedUsers() == []

    def test_callback(self, client, manager):
        """An identity provider redirects the browser back."""
        assert client.get("/login/luca", headers=ATTACKS[0]).text == "luca"
        assert manager.getLoggedUsers() == ["luca"]
