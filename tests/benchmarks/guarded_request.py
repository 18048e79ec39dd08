"""What a guard costs: a request inside the process, bare, with a guard, and with a guard that does nothing.

    python tests/benchmarks/guarded_request.py [--rounds 60] [--requests 200]

The three are called in turn, round by round, so that the machine's drift cancels; shown are medians over the rounds, in
microseconds a request, and the spread of the guard's cost between the quartiles.
"""

import argparse
import asyncio
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

from users_session_manager import SessionManager

Call = Callable[[int], float]


def time_wsgi(application: Any, path: str, key: str) -> Call:
    from werkzeug.test import EnvironBuilder

    environ = EnvironBuilder(path, headers={"Session-Key": key}).get_environ()

    def call(requests: int) -> float:
        statuses: list[str] = []
        begun = time.perf_counter()
        for _ in range(requests):
            answer = application(dict(environ), lambda status, headers, exc_info=None: statuses.append(status))
            for _part in answer:
                pass
            getattr(answer, "close", lambda: None)()
        took = time.perf_counter() - begun
        assert set(statuses) == {"200 OK"}, set(statuses)
        return took / requests

    return call


def time_asgi(application: Any, path: str, key: str) -> Call:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"session-key", key.encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def calls(requests: int) -> float:
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        begun = time.perf_counter()
        for _ in range(requests):
            await application(dict(scope), receive, send)
        took = time.perf_counter() - begun
        assert set(statuses) == {200}, set(statuses)
        return took / requests

    loop = asyncio.new_event_loop()
    return lambda requests: loop.run_until_complete(calls(requests))


def flask_calls(key: str) -> dict[str, Call]:
    from flask import Flask

    from users_session_manager.integrations.flask import UserSessions, session_required

    def view() -> dict[str, str]:
        return {"hello": "world"}

    bare, guarded = Flask("bare"), Flask("guarded")
    bare.add_url_rule("/", view_func=view)
    UserSessions(guarded)
    guarded.add_url_rule("/", view_func=session_required(view))
    return {"bare": time_wsgi(bare, "/", key), "guarded": time_wsgi(guarded, "/", key)}


def fastapi_calls(key: str) -> dict[str, Call]:
    from fastapi import Depends, FastAPI

    from users_session_manager.integrations.fastapi import UserSessions
    from users_session_manager.integrations.fastapi import RequestSession

    sessions = UserSessions(secure=False)

    async def nothing() -> None: ...

    async def bare() -> dict[str, str]:
        return {"hello": "world"}

    async def guarded(session: Annotated[RequestSession, Depends(sessions.current)]) -> dict[str, str]:
        return {"hello": "world"}

    async def empty(session: Annotated[None, Depends(nothing)]) -> dict[str, str]:
        return {"hello": "world"}

    calls = {}
    for name, route in (("bare", bare), ("guarded", guarded), ("empty dependency", empty)):
        app = FastAPI()
        sessions.install(app)
        app.get("/")(route)
        calls[name] = time_asgi(app, "/", key)
    return calls


def django_calls(key: str) -> dict[str, Call]:
    import django
    from django.conf import settings
    from django.http import HttpRequest, JsonResponse
    from django.test.utils import override_settings
    from django.urls import path

    below = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ]
    ours = "users_session_manager.integrations.django"
    apps = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", ours]
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=(), MIDDLEWARE=below, INSTALLED_APPS=apps)
    django.setup()
    from django.core.handlers.wsgi import WSGIHandler

    from users_session_manager.integrations.django import session_required

    def view(request: HttpRequest) -> JsonResponse:
        return JsonResponse({"hello": "world"})

    calls = {}
    above = [*below, f"{ours}.UserSessionMiddleware"]
    for name, route, stack in (("bare", view, below), ("guarded", session_required(view), above)):
        override = override_settings(ROOT_URLCONF=(path("", route),), MIDDLEWARE=stack)
        override.enable()
        call = time_wsgi(WSGIHandler(), "/", key)

        def in_its_settings(requests: int, override: Any = override, call: Call = call) -> float:
            override.enable()
            try:
                return call(requests)
            finally:
                override.disable()

        override.disable()
        calls[name] = in_its_settings
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--requests", type=int, default=200, help="requests a round")
    options = parser.parse_args()
    key = SessionManager().loadNewSession("Luca")
    print(f"{'':10}{'bare':>10}{'guarded':>10}{'cost':>10}{'quartiles':>18}{'empty dependency':>20}")
    for framework, prepare in (("flask", flask_calls), ("django", django_calls), ("fastapi", fastapi_calls)):
        if importlib.util.find_spec(framework) is None:
            print(f"{framework:10}is not installed")
            continue
        calls = prepare(key)
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(options.rounds):
            for name, call in calls.items():
                taken[name].append(call(options.requests) * 1e6)
        costs = [guarded - bare for guarded, bare in zip(taken["guarded"], taken["bare"], strict=True)]
        low, middle, high = statistics.quantiles(costs, n=4)
        line = f"{framework:10}{statistics.median(taken['bare']):10.1f}{statistics.median(taken['guarded']):10.1f}"
        line += f"{middle:10.1f}{f'{low:.1f} to {high:.1f}':>18}"
        if "empty dependency" in taken:
            empty = statistics.median(e - b for e, b in zip(taken["empty dependency"], taken["bare"], strict=True))
            line += f"{empty:20.1f}"
        print(line)


if __name__ == "__main__":
    main()
