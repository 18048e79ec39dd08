"""A shop with one `app` for the module, whose pages Socket.IO logs out."""

from flask import Flask, abort, request
from flask_socketio import SocketIO

from users_session_manager.integrations.flask import UserSessions, current_session, session_required
from users_session_manager.integrations.socketio import attach

app = Flask(__name__)
app.config.update(
    USER_SESSIONS_STORE="redis://127.0.0.1:1/0",  # which the tests do not have
    USER_SESSIONS_TIMEOUT=20 * 60,
    USER_SESSIONS_WARNING=60,
    USER_SESSIONS_MAX_SESSIONS_PER_USER=2,
)
sessions = UserSessions(app)
io = SocketIO(app, async_mode="threading")
attach(sessions.manager, io, cookie="__Host-session_key")
ends = []


@sessions.manager.on("sessionEnded")
def note(session, reason):
    ends.append((session.username, reason))


@app.post("/login")
def login():
    if request.form["password"] != "lasagne":
        abort(403)
    sessions.sign_in(request.form["username"])
    return {}


@app.get("/cart")
@session_required
def cart():
    return {"username": current_session.username, "cart": current_session.data or []}


@app.post("/cart/<dish>")
@session_required
def order(dish):
    return {"cart": current_session.update(lambda cart: [*(cart or []), dish])}


@app.get("/unread")
@session_required(passive=True)
def unread():
    return {"messages": 0}


@app.post("/logout")
def logout():
    return {"ended": sessions.sign_out()}


@app.post("/logout-elsewhere")
@session_required
def log_out_elsewhere():
    return {"ended": sessions.sign_out_elsewhere()}
