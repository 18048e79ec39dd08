"""Pages of other origins attack a login, a logout and a WebSocket in a real browser; the own pages are let in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("flask")
pytest.importorskip("flask_login")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
from certificate import make_certificate
from forgery_sites import FastApiShop, FlaskLoginShop, FlaskShop, Servers, Shop, evil_site, origin_of
from nginx import nginx

from users_session_manager import SessionManager

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser

MAX_WAIT = 30  # seconds; how long a test waits for what it expects, which a busy machine may need
SHOPS = {"flask": FlaskShop, "flask-login": FlaskLoginShop, "fastapi": FastApiShop}
POLICIES = "no-referrer no-referrer-when-downgrade origin origin-when-cross-origin same-origin strict-origin "
POLICIES += "strict-origin-when-cross-origin unsafe-url"

every_shop = pytest.mark.parametrize("kind", SHOPS)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "127.0.0.1")


class Site:
    """A shop on loopback, and a site that attacks it."""

    def __init__(self, servers: Servers, kind: str, **settings: Any) -> None:
        at, evil_at = servers.listen(), servers.listen()
        self.url = origin_of(at, servers.scheme)
        self.other_port = origin_of(evil_at, servers.scheme)  # the same site to browsers, which send its cookies
        self.other_site = origin_of(evil_at, servers.scheme, "localhost")
        settings["secure"] = servers.scheme == "https"
        trusted = [getattr(self, name) for name in settings.pop("trusts", ())]
        self.shop: Shop = SHOPS[kind](f"{self.other_site}/authorize", trusted_origins=trusted, **settings)
        servers.serve(self.shop.application, at, is_asgi=self.shop.is_asgi)
        servers.serve(evil_site(self.url), evil_at)


@pytest.fixture
def make_site(certificate: tuple[Path, Path]) -> Iterator[Callable[..., Site]]:
    with ExitStack() as started:

        def make(kind: str, *, scheme: str = "http", **settings: Any) -> Site:
            servers = Servers(certificate if scheme == "https" else None)
            started.callback(servers.close)
            return Site(servers, kind, **settings)

        yield make


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(MAX_WAIT * 1000)
    yield context
    context.close()


def press(page: Page, name: str) -> None:
    """Press a button, and wait for the answer to its form."""
    with page.expect_navigation():
        page.get_by_role("button", name=name, exact=True).click()


def sign_in(page: Page, url: str, policy: str = "same-origin") -> None:
    page.goto(f"{url}/page?policy={policy}")
    press(page, "Sign in")
    assert "signed in" in page.inner_text("body")


def user_of(page: Page, url: str) -> str:
    page.goto(f"{url}/me")
    return page.inner_text("body")


def wait_until(page: Page, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + MAX_WAIT
    while not condition():
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def session_cookies(context: BrowserContext) -> list[tuple[str, str]]:
    return sorted((str(each["name"]), str(each["value"])) for each in context.cookies())


class TestAttacks:
    """Pages of other sites in the browser of a user who is signed in."""

    @pytest.mark.parametrize("scheme", ["http", "https"])
    @every_shop
    def test_forms(self, make_site, context, kind, scheme):
        """No page of another site, of another port or without a referrer signs in or out, by form, script or link."""
        site, page = make_site(kind, scheme=scheme), context.new_page()
        sign_in(page, site.url)
        cookies, alive = session_cookies(context), list(SessionManager().sessions)
        asked = site.shop.asked
        for origin in (site.other_site, site.other_port):
            for policy in ("unsafe-url", "no-referrer"):
                for way in ("form", "fetch", "frame", "ping"):
                    for action in ("login", "logout"):
                        asked.clear()
                        page.goto(f"{origin}/{way}/{action}?policy={policy}")
                        wait_until(page, lambda: asked)
                        ((path, status, headers),) = asked
                        assert (path, status) == (f"/{action}", 403)
                        is_same_site = origin == site.other_port and way != "frame"  # a sandbox is a site of its own
                        assert headers["Sec-Fetch-Site"] == ("same-site" if is_same_site else "cross-site")
                        if way == "form":
                            page.wait_for_url(f"{site.url}/{action}*")
                            assert page.inner_text("h1") == "Please use a page of this site for that."
        assert session_cookies(context) == cookies
        assert list(SessionManager().sessions) == alive
        assert user_of(page, site.url) == "luca"

    @every_shop
    def test_stranger(self, make_site, context, kind):
        """A user who is not signed in does not become another user."""
        site, page = make_site(kind), context.new_page()
        page.goto(f"{site.other_site}/form/login")
        page.wait_for_url(f"{site.url}/login*")
        assert user_of(page, site.url) == "nobody"
        assert SessionManager().getLoggedUsers() == []

    @every_shop
    def test_trusted(self, make_site, context, kind):
        """The same form of an origin that is named signs in: it is our check that refuses the others."""
        site, page = make_site(kind, trusts=["other_site"]), context.new_page()
        sign_in(page, site.url)
        page.goto(f"{site.other_site}/form/login")
        page.wait_for_url(f"{site.url}/login*")
        assert user_of(page, site.url) == "attacker"
        page.goto(f"{site.other_port}/form/logout")
        page.wait_for_url(f"{site.url}/logout")
        assert user_of(page, site.url) == "attacker"

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_websocket(self, make_site, context, scheme):
        """No page of another origin gets a WebSocket, also where the browser sends the cookie with it."""
        site, page = make_site("fastapi", scheme=scheme), context.new_page()
        sign_in(page, site.url)
        for origin in (site.other_site, site.other_port):
            for policy in ("unsafe-url", "no-referrer"):
                page.goto(f"{origin}/socket?policy={policy}")
                page.get_by_text("closed with 1006").wait_for()
        trusting = make_site("fastapi", scheme=scheme, trusts=["other_port"])
        sign_in(page, trusting.url)
        page.goto(f"{trusting.other_port}/socket")
        page.get_by_text("connected as luca").wait_for()


class TestOwnPages:
    """The application's own pages, and what comes back from an identity provider."""

    @pytest.mark.parametrize("scheme", ["http", "https"])
    @every_shop
    def test_policies(self, make_site, context, kind, scheme):
        """Its forms sign in and out under every referrer policy, over https and on loopback."""
        site, page = make_site(kind, scheme=scheme), context.new_page()
        for policy in POLICIES.split():
            sign_in(page, site.url, policy)
            assert user_of(page, site.url) == "luca"
            page.goto(f"{site.url}/page?policy={policy}")
            press(page, "Sign out")
            assert "signed out" in page.inner_text("body")
            assert user_of(page, site.url) == "nobody"
        origins = {headers.get("Origin") for _, _, headers in site.shop.asked}
        assert origins == {site.url, "null"}, "under no-referrer the origin is hidden from the own site too"

    @pytest.mark.parametrize("scheme", ["http", "https"])
    @every_shop
    def test_identity_provider(self, make_site, context, kind, scheme):
        """An identity provider on another site asks the user, and sends the browser back signed in."""
        site, page = make_site(kind, scheme=scheme), context.new_page()
        page.goto(f"{site.url}/start")
        assert page.url == f"{site.other_site}/authorize"
        press(page, "Allow")
        page.wait_for_url(f"{site.url}/me")
        assert page.inner_text("body") == "luca"

    def test_websocket(self, make_site, context):
        """The own page gets its WebSocket, which is closed the moment another tab signs out."""
        site, page, other = make_site("fastapi"), context.new_page(), context.new_page()
        sign_in(page, site.url)
        page.goto(f"{site.url}/page")
        page.evaluate("connect()")
        page.get_by_text("connected as luca").wait_for()
        other.goto(f"{site.url}/page")
        press(other, "Sign out")
        page.get_by_text("closed with 4401").wait_for()


