"""A shop with one `app` for the module, its manager given by hand, and `async def` listeners."""

from contextlib import asynccontextmanager
from typing import Annotated

import socketio
from fastapi import Depends, FastAPI, HTTPException, Request, Response

from users_session_manager import SessionManager
from users_session_manager.integrations.fastapi import RequestSession, UserSessions
from users_session_manager.integrations.socketio import attach

manager = SessionManager(store="redis://127.0.0.1:1/0")  # which the tests do not have
manager.setSessionTimeOut(20 * 60)
manager.setExpiryWarning(60)
sessions = UserSessions(manager)
io = socketio.AsyncServer(async_mode="asgi")
attach(manager, io, cookie=sessions.carrier.cookie)
ends = []


@manager.on("sessionEnded")
async def note(session, reason):
    ends.append((session.username, reason))


@asynccontextmanager
async def lifespan(app):
    yield


app = FastAPI(lifespan=lifespan)
sessions.install(app)
server = socketio.ASGIApp(io, app)
CurrentSession = Annotated[RequestSession, Depends(sessions.current)]


@app.post("/login")
def login(username: str, password: str, request: Request, response: Response):
    if password != "lasagne":
        raise HTTPException(403)
    return {"key": sessions.sign_in(request, response, username)}


@app.get("/cart")
async def cart(session: CurrentSession):
    return {"username": session.username, "cart": session.data or []}


@app.get("/unread")
async def unread(session: Annotated[RequestSession, Depends(sessions.passive)]):
    return {"messages": 0}


@app.post("/cart/{dish}")
def order(dish: str, session: CurrentSession):
    return {"cart": session.update(lambda cart: [*(cart or []), dish])}


@app.post("/logout")
def logout(request: Request, response: Response):
    return {"ended": sessions.sign_out(request, response)}


@app.delete("/users/{username}/sessions")
def log_out_everywhere(username: str, session: CurrentSession):
    return {"ended": manager.deleteUserSessions(username)}
