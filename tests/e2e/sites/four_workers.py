"""The quick start of the README, and what a test asks of its workers: `gunicorn --workers 4 four_workers:app`."""

import os

from flask import redirect
from quickstart import app, sessions

from users_session_manager.integrations.flask import current_session, session_required

app.extensions["socketio"].on_event("worker", os.getpid)


@app.get("/short-login")
def short_login():
    sessions.sign_in("luca", timeout=4)
    return redirect("/")


@app.post("/everywhere")
@session_required
def everywhere():
    return {"ended": sessions.manager.deleteUserSessions(current_session.username)}


@app.get("/left")
@session_required(passive=True)
def left():
    return {"left": sessions.manager.getSessionTimeLeft(current_session.key)}
