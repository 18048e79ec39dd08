"""The same small site in each web framework, and a client that sends it exactly the headers of a test.

Routes: `/login?name=&data=&timeout=`, `/logout`, `/renew?overlap=` and `/elsewhere` change sessions; `/me`, `/passive`
and `/recent` are guarded; `/optional` and `/open` are not; what else there is says what it does.
"""

# Without `from __future__ import annotations`: FastAPI could not see the names of a method in a text.

import asyncio
import inspect
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from http.cookies import Morsel, SimpleCookie
from typing import Annotated, Any
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults

from users_session_manager import SessionManager, SessionRejected, TooManySessions
from users_session_manager.keys import new_key

UNKNOWN = new_key()  # issued by this process, and no session has it
"""A value that looks like a key and belongs to no session."""

MAX_AGE = 3600
"""The seconds for which a login counts as recent at `/recent`."""

SETTINGS = {
    "header": "HEADER",
    "cookie": "COOKIE",
    "secure": "COOKIE_SECURE",
    "samesite": "COOKIE_SAMESITE",
    "domain": "COOKIE_DOMAIN",
    "partitioned": "COOKIE_PARTITIONED",
}
"""The arguments of a `KeyCarrier`, and what Flask and Django call them."""

Headers = list[tuple[str, str]]


