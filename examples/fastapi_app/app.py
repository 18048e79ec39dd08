"""FastAPI with live logout: see your orders, and watch every open tab being logged out when your session runs out.

Run it with `python examples/fastapi_app/app.py` and open the address it prints.
"""

import argparse
import html
import socket
import string
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import socketio
import uvicorn
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from users_session_manager import Session, SessionManager
from users_session_manager.integrations.fastapi import RequestSession, UserSessions
from users_session_manager.integrations.prometheus import instrument
from users_session_manager.integrations.socketio import attach

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # for what the examples share
from socket_io_client import CDN, INTEGRITY, fetch  # noqa: E402

# A real application has all of this in its database: the hashes of the passwords, never the passwords.
DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia"}
hasher = PasswordHasher()
PASSWORD_HASHES = {name: hasher.hash(password) for name, password in DEMO_USERS.items()}
# What an unknown user is checked against: it takes as long as a known one, so the time tells nothing about who exists.
NOBODY = hasher.hash("nobody")
ORDERS = {
    "luca": [{"dish": "Lasagne al forno", "count": 2}, {"dish": "Tiramisù", "count": 1}],
    "fabio": [{"dish": "Focaccia with rosemary", "count": 3}],
}

PAGE = string.Template((HERE / "page.html").read_text(encoding="utf-8"))

# Sessions

manager = SessionManager()
io = socketio.AsyncServer(async_mode="asgi")
# This demo is served over plain http, where not every browser would keep a cookie that is Secure.
sessions = UserSessions(manager, secure=False)
CurrentSession = Annotated[RequestSession, Depends(sessions.current)]
PassiveSession = Annotated[RequestSession, Depends(sessions.passive)]
Visitor = Annotated[RequestSession | None, Depends(sessions.optional)]

# From here on every page that sends `session_key` hears `logout` the moment its session ends.
attach(manager, io, cookie=sessions.carrier.cookie)
instrument(manager)


async def push_online() -> None:
    """Tell each page who is logged in now."""
    users = manager.getLoggedUsers()
    for name in set(users):
        for session in manager.getUserSessions(name):
            # The room of a key holds the pages of that session and nobody else.
            await io.emit("online", users, to=session["key"])


# `async def` listeners run on uvicorn's event loop, also when a session runs out on the clock's own thread.
@manager.on("sessionCreated")
async def on_created(key: str) -> None:
    print(f"{manager.getUsernameFromSessionKey(key)} logged in, session {label(key)}", flush=True)
    await push_online()


@manager.on("sessionEnded")
async def on_ended(session: Session, reason: str) -> None:
    print(f"session {label(session.key)} of {session.username} has ended: {reason}", flush=True)
    await push_online()


def label(key: str) -> str:
    """Return the part of a key that is for showing; the whole key logs in."""
    return key.partition("_")[0]


# The application


async def only_json(request: Request) -> None:
    """Refuse what a form on somebody else's page can post; it cannot post JSON."""
    if request.method == "POST" and request.headers.get("content-type") != "application/json":
        raise HTTPException(415)


app = FastAPI(title="Your orders", dependencies=[Depends(only_json)], docs_url=None, redoc_url=None)
app.state.client_script = None  # our own copy of socket.io-client; without one, pages take the CDN's
sessions.install(app)
app.mount("/static", StaticFiles(directory=HERE / "static"))


class Login(BaseModel):
    username: str = Field(max_length=100)
    password: str = Field(max_length=100)


@app.get("/", response_class=HTMLResponse)
async def page(visitor: Visitor) -> str:
    script = "/socket.io-client.js" if app.state.client_script else CDN
    username = html.escape(visitor.username if visitor else "")
    return PAGE.substitute(username=username, script=script, integrity=INTEGRITY)


@app.post("/login")
def login(form: Login, request: Request, response: Response) -> Any:  # no `async`: a hash takes its time
    try:
        hasher.verify(PASSWORD_HASHES.get(form.username, NOBODY), form.password)
        right = form.username in PASSWORD_HASHES
    except VerifyMismatchError:
        right = False
    if not right:
        return JSONResponse({"error": "That username and password do not go together."}, 403)
    sessions.sign_in(request, response, form.username)  # sets the cookie; on_created is called
    return {"username": form.username}


@app.post("/logout", dependencies=[Depends(sessions.passive)])
async def logout(request: Request, response: Response) -> dict[str, str]:
    sessions.sign_out(request, response)  # every tab of the session gets `logout`
    return {}


@app.get("/session")
async def session_now(session: PassiveSession) -> dict[str, Any]:
    """What the page asks for by itself: that must not keep the session of somebody who has left alive."""
    return {**time_of(session), "online": manager.getLoggedUsers()}


@app.get("/orders")
async def orders(session: CurrentSession) -> dict[str, Any]:
    """What a person asks for; the session begins its timeout again."""
    session.data = (session.data or 0) + 1  # whatever an application keeps with a session
    await io.emit("time", time_of(session), to=session.key)  # the other tabs count down from here too
    return {"orders": ORDERS[session.username], "asked": session.data}


def time_of(session: RequestSession) -> dict[str, float]:
    left = manager.getSessionTimeLeft(session.key)
    return {"left": left, "timeout": manager.getSessionTimeout()}


@app.get("/metrics")
def metrics() -> Response:
    # A real application shows this to its Prometheus and to nobody else.
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@app.get("/socket.io-client.js")
def socket_io_client() -> FileResponse:
    if app.state.client_script is None:
        raise HTTPException(404)
    return FileResponse(app.state.client_script)


@app.middleware("http")
async def harden(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    cdn = "" if app.state.client_script else f" {CDN}"
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self'{cdn}; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response


# What a server is given: Socket.IO in front, the application behind it. `uvicorn app:server` serves it too.
server = socketio.ASGIApp(io, app)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds a session lasts (default: %(default)s)")
    options = parser.parse_args()
    if not manager.setSessionTimeOut(options.timeout):
        parser.error(f"--timeout must be at least {manager.MIN_SESSION_TIMEOUT} seconds")
    try:
        listening = socket.create_server(("127.0.0.1", options.port))
    except OSError as taken:
        parser.error(f"port {options.port}: {taken.strerror}")
    app.state.client_script = fetch(HERE / "instance")
    print(f"Open http://127.0.0.1:{listening.getsockname()[1]}/ in a browser. Ctrl-C ends it.", flush=True)
    config = uvicorn.Config(server, log_level="warning", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
