"""A shop with an application factory."""

from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response

from users_session_manager.integrations.fastapi import RequestSession, UserSessions


def create_app(**options):
    sessions = UserSessions(**{"timeout": 20 * 60, **options})
    app = FastAPI()
    sessions.install(app)
    app.state.ends = []

    @sessions.manager.on("sessionEnded")
    def note(session, reason):
        app.state.ends.append((session.username, reason))

    @app.get("/me")
    async def me(session: Annotated[RequestSession, Depends(sessions.current)]):
        return {"username": session.username}

    @app.post("/logout")
    def logout(request: Request, response: Response):
        return {"ended": sessions.sign_out(request, response)}

    return app
