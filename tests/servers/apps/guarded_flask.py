"""A Flask application with a login and guarded routes, for whatever serves WSGI."""

from events import ticks
from flask import Flask, Response, send_file

from users_session_manager import StoreUnavailable, TooManySessions
from users_session_manager.integrations.flask import UserSessions, current_session, session_required

app = Flask(__name__)
app.config["USER_SESSIONS_COOKIE_SECURE"] = False
sessions = UserSessions(app)


@app.post("/login")
def login():
    return {"session_key": sessions.sign_in("Luca")}


@app.post("/login/<name>")
def login_as(name):
    return {"session_key": sessions.sign_in(name)}


@app.post("/logout")
def logout():
    return {"ended": sessions.sign_out()}


@app.get("/guarded")
@session_required
def guarded():
    return {"username": current_session.username}


@app.get("/lasting")
@session_required
def lasting():
    """It says itself what caches may do."""
    return {"username": current_session.username}, {"Cache-Control": "public, max-age=3600"}


@app.get("/file")
@session_required
def file():
    return send_file(__file__)


@app.get("/stream")
@session_required(passive=True)
def stream():
    return Response(sessions.stream(ticks()), mimetype="text/event-stream")


@app.get("/recent")
@session_required(max_age=0)
def recent():
    return {}


@app.get("/too-many")
def too_many():
    raise TooManySessions("too many")


@app.get("/unavailable")
def unavailable():
    raise StoreUnavailable("no answer")


@app.get("/public")
def public():
    return {}, {"Cache-Control": "public, max-age=3600"}