class Answer:
    """The answer of a site."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.text = body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    def header(self, name: str) -> str:
        """The values of a header, joined by commas."""
        return ",".join(value for other, value in self.headers if other.lower() == name.lower())

    @property
    def cookie(self) -> "Morsel[str] | None":
        """The last cookie of a session key that the answer sets or deletes: browsers obey the last one."""
        morsel = None
        # An attribute that Python does not know before 3.14 would hide the cookie.
        for name, value in self.headers:
            if name.lower() == "set-cookie":
                morsels = [
                    each
                    for each in SimpleCookie(value.replace("; Partitioned", "")).values()
                    if each.key.endswith("session_key")
                ]
                morsel = morsels[0] if morsels else morsel
        return morsel


def call_wsgi(application: Any, method: str, path: str, query: str, headers: Headers) -> Answer:
    """Call a WSGI application as a server does, which joins the values of a header that is sent twice."""
    environ: dict[str, Any] = {"wsgi.url_scheme": "https", "HTTP_HOST": "example.test", "CONTENT_LENGTH": "0"}
    setup_testing_defaults(environ)
    environ.update(REQUEST_METHOD=method, PATH_INFO=path, QUERY_STRING=query)
    for name, value in headers:
        variable = f"HTTP_{name.upper().replace('-', '_')}".replace("HTTP_CONTENT_TYPE", "CONTENT_TYPE")
        environ[variable] = f"{environ[variable]},{value}" if variable in environ else value
    started: list[Any] = []
    chunks = application(environ, lambda status, headers, exc_info=None: started.append((status, headers)))
    body = b"".join(chunks)
    if hasattr(chunks, "close"):
        chunks.close()
    ((status, answered),) = started
    return Answer(int(status.split()[0]), answered, body)


def call_asgi(application: Any, method: str, path: str, query: str, headers: Headers) -> Answer:
    """Call an ASGI application as a server does, on an event loop of its own."""
    scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "https"}
    scope |= {"method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode()}
    scope |= {"root_path": "", "client": ("127.0.0.1", 1), "server": ("example.test", 443)}
    scope["headers"] = [(b"host", b"example.test")]
    scope["headers"] += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    received, sent = [{"type": "http.request", "body": b"", "more_body": False}], []

    async def receive() -> Any:
        return received.pop() if received else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(application(scope, receive, send))
    start, *bodies = sent
    answered = [(name.decode(), value.decode()) for name, value in start["headers"]]
    return Answer(start["status"], answered, b"".join(body.get("body", b"") for body in bodies))


class Site:
    """A site with its client. It is closed with `close`.

    Args:
        manager: The manager of its sessions.
        is_async: Whether its views are coroutine functions.
        names: Arguments of a `KeyCarrier`, and other settings of all frameworks, as FastAPI has them.
    """

    call: Callable[..., Answer]
    application: Any
    every_request_prolongs = False
    """Whether each request with a live key restarts the idle timeout, but for passive ones."""

    def __init__(self, manager: SessionManager, *, is_async: bool, **names: Any) -> None:
        self.manager = manager
        self.is_async = is_async
        self._open = ExitStack()
        try:
            self.build(**names)
        except BaseException:
            self.close()
            raise

    def build(self, **names: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._open.close()

    def user_id(self, name: str) -> str:
        """The user id of a session that `/login` starts for a name."""
        return name

    def start_session(self, name: str, **options: Any) -> str:
        """Start a session such as `/login` starts; return its key."""
        return self.manager.loadNewSession(name, userId=self.user_id(name), **options)

    def send(self, method: str, path: str, headers: Any = (), **query: Any) -> Answer:
        """Send a request with these headers, a dict or pairs, and these values in its query."""
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
        text = urlencode({name: value for name, value in query.items() if value is not None})
        return type(self).call(self.application, method, path, text, pairs)

    def get(self, path: str, headers: Any = (), **query: Any) -> Answer:
        return self.send("GET", path, headers, **query)

    def post(self, path: str, headers: Any = (), **query: Any) -> Answer:
        return self.send("POST", path, headers, **query)


class FlaskSite(Site):
    """The site in Flask."""

    call = call_wsgi

    def build(self, **names: Any) -> None:
        from flask import Flask, request

        from users_session_manager.integrations.flask import UserSessions, current_session, session_required

        app = Flask(__name__)
        app.config.update({f"USER_SESSIONS_{SETTINGS.get(name, name.upper())}": value for name, value in names.items()})
        sessions = UserSessions(app)

        def login() -> Any:
            timeout, data = request.args.get("timeout", type=float), request.args.get("data")
            key = sessions.sign_in(request.args["name"], data=data, timeout=timeout)
            return {"key": key, "username": current_session.username}

        def logout() -> Any:
            sessions.sign_out()
            return {"username": current_session.username if current_session else None}

        def renew() -> Any:
            return {"key": sessions.renew_key(overlap=request.args.get("overlap", 0, type=float))}

        def elsewhere() -> Any:
            return {"ended": sessions.sign_out_elsewhere()}

        def me() -> Any:
            return {"username": current_session.username, "data": current_session.data}

        def optional() -> Any:
            return {"username": current_session.username if current_session else None}

        def writes() -> Any:
            current_session.data = request.args["data"]
            return {"data": current_session.data}

        def updates() -> Any:
            answer = current_session.update(lambda cart: [*(cart or []), request.args["data"]])
            return {"answer": answer, "data": current_session.data}

        def ends() -> Any:
            self.manager.deleteSession(current_session.key)
            return {"username": current_session.username}

        def ends_and_writes() -> Any:
            self.manager.deleteSession(current_session.key)
            current_session.data = "lost"
            return {}

        def ends_and_updates() -> Any:
            self.manager.deleteSession(current_session.key)
            return {"answer": current_session.update(lambda cart: "lost")}

        def renews_and_writes() -> Any:
            first = sessions.renew_key()
            current_session.data = first
            return {"first": first, "second": sessions.renew_key(), "held": current_session.key}

        def changes_its_mind() -> Any:
            sessions.sign_in("Fabio")
            sessions.sign_in("Luca")
            sessions.sign_out()
            return {}

        def looks_up() -> Any:
            return {"username": self.manager.getSession(UNKNOWN).username}

        def signs_in_and_rejects() -> Any:
            sessions.sign_in("Luca")
            raise SessionRejected

        def add(path: str, view: Callable[..., Any], guard: Any = lambda view: view) -> None:
            async def async_view() -> Any:
                return view()

            app.add_url_rule(path, path, guard(async_view if self.is_async else view), methods=["GET", "POST"])

        for path, view in (("/login", login), ("/logout", logout), ("/renew", renew), ("/elsewhere", elsewhere)):
            add(path, view)
        for path, view in (("/optional", optional), ("/changes-its-mind", changes_its_mind), ("/open", dict)):
            add(path, view)
        add("/signs-in-and-rejects", signs_in_and_rejects)
        add("/me", me, session_required)
        add("/passive", me, session_required(passive=True))
        add("/recent", me, session_required(max_age=MAX_AGE))
        for path, view in (("/writes", writes), ("/ends", ends), ("/ends-and-writes", ends_and_writes)):
            add(path, view, session_required)
        for path, view in (("/updates", updates), ("/ends-and-updates", ends_and_updates)):
            add(path, view, session_required)
        for path, view in (("/renews-and-writes", renews_and_writes), ("/looks-up", looks_up)):
            add(path, view, session_required)
        self.application = app


class FastApiSite(Site):
    """The site in FastAPI. What changes sessions is handed to a thread by its coroutine functions."""

    call = call_asgi

    def build(self, **names: Any) -> None:
        from fastapi import Depends, FastAPI, Request, Response
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        from users_session_manager.integrations.fastapi import RequestSession, UserSessions

        app, sessions = FastAPI(), UserSessions(**names)
        sessions.install(app)
        app.add_exception_handler(TooManySessions, lambda *_: JSONResponse({"refused": True}, 409))
        current = Annotated[RequestSession, Depends(sessions.current)]
        passive_session = Annotated[RequestSession, Depends(sessions.passive)]
        recent_session = Annotated[RequestSession, Depends(sessions.recent(MAX_AGE))]
        optional_session = Annotated[RequestSession | None, Depends(sessions.optional)]

        def add(path: str) -> Callable[..., None]:
            def decorate(view: Callable[..., Any]) -> None:
                async def async_view(**arguments: Any) -> Any:
                    return await run_in_threadpool(view, **arguments)

                async_view.__signature__ = inspect.signature(view)  # type: ignore[attr-defined]
                app.add_api_route(path, async_view if self.is_async else view, methods=["GET", "POST"])

            return decorate

        @add("/login")
        def login(
            request: Request, response: Response, name: str, data: str | None = None, timeout: float | None = None
        ) -> Any:
            return {"key": sessions.sign_in(request, response, name, data=data, timeout=timeout), "username": name}

        @add("/logout")
        def logout(request: Request, response: Response) -> Any:
            sessions.sign_out(request, response)
            return {"username": None}

        @add("/renew")
        def renew(request: Request, response: Response, overlap: float = 0) -> Any:
            return {"key": sessions.renew_key(request, response, overlap=overlap)}

        @add("/elsewhere")
        def elsewhere(request: Request) -> Any:
            return {"ended": sessions.sign_out_elsewhere(request)}

        @add("/me")
        def me(session: current) -> Any:
            return {"username": session.username, "data": session.data}

        @add("/passive")
        def passive(session: passive_session) -> Any:
            return {"username": session.username, "data": session.data}

        @add("/recent")
        def recent(session: recent_session) -> Any:
            return {"username": session.username, "data": session.data}

        @add("/optional")
        def optional(session: optional_session) -> Any:
            return {"username": session.username if session else None}

        @add("/open")
        def is_open() -> Any:
            return {}

        @add("/writes")
        def writes(session: current, data: str) -> Any:
            session.data = data
            return {"data": session.data}

        @add("/updates")
        def updates(session: current, data: str) -> Any:
            answer = session.update(lambda cart: [*(cart or []), data])
            return {"answer": answer, "data": session.data}

        @add("/ends-and-updates")
        def ends_and_updates(session: current) -> Any:
            self.manager.deleteSession(session.key)
            return {"answer": session.update(lambda cart: "lost")}

        @add("/ends")
        def ends(session: current) -> Any:
            self.manager.deleteSession(session.key)
            return {"username": session.username}

        @add("/ends-and-writes")
        def ends_and_writes(session: current) -> Any:
            self.manager.deleteSession(session.key)
            session.data = "lost"
            return {}

        @add("/renews-and-writes")
        def renews_and_writes(session: current, request: Request, response: Response) -> Any:
            first = sessions.renew_key(request, response)
            session.data = first
            return {"first": first, "second": sessions.renew_key(request, response), "held": session.key}

        @add("/changes-its-mind")
        def changes_its_mind(session: optional_session, request: Request, response: Response) -> Any:
            sessions.sign_in(request, response, "Fabio")
            sessions.sign_in(request, response, "Luca")
            sessions.sign_out(request, response)
            return {}

        @add("/signs-in-and-rejects")
        def signs_in_and_rejects(request: Request, response: Response) -> Any:
            sessions.sign_in(request, response, "Luca")
            raise SessionRejected

        @add("/looks-up")
        def looks_up(session: current) -> Any:
            return {"username": self.manager.getSession(UNKNOWN).username}

        self.application = app


def set_up_django() -> None:
    """Set Django up with the settings of the tests and an empty database, once in a process."""
    import django
    from django.apps import apps

    os.environ["DJANGO_SETTINGS_MODULE"] = "django_settings"
    if not apps.ready:
        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)


def _join_cookies(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers of a request with all its cookies in one, as browsers send them."""
    cookies = [value for name, value in headers if name == "Cookie"]
    others = [pair for pair in headers if pair[0] != "Cookie"]
    return [*others, ("Cookie", "; ".join(cookies))] if cookies else others


