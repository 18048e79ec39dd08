"""One worker of several that share a Redis.

In its environment, `REDIS_URL` is the address of that Redis, and `WORKER` the number of the worker.
"""

import os

import socketio
from flask import Flask, redirect, request, send_file
from npm_client import client_script

from users_session_manager.integrations.flask import UserSessions, current_session, session_required

WORKER = int(os.environ["WORKER"])
LOGIN = """<!doctype html><link rel="icon" href="data:,"><h1>Log in</h1><p>This page comes from worker {}.</p>
<form method="post"><label>Username <input name="username"></label><button>Log in</button></form>"""
PAGE = """<!doctype html><link rel="icon" href="data:,"><h1>Hello, {}</h1><p>Worker {} answered.</p>
<form method="post" action="/logout"><button>Log out</button></form>
<script src="/socket.io-client.js"></script>
<script src="/user-sessions.js" data-login="/login" data-signed-in></script>"""

app = Flask(__name__)
app.config.update(USER_SESSIONS_STORE=os.environ["REDIS_URL"], USER_SESSIONS_LOGIN_URL="login")
app.config.update(USER_SESSIONS_COOKIE_SECURE=False)
sessions = UserSessions(app)
io = socketio.Server(async_mode="threading")
sessions.attach(io)
app.wsgi_app = socketio.WSGIApp(io, app.wsgi_app)


@sessions.manager.on("sessionEnded")
def log_end(session, reason):
    print(f"The session of {session.username} has ended: {reason}", flush=True)


@app.route("/login", methods=["GET", "POST"])
def login():
    if request.method == "GET":
        return LOGIN.format(WORKER)
    sessions.sign_in(request.form["username"])
    return redirect("/")


@app.get("/")
@session_required
def page():
    return PAGE.format(current_session.username, WORKER)


@app.get("/session")
@session_required(passive=True)
def session():
    return {"worker": WORKER, "username": current_session.username, "users": sessions.manager.getLoggedUsers()}


@app.post("/logout")
def logout():
    sessions.sign_out()
    return redirect("/login")


@app.get("/socket.io-client.js")
def socket_io_client():
    return send_file(client_script())
