"""The measured process of a web application that is bare, guarded by this library (`ours`), or has an `other` guard."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from bench_worker import serve
from cachelib import SimpleCache
from fastapi import Depends, FastAPI
from flask import Flask, abort, session
from flask_session import Session
from redis import Redis
from werkzeug.test import Client, EnvironBuilder

from users_session_manager import SessionManager
from users_session_manager.integrations import fastapi, flask

VIEWS = {
    "bare": lambda: {"username": "Luca"},
    "ours": flask.session_required(lambda: {"username": flask.current_session.username}),
    "other": lambda: {"username": session["username"]} if "username" in session else abort(401),
}


def flask_session_on(url: str | None) -> dict[str, Any]:
    """Return the settings of Flask-Session for a store."""
    if url is None:
        return {"SESSION_TYPE": "cachelib", "SESSION_CACHELIB": SimpleCache()}
    if url.startswith("redis:"):
        return {"SESSION_TYPE": "redis", "SESSION_REDIS": Redis.from_url(url)}
    return {"SESSION_TYPE": "sqlalchemy", "SQLALCHEMY_DATABASE_URI": url}


def flask_requests(kind: str, url: str | None) -> Callable[[int], list[Any]]:
    """Return a function that calls the application so many times and returns the answers; `other` is Flask-Session.

    The sessions are in the memory of this process, or in the store of an address.
    """
    app, login = Flask(kind), str
    if kind == "ours":
        login = flask.UserSessions(app, manager=SessionManager(store=url) if url else SessionManager()).sign_in
    elif kind == "other":
        app.config.update(flask_session_on(url))
        Session(app)
        login = lambda username: session.update(username=username)  # noqa: E731
    app.add_url_rule("/", "view", VIEWS[kind])
    app.add_url_rule("/login", "login", lambda: str(login("Luca")), methods=["POST"])
    cookie = Client(app).post("/login").headers.get("Set-Cookie", "session_key=none").partition(";")[0]
    environ = EnvironBuilder("/", headers={"Cookie": cookie}).get_environ()

    def make_requests(requests: int) -> list[Any]:
        answers: list[Any] = []
        for _ in range(requests):
            body = app(dict(environ), lambda status, headers, _=None: answers.append(int(status[:3])))
            answers.append(b"".join(body).strip())
            body.close()
        return answers

    return make_requests


def fastapi_requests(kind: str, _: str | None) -> Callable[[int], list[Any]]:
    """As `flask_requests`; `other` is a dependency that does nothing."""
    app, loop, sessions = FastAPI(), asyncio.new_event_loop(), fastapi.UserSessions(SessionManager(), secure=False)
    sessions.install(app)

    async def view() -> dict[str, str]:
        return {"username": "Luca"}

    dependencies = {"bare": [], "ours": [Depends(sessions.current)], "other": [Depends(view)]}[kind]
    app.get("/", dependencies=dependencies)(view)
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/", "query_string": b""}
    scope["headers"] = [(b"session-key", SessionManager().loadNewSession("Luca").encode())]

    async def make_requests(requests: int) -> list[Any]:
        answers: list[Any] = []

        async def send(message: dict[str, Any]) -> None:
            answers.append(message["status"] if "status" in message else message["body"])

        for _ in range(requests):
            await app(dict(scope), None, send)
        return answers

    return lambda requests: loop.run_until_complete(make_requests(requests))


def django_requests(kind: str, url: str | None) -> Callable[[int], list[Any]]:
    """As `flask_requests`, with a login of Django's; `other` is its own guard, without this library.

    So are `db` and `cached_db`, which keep Django's sessions in the SQLite file of the address and write them at each
    request, as it takes to prolong them.
    """
    import django
    from django.conf import settings

    integration = "users_session_manager.integrations.django"
    in_database = kind.endswith("db")
    name = url.removeprefix("sqlite:///") if in_database else ":memory:"
    ours, contrib = [integration] * (kind == "ours"), "django.contrib"
    settings.configure(
        INSTALLED_APPS=[f"{contrib}.auth", f"{contrib}.contenttypes", f"{contrib}.sessions", *ours],
        MIDDLEWARE=[
            f"{contrib}.sessions.middleware.SessionMiddleware",
            *(f"{app}.UserSessionMiddleware" for app in ours),
            f"{contrib}.auth.middleware.AuthenticationMiddleware",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": name}},
        SESSION_ENGINE=f"{contrib}.sessions.backends.{kind if in_database else 'db'}",
        SESSION_SAVE_EVERY_REQUEST=in_database,
        SECRET_KEY="only measured",
        ALLOWED_HOSTS=["*"],
        USER_SESSIONS={"STORE": None if in_database else url},
    )
    django.setup()
    from django.contrib.auth import get_user_model
    from django.contrib.auth.decorators import login_required
    from django.core.management import call_command
    from django.core.signals import request_finished, request_started
    from django.core.wsgi import get_wsgi_application
    from django.db import close_old_connections
    from django.http import HttpResponse
    from django.test import Client as DjangoClient
    from django.urls import path

    def view(request: Any) -> Any:
        name = "Luca" if kind == "bare" else request.user.get_username()
        return HttpResponse(f'{{"username":"{name}"}}')

    guards = {"bare": lambda view: view} | dict.fromkeys(("other", "db", "cached_db"), login_required)
    if ours:
        from users_session_manager.integrations.django import session_required

        guards["ours"] = session_required
    settings.ROOT_URLCONF = (path("", guards[kind](view)),)
    call_command("migrate", verbosity=0)
    client = DjangoClient()
    client.force_login(get_user_model().objects.create_user("Luca"))
    client.get("/")  # sets the cookie of this library
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items())
    environ = EnvironBuilder("/", headers={"Cookie": cookies}).get_environ()
    app = get_wsgi_application()
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)  # a database in memory would be lost with its connection

    def make_requests(requests: int) -> list[Any]:
        answers: list[Any] = []
        for _ in range(requests):
            answer = app(dict(environ), lambda status, headers: answers.append(int(status[:3])))
            answers.append(answer.content)
            answer.close()
        return answers

    return make_requests


FRAMEWORKS = {"Django": django_requests, "Flask": flask_requests, "FastAPI": fastapi_requests}


class Requests:
    """The question that is asked."""

    def __init__(self, framework: str, kind: str, url: str | None = None) -> None:
        self.make_requests = FRAMEWORKS[framework](kind, url)
        self.redis = Redis.from_url(url) if url and url.startswith("redis:") else None
        self.make_requests(1)  # connects
        if url:
            os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])

    def time(self, requests: int) -> dict[str, float]:
        """Return the microseconds that a request takes, and those of CPU time that Redis spends on it."""
        before, begun = self.redis and self.redis.info("cpu"), time.perf_counter()
        answers, took = self.make_requests(requests), time.perf_counter() - begun
        assert answers == [200, b'{"username":"Luca"}'] * requests, f"a request was answered {answers[:2]}"
        after = before and self.redis.info("cpu")
        server = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys")) if before else 0
        return {"request": took / requests * 1e6, "server": server / requests * 1e6}


if __name__ == "__main__":
    serve(Requests(*sys.argv[1:]))
