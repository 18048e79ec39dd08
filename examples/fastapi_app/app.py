"""Show who is online, and log every open tab out the moment its session ends.

Run it with `python examples/fastapi_app/app.py` and open the address it prints.
"""

import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import socketio
import uvicorn
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from fastapi import Body, Depends, FastAPI, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from users_session_manager import Session
from users_session_manager.integrations.fastapi import RequestSession, UserSessions
from users_session_manager.integrations.socketio import presence

SHARED = Path(__file__).resolve().parents[1] / "shared"
sys.path.append(str(SHARED.parent))  # for the package `shared`
from shared.command_line import read_options  # noqa: E402
from shared.socket_io_client import client_script  # noqa: E402

# A real application keeps the hashes in its database, and the passwords nowhere.
DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia", "admin": "antipasti"}
hasher = PasswordHasher()
PASSWORD_HASHES = {username: hasher.hash(password) for username, password in DEMO_USERS.items()}
# The check of an unknown username takes as long as that of a known one, so its time does not reveal which users exist.
UNKNOWN_USER_HASH = hasher.hash("unknown")

app = FastAPI(title="Who is online")
app.mount("/static", StaticFiles(directory=SHARED / "static"))
templates = Jinja2Templates(SHARED / "templates")
user_sessions = UserSessions(login_url="login", secure=False)  # this is http; leave `secure` out where https is used
user_sessions.install(app)
manager = user_sessions.manager
CurrentSession = Annotated[RequestSession, Depends(user_sessions.current)]

io = socketio.AsyncServer(async_mode="asgi")
user_sessions.attach(io)  # pages hear when their session ends, and some seconds before it expires
presence(manager, io)  # pages hear who logs in and out
server = socketio.ASGIApp(io, app)


@app.get("/login", response_class=HTMLResponse)
def login(request: Request) -> Any:
    return login_page(request)


@app.post("/login")
def check_login(request: Request, username: Annotated[str, Form()], password: Annotated[str, Form()]) -> Any:
    try:
        hasher.verify(PASSWORD_HASHES.get(username, UNKNOWN_USER_HASH), password)
    except VerifyMismatchError:
        return login_page(request, wrong=True)
    if username not in PASSWORD_HASHES:
        return login_page(request, wrong=True)
    response = RedirectResponse(user_sessions.next_page(request), 303)
    user_sessions.sign_in(request, response, username)
    return response


def login_page(request: Request, *, wrong: bool = False) -> Any:
    demo_users = [{"username": username, "password": password} for username, password in DEMO_USERS.items()]
    context = {"demo_users": demo_users, "wrong": wrong}
    return templates.TemplateResponse(request, "login.html", context, status_code=403 if wrong else 200)


@app.get("/", response_class=HTMLResponse)
def page(request: Request, session: CurrentSession) -> Any:
    context = {
        "username": session.username,
        "administrator": session.username == "admin",
        "client": app.state.client_script,
        "user_sessions_script": "/user-sessions.js",
    }
    return templates.TemplateResponse(request, "page.html", context)


@app.post("/logout")
def logout(request: Request) -> RedirectResponse:
    response = RedirectResponse("/login", 303)
    user_sessions.sign_out(request, response)  # logs out all tabs of this browser
    return response


@app.post("/logout-everywhere")
def logout_everywhere(request: Request, session: CurrentSession) -> RedirectResponse:
    response = logout(request)  # refuses a form of another site
    manager.deleteUserSessions(session.username)
    return response


@app.post("/logout-user")
def logout_user(
    request: Request, session: CurrentSession, username: Annotated[str, Body(embed=True)]
) -> dict[str, int]:
    if session.username != "admin":
        raise HTTPException(403)
    if request.headers.get("content-type") != "application/json":  # which a form of another site cannot send
        raise HTTPException(415)
    return {"ended": manager.deleteUserSessions(username)}


@manager.on("sessionCreated")
async def notify_other_browsers(key: str) -> None:
    username = manager.getUsernameFromSessionKey(key)
    for session in manager.getUserSessions(username) if username else []:
        if session["key"] != key:
            # The room of a key contains the tabs of its session.
            await io.emit("notice", "You have also logged in with another browser.", to=session["key"])


@manager.on("sessionEnded")
async def log_end(session: Session, reason: str) -> None:
    print(f"The session of {session.username} has ended: {reason}", flush=True)


def main() -> None:
    port = read_options(manager, __doc__, port=8000)
    app.state.client_script = client_script()
    listening = socket.create_server(("127.0.0.1", port))
    print(f"Open http://127.0.0.1:{listening.getsockname()[1]}/ in a browser. Ctrl-C ends it.", flush=True)
    config = uvicorn.Config(server, log_level="warning", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
