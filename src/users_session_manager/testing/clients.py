"""Signs the test client of a framework in, and finds out whose key a client presents."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, TypeVar

from ..errors import SessionError
from ..integrations._request import RequestSession
from ..session import Session

Found = TypeVar("Found")

EXTENSION: Final = "users_session_manager"
"""Where an application keeps its `UserSessions`."""


def sign_in(client: Any, user: Any, **options: Any) -> str:
    """Sign a user in on a test client, as the login of the application does, and return the session key.

        key = sign_in(client, "luca")

    Afterwards the client sends what a browser would send, whatever the settings of header, cookie and https are. Its
    next requests, `expect_logout(client)` and the application's own logout work as after a login.

    Args:
        client: Flask's test client, Starlette's `TestClient`, or Django's `Client` or `AsyncClient`.
        user: The username. In Django a user, or the username of one; with Flask-Login a user.
        options: More arguments of the application's `sign_in`, such as `data`, `timeout` and `userId`; of `force_login`
            in Django; of `login_user` with Flask-Login.

    Raises:
        TypeError: The client is none of these.
        SessionError: Its application has no `UserSessions`.
        TypeError, ValueError, TooManySessions: As the application's own login.

    If the cookie is for https alone, the base URL of a `TestClient` then begins with `https`: over http it does not
    send such a cookie. Django asks its database: in an `async def` test say
    `await sync_to_async(sign_in)(client, user)`.
    """
    return _kind_of(client).sign_in(client, user, options)


def key_of(client: Any) -> str | None:
    """Return the key that a client presents, or that of a session; `TypeError` for anything else."""
    if isinstance(client, str):
        return client
    if isinstance(client, (Session, RequestSession)):
        return client.key
    return _kind_of(client).key_of(client)


class _Kind(NamedTuple):
    """The test client of a framework."""

    module: str
    name: str
    sign_in: Callable[[Any, Any, dict[str, Any]], str]
    key_of: Callable[[Any], str | None]


def _kind_of(client: Any) -> _Kind:
    for kind in _KINDS:
        # Where the module is not imported, no client is of its class.
        found = getattr(sys.modules.get(kind.module), kind.name, None)
        if found is not None and isinstance(client, found):
            return kind
    raise TypeError(
        "pass a test client of Flask, Django or Starlette, a key or a session, "
        f"not a {type(client).__module__}.{type(client).__qualname__}"
    )


# Flask


def _sign_in_flask(client: Any, user: Any, options: dict[str, Any]) -> str:
    from ..integrations.flask.state import current_state, installation

    def log_in() -> str:
        installed = installation()
        if installed.bridge is None:
            return installed.sessions.sign_in(user, **options)
        from flask_login import login_user

        if not login_user(user, **options):
            raise ValueError(f"login_user refuses the user {user!r:.80}: sign in one whose is_active is true")
        return current_state().find_session().key  # type: ignore[union-attr]

    key = _during_flask_request(client, log_in)
    carrier = client.application.extensions[EXTENSION].carrier
    if carrier.cookie is None:
        client.environ_base[carrier.variable] = key
    return key


def _key_of_flask(client: Any) -> str | None:
    from ..integrations.flask.state import state_of_request

    return _during_flask_request(client, lambda: state_of_request().key)


def _during_flask_request(client: Any, call: Callable[[], Found]) -> Found:
    """Return what `call` returns in a request of this client, which reaches no view of the application."""
    from flask import request

    app, found, failed = client.application, list[Found](), list[Exception]()

    def answer() -> str | None:
        if request.environ.get(EXTENSION) is not found:
            return None  # the request of another thread
        try:
            found.append(call())
        except Exception as error:  # noqa: BLE001  # for the test, not for the error handlers of the application
            failed.append(error)
        return ""

    hooks = app.before_request_funcs.setdefault(None, [])
    app.before_request_funcs[None] = [answer, *hooks]
    try:
        client.open("/", method="POST", url_scheme="https", environ_overrides={EXTENSION: found})
    finally:
        app.before_request_funcs[None] = hooks
    if failed:
        raise failed[0]
    return found[0]


# Starlette and FastAPI


def _sign_in_starlette(client: Any, user: Any, options: dict[str, Any]) -> str:
    sessions = _sessions_of(client.app)
    carrier = sessions.carrier
    if carrier.cookie is not None and carrier.secure:
        client.base_url = client.base_url.copy_with(scheme="https")
    key: str = _during_starlette_request(client, lambda *pair: sessions.sign_in(*pair, user, **options))
    if carrier.cookie is None and carrier.header is not None:
        client.headers[carrier.header] = key
    elif carrier.cookie is None:
        client.headers["Authorization"] = f"Bearer {key}"
    return key


def _key_of_starlette(client: Any) -> str | None:
    sessions = _sessions_of(client.app)
    return _during_starlette_request(client, lambda request, _: sessions.key(request))  # type: ignore[no-any-return]


def _during_starlette_request(client: Any, call: Callable[[Any, Any], Any]) -> Any:
    """Return what `call` returns for a request of this client and a response; the client gets the cookies of that."""
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.testclient import TestClient

    found = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        request, response = Request(scope, receive), Response()
        found.append(await run_in_threadpool(call, request, response))
        await response(scope, receive, send)

    other = TestClient(answer, str(client.base_url), headers=dict(client.headers), cookies=client.cookies)
    other.post("/")
    client.cookies = other.cookies
    return found[0]


def _sessions_of(app: Any) -> Any:
    for each in _applications(app):
        sessions = getattr(getattr(each, "state", None), EXTENSION, None)
        if sessions is not None:
            return sessions
    raise SessionError(
        "sessions.install(app) has not been called for the application of this client: call it where the application "
        "is made, see docs/frameworks/fastapi.md"
    )


def _applications(app: Any) -> Iterator[Any]:
    """Yield an application, those within it, such as that of a `socketio.ASGIApp`, and those that are mounted on it."""
    yield app
    inner = [getattr(app, name, None) for name in ("other_asgi_app", "app")]
    mounted = [getattr(route, "app", None) for route in getattr(app, "routes", None) or []]
    for each in (*inner, *mounted):
        if each is not None:
            yield from _applications(each)


# Django


def _sign_in_django(client: Any, user: Any, options: dict[str, Any]) -> str:
    from django.contrib.auth import get_user_model

    from ..integrations.django import conf
    from ..integrations.django.state import KEY_IN_SESSION

    if isinstance(user, str):
        user = get_user_model()._default_manager.get_by_natural_key(user)
    client.force_login(user, **options)
    key: str | None = client.session.get(KEY_IN_SESSION)
    if key is None:
        raise SessionError(f"{conf.APP!r} has to be in INSTALLED_APPS: add it, see docs/frameworks/django.md")
    carrier = conf.read_carrier()
    if carrier.cookie is not None:
        client.cookies[carrier.cookie] = key
        client.cookies[carrier.cookie].update({"path": "/", "secure": carrier.secure, "httponly": True})
    return key


def _key_of_django(client: Any) -> str | None:
    from ..integrations.django import conf
    from ..integrations.django.state import KEY_IN_SESSION

    cookie = client.cookies.get(conf.read_carrier().cookie or "")
    # Without the cookie, Django's own session has the key too.
    return cookie.value if cookie is not None else client.session.get(KEY_IN_SESSION)  # type: ignore[no-any-return]


_KINDS: Final = (
    _Kind("flask.testing", "FlaskClient", _sign_in_flask, _key_of_flask),
    _Kind("starlette.testclient", "TestClient", _sign_in_starlette, _key_of_starlette),
    _Kind("django.test.client", "ClientMixin", _sign_in_django, _key_of_django),
)
