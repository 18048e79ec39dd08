"""FastAPI with live logout: see your orders, and watch every open tab being logged out when your session expires.

Run it with `python examples/fastapi_app/app.py` and open the address it prints.
"""

import argparse
import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import socketio
import uvicorn
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from users_session_manager import Session, SessionManager
from users_session_manager.integrations.fastapi import RequestSession, UserSessions
from users_session_manager.integrations.prometheus import instrument
from users_session_manager.integrations.socketio import presence

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # for the package `shared`
from shared.pages import STATIC, TEMPLATES, client_tag, label, security_headers  # noqa: E402
from shared.socket_io_client import fetch  # noqa: E402

# A real application keeps all of this in its database: the hashes of the passwords, never the passwords.
DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia"}
hasher = PasswordHasher()
PASSWORD_HASHES = {name: hasher.hash(password) for name, password in DEMO_USERS.items()}
# For an unknown username. The check takes as long as for a known one, so its time does not reveal which users exist.
UNKNOWN_USER_HASH = hasher.hash("unknown")
ORDERS = {
    "luca": [{"dish": "Lasagne al forno", "count": 2}, {"dish": "Tiramisù", "count": 1}],
    "fabio": [{"dish": "Focaccia with rosemary", "count": 3}],
}
STEPS = ("The kitchen has your orders.", "They are in the oven.", "They are on their way.", "They are at your door.")

templates = Jinja2Templates(directory=[HERE / "templates", TEMPLATES])

# Sessions

manager = SessionManager()
io = socketio.AsyncServer(async_mode="asgi")
# This demo is served over plain http, where not every browser would store a Secure cookie.
sessions = UserSessions(manager, secure=False)
CurrentSession = Annotated[RequestSession, Depends(sessions.current)]
PassiveSession = Annotated[RequestSession, Depends(sessions.passive)]
Visitor = Annotated[RequestSession | None, Depends(sessions.optional)]

# From here on every page that sends `session_key` gets `logout` the moment its session ends, and `presence` when users
# come and go.
sessions.attach(io)
presence(manager, io)
instrument(manager)


def state_of(session: RequestSession) -> dict[str, Any]:
    left, timeout = manager.getSessionTimeLeft(session.key), manager.getSessionTimeout()
    return {"username": session.username, "left": left, "timeout": timeout}


# `async def` listeners run on uvicorn's event loop, even if a session expires on the thread of the clock.
@manager.on("sessionCreated")
async def on_created(key: str) -> None:
    print(f"{manager.getUsernameFromSessionKey(key)} logged in, session {label(key)}", flush=True)


@manager.on("sessionEnded")
async def on_ended(session: Session, reason: str) -> None:
    print(f"session {label(session.key)} of {session.username} has ended: {reason}", flush=True)


# The application


async def only_json(request: Request) -> None:
    """Refuse the posts of forms on other sites, which cannot post JSON."""
    if request.method == "POST" and request.headers.get("content-type") != "application/json":
        raise HTTPException(415)


app = FastAPI(title="Your orders", dependencies=[Depends(only_json)], docs_url=None, redoc_url=None)
app.state.client_script = None  # our own copy of socket.io-client; without one, pages load the CDN's
sessions.install(app)
app.mount("/static/shared", StaticFiles(directory=STATIC))
app.mount("/static", StaticFiles(directory=HERE / "static"))


class Login(BaseModel):
    username: str = Field(max_length=100)
    password: str = Field(max_length=100)


@app.get("/", response_class=HTMLResponse)
async def page(request: Request, visitor: Visitor) -> Response:
    context = {
        "username": visitor.username if visitor else None,
        "client": client_tag(app.state.client_script),
        "demo_users": [{"name": name, "password": password} for name, password in DEMO_USERS.items()],
    }
    return templates.TemplateResponse(request, "page.html", context)


@app.post("/login")
def login(form: Login, request: Request, response: Response) -> Any:  # no `async`: a hash takes a while
    try:
        hasher.verify(PASSWORD_HASHES.get(form.username, UNKNOWN_USER_HASH), form.password)
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
    """Return the state of the session. The page requests it by itself, so it must not prolong the session."""
    return state_of(session)


@app.get("/orders")
async def orders(session: CurrentSession) -> dict[str, Any]:
    """Return the orders of the user; this restarts the session."""
    session.data = (session.data or 0) + 1  # any data that an application stores with a session
    await io.emit("session", state_of(session), to=session.key)  # the other tabs restart their countdown too
    return {"orders": ORDERS[session.username], "asked": session.data}


async def progress() -> AsyncIterator[str]:
    for step in STEPS:
        yield f"data: {step}\n\n"
        await asyncio.sleep(5)
    await asyncio.Event().wait()  # a page would connect again if this ended before its session


@app.get("/orders/progress")
async def orders_progress(request: Request, _: PassiveSession) -> StreamingResponse:
    """Stream what becomes of the orders, as server-sent events, until the session ends."""
    return StreamingResponse(sessions.stream(request, progress()), media_type="text/event-stream")


@app.get("/metrics")
def metrics() -> Response:
    # A real application shows this to its Prometheus alone.
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@app.get("/socket.io-client.js")
def socket_io_client() -> FileResponse:
    if app.state.client_script is None:
        raise HTTPException(404)
    return FileResponse(app.state.client_script)


@app.middleware("http")
async def harden(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers.update(security_headers(app.state.client_script))
    return response


# Socket.IO in front, the application behind it. `uvicorn app:server` serves it too.
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
    except OSError as error:
        parser.error(f"port {options.port}: {error.strerror}")
    app.state.client_script = fetch()
    print(f"Open http://127.0.0.1:{listening.getsockname()[1]}/ in a browser. Ctrl-C ends it.", flush=True)
    config = uvicorn.Config(server, log_level="warning", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
