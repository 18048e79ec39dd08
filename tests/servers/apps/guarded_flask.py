"""A Flask application with a login and a guarded route, for whatever serves WSGI."""

from flask import Flask

from users_session_manager.integrations.flask import UserSessions, current_session, session_required

app = Flask(__name__)
app.config["USER_SESSIONS_COOKIE_SECURE"] = False
sessions = UserSessions(app)


@app.post("/login")
def login():
    return {"session_key": sessions.sign_in("Luca")}


@app.get("/guarded")
@session_required
def guarded():
    return {"username": current_session.username}