HTTP = """
    server {
        listen <listen>;
        location / {
            proxy_pass <shop>;
            proxy_set_header X-Forwarded-Proto $scheme;
            <headers>
        }
    }
    server {
        listen <listen>;
        server_name evil.test;
        location / { proxy_pass <evil>; }
    }
"""
HOSTS = {
    "host": "proxy_set_header Host $http_host;",
    "forwarded": "proxy_set_header X-Forwarded-Host $http_host;",
}


class TestBehindProxy:
    """Plain http behind nginx, under a name that is not loopback: there browsers send no `Sec-Fetch-Site`."""

    URL = "http://shop.test"

    @pytest.fixture
    def start(self, browser: Browser, tmp_path: Path) -> Iterator[Callable[..., tuple[Shop, Page]]]:
        """Serve a shop behind nginx, and return it with a page of a browser that finds it there."""
        with ExitStack() as started:

            def start(kind: str, host: str, **settings: Any) -> tuple[Shop, Page]:
                servers = Servers()
                started.callback(servers.close)
                at, evil_at = servers.listen(), servers.listen()
                shop: Shop = SHOPS[kind](secure=False, **settings)
                servers.serve(shop.application, at, is_asgi=shop.is_asgi)
                servers.serve(evil_site(self.URL), evil_at)
                values = {"shop": origin_of(at), "evil": origin_of(evil_at), "headers": HOSTS[host]}
                address = started.enter_context(nginx(tmp_path, HTTP, **values))
                # To a browser nginx is the proxy through which it finds all names.
                context = browser.new_context(proxy={"server": f"http://{address}"})
                started.callback(context.close)
                context.set_default_timeout(MAX_WAIT * 1000)
                return shop, context.new_page()

            yield start

    @pytest.mark.parametrize(("host", "proxies"), [("host", 0), ("host", 1), ("forwarded", 1)])
    @every_shop
    def test_own_pages(self, start, kind, host, proxies):
        """Its forms sign in and out under `same-origin`, and an attacker's do not."""
        shop, page = start(kind, host, proxies=proxies)
        sign_in(page, self.URL)
        for action in ("login", "logout"):
            page.goto(f"http://evil.test/form/{action}")
            page.wait_for_url(f"{self.URL}/{action}*")
            assert page.inner_text("h1") == "Please use a page of this site for that."
        assert user_of(page, self.URL) == "luca"
        page.goto(f"{self.URL}/page")
        press(page, "Sign out")
        assert user_of(page, self.URL) == "nobody"
        assert [status for _, status, _ in shop.asked] == [200, 403, 403, 200]
        assert not any("Sec-Fetch-Site" in headers for _, _, headers in shop.asked)

    @pytest.mark.parametrize(("host", "policy"), [("forwarded", "same-origin"), ("host", "no-referrer")])
    @every_shop
    def test_wrong_setup(self, start, caplog, kind, host, policy):
        """A proxy that is not known, and pages that hide their origin, are refused; the log says what to do."""
        _, page = start(kind, host)
        page.goto(f"{self.URL}/page?policy={policy}")
        press(page, "Sign in")
        assert page.inner_text("h1") == "Please use a page of this site for that."
        [line] = [each.getMessage() for each in caplog.records if "another origin" in each.getMessage()]
        assert "PROXIES" in line
        assert ("'null'" if policy == "no-referrer" else f"'{self.URL}'") in line
