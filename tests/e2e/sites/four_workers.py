"""The quick start of the README, and what a test asks of its workers: `gunicorn --workers 4 four_workers:app`."""

import os

from quickstart import app, sessions

from users_session_manager.integrations.flask import current_session, session_required

app.extensions["socketio"].on_event("worker", os.getpid)


@app.post("/everywhere")
@session_required
def everywhere():
    return {"ended": sessions.manager.deleteUserSessions(current_session.username)}
