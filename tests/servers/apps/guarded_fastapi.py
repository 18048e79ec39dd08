"""A FastAPI application with a login and a guarded route, for whatever serves ASGI."""

from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response

from users_session_manager.integrations.fastapi import RequestSession, UserSessions

app = FastAPI()
sessions = UserSessions(secure=False)
sessions.install(app)


@app.post("/login")
def login(request: Request, response: Response) -> dict[str, str]:
    return {"session_key": sessions.sign_in(request, response, "Luca")}


@app.get("/guarded")
async def guarded(session: Annotated[RequestSession, Depends(sessions.current)]) -> dict[str, str]:
    return {"username": session.username}
