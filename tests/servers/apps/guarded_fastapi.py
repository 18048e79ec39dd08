"""A FastAPI application with a login and guarded routes, for whatever serves ASGI."""

from contextlib import suppress
from typing import Annotated

from events import silence, ticks
from fastapi import Depends, FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, StreamingResponse

from users_session_manager import StoreUnavailable, TooManySessions
from users_session_manager.integrations.fastapi import RequestSession, UserSessions

app = FastAPI()
sessions = UserSessions(secure=False)
sessions.install(app)
CurrentSession = Annotated[RequestSession, Depends(sessions.current)]


@app.post("/login")
def login(request: Request, response: Response) -> dict[str, str]:
    return {"session_key": sessions.sign_in(request, response, "Luca")}


@app.post("/login/{name}")
def login_as(name: str, request: Request, response: Response) -> dict[str, str]:
    return {"session_key": sessions.sign_in(request, response, name)}


@app.post("/logout")
def logout(request: Request, response: Response) -> dict[str, bool]:
    return {"ended": sessions.sign_out(request, response)}


@app.get("/guarded")
async def guarded(session: CurrentSession) -> dict[str, str]:
    return {"username": session.username}


@app.get("/lasting")
async def lasting(session: CurrentSession, response: Response) -> dict[str, str]:
    """It says itself what caches may do."""
    response.headers["Cache-Control"] = "public, max-age=3600"
    return {"username": session.username}


@app.get("/file", dependencies=[Depends(sessions.current)])
async def file() -> FileResponse:
    return FileResponse(__file__)


@app.get("/stream", dependencies=[Depends(sessions.passive)])
def stream(request: Request) -> StreamingResponse:
    return StreamingResponse(sessions.stream(request, ticks()), media_type="text/event-stream")


@app.get("/async-stream", dependencies=[Depends(sessions.passive)])
async def async_stream(request: Request) -> StreamingResponse:
    return StreamingResponse(sessions.stream(request, silence()), media_type="text/event-stream")


@app.websocket("/socket", dependencies=[Depends(sessions.passive)])
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    with suppress(WebSocketDisconnect):
        await websocket.send_text("hello")
        await websocket.receive_text()


@app.get("/recent", dependencies=[Depends(sessions.recent(0))])
async def recent() -> None: ...


@app.get("/too-many")
async def too_many() -> None:
    raise TooManySessions("too many")


@app.get("/unavailable")
async def unavailable() -> None:
    raise StoreUnavailable("no answer")


@app.get("/public")
async def public(response: Response) -> None:
    response.headers["Cache-Control"] = "public, max-age=3600"
