"""A small FastAPI application with a login page and forms.

`python fastapi_site.py --port 0 --timeout 600` prints the address to open.
"""

import argparse
import socket
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl

import socketio
import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from users_session_manager.integrations.fastapi import RequestSession, UserSessions
from users_session_manager.integrations.socketio import attach

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[2] / "examples"))
from shared.socket_io_client import fetch  # noqa: E402

MONTH = 30 * 24 * 60 * 60
PASSWORDS = {"luca": "lasagne", "fabio": "focaccia"}

app = FastAPI()
sessions = UserSessions(login_url="login_page")
sessions.install(app)
CurrentSession = Annotated[RequestSession, Depends(sessions.current)]
templates = Jinja2Templates(directory=HERE / "templates")
client_script = fetch()


async def filled_in(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode()))


Form = Annotated[dict[str, str], Depends(filled_in)]


def show(request: Request, title: str, session: RequestSession, status: int = 200) -> HTMLResponse:
    page = {"title": title, "username": session.username}
    return templates.TemplateResponse(request, "page.html", page, status)


@app.get("/login")
def login_page(request: Request) -> HTMLResponse:
    return templates.TemplateResponse(request, "login.html")


@app.post("/login")
def login(form: Form, request: Request, response: Response) -> Response:
    username = form.get("username", "")
    if PASSWORDS.get(username, "") != form.get("password"):
        return templates.TemplateResponse(request, "login.html", {"error": "Wrong username or password."})
    sessions.sign_in(request, response, username, timeout=MONTH if "remember" in form else None)
    return RedirectResponse(sessions.next_page(request), 303)


@app.get("/")
def home(request: Request, session: CurrentSession) -> HTMLResponse:
    return show(request, "Home", session)


@app.get("/orders")
def orders(of: str, request: Request, session: CurrentSession) -> HTMLResponse:
    return show(request, f"Orders of {of}", session)


@app.post("/logout")
def logout(request: Request, response: Response) -> RedirectResponse:
    sessions.sign_out(request, response)
    return RedirectResponse("/login", 303)


@app.post("/logout-elsewhere")
def logout_elsewhere(request: Request, session: CurrentSession) -> RedirectResponse:
    sessions.sign_out_elsewhere(request)
    return RedirectResponse("/", 303)


@app.post("/password")
def change_password(form: Form, request: Request, response: Response, session: CurrentSession) -> Any:
    if form["current"] != PASSWORDS[session.username]:
        return show(request, "Wrong password", session, 403)
    PASSWORDS[session.username] = form["new"]
    sessions.sign_out_elsewhere(request)
    sessions.renew_key(request, response, overlap=5)
    return RedirectResponse("/", 303)


@app.get("/socket.io-client.js")
def socket_io_client() -> FileResponse:
    return FileResponse(client_script)


io = socketio.AsyncServer(async_mode="asgi")
attach(sessions.manager, io, cookie=sessions.carrier.cookie)
server = socketio.ASGIApp(io, app)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--timeout", type=float, default=600)
    options = parser.parse_args()
    sessions.manager.setSessionTimeOut(options.timeout)
    listening = socket.create_server(("127.0.0.1", options.port))
    print(f"Open http://127.0.0.1:{listening.getsockname()[1]}/", flush=True)
    config = uvicorn.Config(server, log_level="warning", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])
