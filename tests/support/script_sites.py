"""The same small site in each framework, whose pages have `user-sessions.js`; started as a process of its own.

A user signs in by a form. The page inside has a form that signs out and is answered by a redirect of the site's own, a
link to a download and one to another page.
"""

# Without `from __future__ import annotations`: FastAPI could not see the names of `fastapi_site` in a text.

import argparse
import logging
import socket
from typing import Annotated, Any
from urllib.parse import parse_qs

from npm_client import client_script

LIMITS = {"TIMEOUT": 600, "WARNING": 300}
"""The values that `main` changes."""

INSIDE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>Inside</title>
<h1>Inside</h1><p>You are {user}.</p>
<form method="post" action="/sign-out">{token}<button>Sign out</button></form>
<a href="/file">Download</a> <a href="/inside?page=2">Another page</a>
<script src="/socket.io-client.js"></script><script src="{script}" data-login="/login" data-signed-in></script>"""
LOGIN = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>Sign in</title>
<h1>Sign in</h1><form method="post">{token}<label>Name <input name="name"></label><button>Sign in</button></form>
<script src="/socket.io-client.js"></script><script src="{script}" data-login="/login"></script>"""
GOODBYE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>Bye</title><h1>Goodbye</h1>"""
NO_TOKEN = {"token": "", "script": "/user-sessions.js"}
FILE = {"Content-Disposition": "attachment; filename=orders.csv"}


def flask_site() -> Any:
    import socketio
    from flask import Flask, Response, redirect, request, send_file

    from users_session_manager.integrations.flask import UserSessions, current_session, session_required

    app = Flask(__name__)
    app.config.update(USER_SESSIONS_COOKIE_SECURE=False, USER_SESSIONS_LOGIN_URL="login")
    app.config.update({f"USER_SESSIONS_{name}": value for name, value in LIMITS.items()})
    sessions = UserSessions(app)
    io = socketio.Server(async_mode="threading")
    sessions.attach(io)

    @app.route("/login", methods=["GET", "POST"])
    def login() -> Any:
        if request.method == "GET":
            return LOGIN.format(**NO_TOKEN)
        sessions.sign_in(request.form["name"])
        return redirect("/inside", 303)

    @app.get("/inside")
    @session_required
    def inside() -> str:
        return INSIDE.format(user=current_session.username, **NO_TOKEN)

    @app.post("/sign-out")
    def sign_out() -> Any:
        sessions.sign_out()
        return redirect("/goodbye", 303)

    app.get("/goodbye")(lambda: GOODBYE)
    app.get("/file", endpoint="file")(lambda: Response("spaghetti,2", headers=FILE))
    app.get("/socket.io-client.js", endpoint="client")(lambda: send_file(client_script()))
    return socketio.WSGIApp(io, app)


def fastapi_site() -> Any:
    import socketio
    from fastapi import Depends, FastAPI, Request, Response
    from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse

    from users_session_manager.integrations.fastapi import RequestSession, UserSessions

    app = FastAPI()
    sessions = UserSessions(secure=False, login_url="/login", timeout=LIMITS["TIMEOUT"], warning=LIMITS["WARNING"])
    sessions.install(app)
    io = socketio.AsyncServer(async_mode="asgi")
    sessions.attach(io)

    app.get("/login")(lambda: HTMLResponse(LOGIN.format(**NO_TOKEN)))

    @app.post("/login")
    async def login(request: Request) -> Response:
        answer = RedirectResponse("/inside", 303)
        sessions.sign_in(request, answer, parse_qs((await request.body()).decode())["name"][0])
        return answer

    @app.get("/inside")
    def inside(session: Annotated[RequestSession, Depends(sessions.current)]) -> Response:
        return HTMLResponse(INSIDE.format(user=session.username, **NO_TOKEN))

    @app.post("/sign-out")
    def sign_out(request: Request) -> Response:
        answer = RedirectResponse("/goodbye", 303)
        sessions.sign_out(request, answer)
        return answer

    app.get("/goodbye")(lambda: HTMLResponse(GOODBYE))
    app.get("/file")(lambda: Response("spaghetti,2", headers=FILE))
    app.get("/socket.io-client.js")(lambda: FileResponse(str(client_script())))
    return socketio.ASGIApp(io, app)


def django_site() -> Any:
    import django
    import socketio
    from django.conf import settings

    ours = "users_session_manager.integrations.django"
    settings.configure(
        SECRET_KEY="of a test",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        LOGIN_URL="/login",
        STATIC_URL="/static/",
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.staticfiles", ours],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            f"{ours}.UserSessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "file:memory?mode=memory&cache=shared"}},
        USER_SESSIONS={"COOKIE_SECURE": False, **LIMITS},
    )
    django.setup()
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application

    from users_session_manager.integrations.django import attach

    call_command("migrate", verbosity=0)
    globals()["urlpatterns"] = _django_urls()
    io = socketio.Server(async_mode="threading")
    attach(io)
    return socketio.WSGIApp(io, get_wsgi_application())


def _django_urls() -> list[Any]:
    from django.contrib.auth import login, logout
    from django.contrib.auth.models import User
    from django.contrib.staticfiles.views import serve
    from django.http import FileResponse, HttpResponse, HttpResponseRedirect
    from django.middleware.csrf import get_token
    from django.templatetags.static import static
    from django.urls import path

    from users_session_manager.integrations.django import session_required

    def write(page: str, request: Any, **values: Any) -> Any:
        token = f'<input type="hidden" name="csrfmiddlewaretoken" value="{get_token(request)}">'
        return HttpResponse(page.format(token=token, script=static("users_session_manager/user-sessions.js"), **values))

    def sign_in(request: Any) -> Any:
        if request.method == "GET":
            return write(LOGIN, request)
        login(request, User.objects.get_or_create(username=request.POST["name"])[0])
        return HttpResponseRedirect("/inside")

    @session_required
    def inside(request: Any) -> Any:
        return write(INSIDE, request, user=request.user)

    def sign_out(request: Any) -> Any:
        logout(request)
        return HttpResponseRedirect("/goodbye")

    return [
        path("login", sign_in),
        path("inside", inside),
        path("sign-out", sign_out),
        path("goodbye", lambda _: HttpResponse(GOODBYE)),
        path("file", lambda _: HttpResponse("spaghetti,2", headers=FILE)),
        path("socket.io-client.js", lambda _: FileResponse(open(str(client_script()), "rb"))),
        path("static/<path:path>", lambda request, path: serve(request, path, insecure=True)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=["flask", "django", "fastapi"])
    parser.add_argument("--port", type=int)
    parser.add_argument("--timeout", type=float, default=LIMITS["TIMEOUT"])
    parser.add_argument("--warning", type=float, default=LIMITS["WARNING"])
    options = parser.parse_args()
    LIMITS.update(TIMEOUT=options.timeout, WARNING=options.warning)
    listener = socket.create_server(("127.0.0.1", options.port))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
    if options.framework == "fastapi":
        import uvicorn

        uvicorn.Server(uvicorn.Config(fastapi_site(), log_level="warning")).run(sockets=[listener])
        return
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # nothing reads a line for each request
    site = flask_site() if options.framework == "flask" else django_site()
    make_server("127.0.0.1", 0, site, threaded=True, fd=listener.fileno()).serve_forever()


if __name__ == "__main__":
    main()
