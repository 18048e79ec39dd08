"""The application of one worker; `run.py` starts four of them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import socketio
from flask import Flask, Response, abort, jsonify, render_template, request
from werkzeug.security import check_password_hash, generate_password_hash

from users_session_manager import Session, SessionManager
from users_session_manager.integrations.flask import UserSessions, current_session, session_required

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for the package `shared`
from shared.flask_pages import shared_pages
from shared.pages import label

# A real application keeps these hashes in its database, and the passwords nowhere.
DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia"}
PASSWORD_HASHES = {name: generate_password_hash(password) for name, password in DEMO_USERS.items()}
# For an unknown username. The check takes as long as for a known one, so its time does not reveal which users exist.
UNKNOWN_USER_HASH = generate_password_hash("unknown")


def create_app(redis_url: str, *, worker: int, timeout: float, client_script: str | None) -> Flask:
    """Return the application of one worker.

    Args:
        redis_url: where the sessions of all workers are.
        worker: the number of this worker, which its pages and log lines show.
        timeout: the idle timeout of a session, in seconds.
        client_script: our own copy of socket.io-client; `None` for the CDN's.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 4096
    app.config["USER_SESSIONS_HEADER"] = None  # the page's key is in the cookie alone
    app.config["USER_SESSIONS_COOKIE_SECURE"] = False  # for plain http, as this demo is served; else leave it out
    user_sessions = UserSessions(app)

    # Only this differs from one process: the sessions are in Redis. A page gets its `logout` from the worker that it is
    # connected to, wherever the session ends.
    manager = SessionManager(store=redis_url)
    io = socketio.Server(async_mode="threading")

    manager.setSessionTimeOut(timeout)
    user_sessions.attach(io)
    app.wsgi_app = socketio.WSGIApp(io, app.wsgi_app)  # type: ignore[method-assign]

    # Each event reaches one worker: the one in which it happens, or any one if a session expires.
    def on_created(key: str) -> None:
        username = manager.getUsernameFromSessionKey(key)
        print(f"worker {worker}: {username} logged in, session {label(key)}", flush=True)

    def on_ended(session: Session, reason: str) -> None:
        text = f"session {label(session.key)} of {session.username} has ended: {reason}"
        print(f"worker {worker}: {text}", flush=True)

    manager.on("sessionCreated", on_created)
    manager.on("sessionEnded", on_ended)

    @app.before_request
    def refuse_forms() -> None:
        # A form on another site can post, but it cannot post JSON.
        if request.method == "POST" and not (request.is_json and isinstance(request.get_json(), dict)):
            abort(415)

    @app.get("/")
    def page() -> str:
        username = current_session.username if current_session else None
        users = [{"name": name, "password": password} for name, password in DEMO_USERS.items()]
        return render_template("page.html", username=username, worker=worker, demo_users=users)

    @app.post("/login")
    def login() -> Any:
        username, password = str(request.json.get("username", "")), str(request.json.get("password", ""))
        right = check_password_hash(PASSWORD_HASHES.get(username, UNKNOWN_USER_HASH), password)
        if not right or username not in PASSWORD_HASHES:
            return jsonify(error="That username and password do not go together."), 403
        user_sessions.sign_in(username)
        return jsonify({})

    @app.get("/session")
    @session_required(passive=True)  # the page requests it by itself, so it must not prolong the session
    def session() -> Response:
        return jsonify(
            worker=worker,
            username=current_session.username,
            left=manager.getSessionTimeLeft(current_session.key),
            timeout=timeout,
            users=Counter(manager.getLoggedUsers()),
        )

    @app.post("/still-here")
    @session_required
    def still_here() -> Response:
        return jsonify({})

    @app.post("/logout")
    @session_required(passive=True)
    def logout() -> Response:
        user_sessions.sign_out()  # every page of the session gets `logout`, in all workers
        return jsonify({})

    app.register_blueprint(shared_pages(client_script))
    return app
