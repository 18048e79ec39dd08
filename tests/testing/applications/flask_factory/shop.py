"""A shop with an application factory."""

from flask import Flask

from users_session_manager.integrations.flask import UserSessions, current_session, session_required

sessions = UserSessions()


def create_app(**settings):
    app = Flask(__name__)
    app.config.update({"USER_SESSIONS_TIMEOUT": 20 * 60, **settings})
    sessions.init_app(app)
    app.ends = []

    @sessions.manager.on("sessionEnded")
    def note(session, reason):
        app.ends.append((session.username, reason))

    @app.get("/me")
    @session_required
    def me():
        return {"username": current_session.username}

    @app.post("/logout")
    def logout():
        return {"ended": sessions.sign_out()}

    return app
