"""What each worker of the cluster serves; `run.py` starts four of them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import socketio
from flask import Flask, Response, abort, jsonify, render_template, request, send_file
from werkzeug.security import check_password_hash, generate_password_hash

from users_session_manager import Session, SessionManager
from users_session_manager.integrations.flask import UserSessions, current_session, session_required
from users_session_manager.integrations.socketio import attach

sys.path.append(str(Path(__file__).resolve().parents[1]))  # what the examples share
from socket_io_client import CDN, INTEGRITY

# A real application has these hashes in its database, and its passwords nowhere.
DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia"}
PASSWORD_HASHES = {name: generate_password_hash(password) for name, password in DEMO_USERS.items()}
# What an unknown user is checked against: it takes as long as a known one, so the time tells nothing about who exists.
NOBODY = generate_password_hash("nobody")


def create_app(redis_url: str, *, worker: int, timeout: float, client_script: str | None) -> Flask:
    """Return the application of one worker.

    `timeout` is how many seconds a session lasts; `client_script` is our own copy of socket.io-client, `None` for the
    CDN's.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 4096
    app.config["USER_SESSIONS_HEADER"] = None  # the page's key is in the cookie alone
    app.config["USER_SESSIONS_COOKIE_SECURE"] = False  # for plain http, as this demo is served; else leave it out
    user_sessions = UserSessions(app)

    # All that is different from one process: the sessions are in Redis, and what is sent to a page goes through it too,
    # to whichever worker the page is connected to.
    manager = SessionManager(store=redis_url)
    io = socketio.Server(async_mode="threading", client_manager=socketio.RedisManager(redis_url))

    manager.setSessionTimeOut(timeout)
    attach(manager, io, cookie=app.extensions["users_session_manager"].carrier.cookie)
    app.wsgi_app = socketio.WSGIApp(io, app.wsgi_app)  # type: ignore[method-assign]

    def say(text: str) -> None:
        print(f"worker {worker}: {text}", flush=True)
        io.emit("changed")  # to every page of every worker; each asks what it may see

    # Of each event one worker hears: that in which it happens, and of a session that runs out, any one.
    def on_created(key: str) -> None:
        say(f"{manager.getUsernameFromSessionKey(key)} logged in, session {label(key)}")

    def on_ended(session: Session, reason: str) -> None:
        say(f"session {label(session.key)} of {session.username} has ended: {reason}")

    manager.on("sessionCreated", on_created)
    manager.on("sessionEnded", on_ended)

    @app.before_request
    def refuse_forms() -> None:
        # A form on somebody else's page can post, but it cannot post JSON.
        if request.method == "POST" and not (request.is_json and isinstance(request.get_json(), dict)):
            abort(415)

    @app.get("/")
    def page() -> str:
        client = {"src": "/socket.io-client.js" if client_script else CDN, "integrity": INTEGRITY}
        username = current_session.username if current_session else None
        return render_template("page.html", client=client, username=username, worker=worker, demo_users=DEMO_USERS)

    @app.post("/login")
    def login() -> Any:
        username, password = str(request.json.get("username", "")), str(request.json.get("password", ""))
        right = check_password_hash(PASSWORD_HASHES.get(username, NOBODY), password)
        if not right or username not in PASSWORD_HASHES:
            return jsonify(error="That username and password do not go together."), 403
        user_sessions.sign_in(username)
        return jsonify({})

    @app.get("/session")
    @session_required(passive=True)  # the page asks by itself, and that prolongs nothing
    def session() -> Response:
        left, people = manager.getSessionTimeLeft(current_session.key), Counter(manager.getLoggedUsers())
        return jsonify(worker=worker, username=current_session.username, left=left, people=people)

    @app.post("/still-here")
    @session_required
    def still_here() -> Response:
        io.emit("changed", to=current_session.key)  # to the pages of this session, in all workers
        return jsonify({})

    @app.post("/logout")
    @session_required(passive=True)
    def logout() -> Response:
        user_sessions.sign_out()  # every page of the session gets `logout`, in all workers
        return jsonify({})

    @app.get("/socket.io-client.js")
    def socket_io_client() -> Response:
        return send_file(client_script) if client_script else abort(404)

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'self'{'' if client_script else ' ' + CDN}; style-src 'self'; "
            "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        return response

    return app


def label(key: str) -> str:
    """Return the part of a key that is for showing; the whole key logs in."""
    return key.partition("_")[0]