class DjangoSite(Site):
    """The site in Django, on WSGI. A user is made at the first login of that name.

    Its client has, beside the cookie of a key, the cookie of Django's session that came with it.
    """

    call = call_wsgi
    every_request_prolongs = True

    def __init__(self, manager: SessionManager, **options: Any) -> None:
        self._django_cookies: dict[str, str] = {}  # by the key that came with it
        super().__init__(manager, **options)

    def send(self, method: str, path: str, headers: Any = (), **query: Any) -> Answer:
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
        present = {value.partition("session_key=")[2].partition(";")[0] for name, value in pairs if name == "Cookie"}
        pairs += [("Cookie", self._django_cookies[key]) for key in present & set(self._django_cookies)]
        answer = super().send(method, path, _join_cookies(pairs), **query)
        cookies = [value.strip() for name, value in answer.headers if name == "Set-Cookie"]
        found = [value for value in cookies if value.startswith("sessionid=")]
        if answer.cookie is not None and found:
            self._django_cookies[answer.cookie.value] = found[-1].partition(";")[0]
        return answer

    def user_id(self, name: str) -> str:
        from django.contrib.auth import get_user_model

        return str(get_user_model().objects.get_or_create(username=name)[0].pk)

    def build(self, **names: Any) -> None:
        set_up_django()
        from asgiref.sync import sync_to_async
        from django.contrib.auth import get_user_model, logout
        from django.db import connection
        from django.http import JsonResponse
        from django.test import override_settings
        from django.urls import path as route

        from users_session_manager.integrations.django import renew_key, session_required, sign_in, sign_out_elsewhere

        def login(request: Any) -> Any:
            user, _ = get_user_model().objects.get_or_create(username=request.GET["name"])
            timeout = request.GET.get("timeout")
            options = {"data": request.GET.get("data"), "timeout": None if timeout is None else float(timeout)}
            try:
                key = sign_in(request, user, **options)
            except TooManySessions:
                return JsonResponse({"refused": True}, status=409)
            return JsonResponse({"key": key, "username": request.user.get_username()})

        def sign_out(request: Any) -> Any:
            logout(request)
            return JsonResponse({"username": request.user_session})

        def renew(request: Any) -> Any:
            return JsonResponse({"key": renew_key(request, overlap=float(request.GET.get("overlap", 0)))})

        def elsewhere(request: Any) -> Any:
            return JsonResponse({"ended": sign_out_elsewhere(request)})

        def me(request: Any) -> Any:
            return JsonResponse({"username": request.user_session.username, "data": request.user_session.data})

        def optional(request: Any) -> Any:
            session = request.user_session
            return JsonResponse({"username": session.username if session else None})

        def writes(request: Any) -> Any:
            request.user_session.data = request.GET["data"]
            return JsonResponse({"data": request.user_session.data})

        def updates(request: Any) -> Any:
            answer = request.user_session.update(lambda cart: [*(cart or []), request.GET["data"]])
            return JsonResponse({"answer": answer, "data": request.user_session.data})

        def ends_and_updates(request: Any) -> Any:
            self.manager.deleteSession(request.user_session.key)
            return JsonResponse({"answer": request.user_session.update(lambda cart: "lost")})

        def ends(request: Any) -> Any:
            self.manager.deleteSession(request.user_session.key)
            return JsonResponse({"username": request.user_session.username})

        def ends_and_writes(request: Any) -> Any:
            self.manager.deleteSession(request.user_session.key)
            request.user_session.data = "lost"
            return JsonResponse({})

        def renews_and_writes(request: Any) -> Any:
            held = request.user_session
            first = renew_key(request)
            held.data = first
            return JsonResponse({"first": first, "second": renew_key(request), "held": held.key})

        def changes_its_mind(request: Any) -> Any:
            for name in ("Fabio", "Luca"):
                sign_in(request, get_user_model().objects.get_or_create(username=name)[0])
            logout(request)
            return JsonResponse({})

        def looks_up(request: Any) -> Any:
            return JsonResponse({"username": self.manager.getSession(UNKNOWN).username})

        def signs_in_and_rejects(request: Any) -> Any:
            sign_in(request, get_user_model().objects.get_or_create(username="Luca")[0])
            raise SessionRejected

        def add(path: str, view: Callable[..., Any], guard: Any = lambda view: view) -> None:
            async def async_view(request: Any) -> Any:
                return await sync_to_async(view)(request)

            routes.append(route(path, guard(async_view if self.is_async else view)))

        routes: list[Any] = []
        for path, view in (("login", login), ("logout", sign_out), ("renew", renew), ("elsewhere", elsewhere)):
            add(path, view)
        for path, view in (("optional", optional), ("changes-its-mind", changes_its_mind)):
            add(path, view)
        add("signs-in-and-rejects", signs_in_and_rejects)
        add("open", lambda request: JsonResponse({}))
        add("me", me, session_required)
        add("passive", me, session_required(passive=True))
        add("recent", me, session_required(max_age=MAX_AGE))
        for path, view in (("writes", writes), ("ends", ends), ("ends-and-writes", ends_and_writes)):
            add(path, view, session_required)
        for path, view in (("updates", updates), ("ends-and-updates", ends_and_updates)):
            add(path, view, session_required)
        for path, view in (("renews-and-writes", renews_and_writes), ("looks-up", looks_up)):
            add(path, view, session_required)
        options = {"COOKIE_SECURE": True} | {SETTINGS.get(name, name.upper()): value for name, value in names.items()}
        self._open.enter_context(override_settings(ROOT_URLCONF=tuple(routes), USER_SESSIONS=options))
        self._open.callback(connection.close)
        self.application = self.handler()

    def handler(self) -> Any:
        from django.core.handlers.wsgi import WSGIHandler

        return WSGIHandler()


class AsyncDjangoSite(DjangoSite):
    """The same on ASGI."""

    call = call_asgi

    def handler(self) -> Any:
        from django.core.handlers.asgi import ASGIHandler

        return ASGIHandler()


# The package that it needs, and whether its views are coroutine functions.
SITES = {
    "flask": ("flask", FlaskSite, False),
    "flask-async": ("flask", FlaskSite, True),
    "fastapi": ("fastapi", FastApiSite, False),
    "fastapi-async": ("fastapi", FastApiSite, True),
    "django": ("django", DjangoSite, False),
    "django-asgi": ("django", AsyncDjangoSite, True),
}
ONE_OF_EACH = ["flask", "fastapi", "django"]
