"""See who is logged in, live, and watch every open tab being logged out the moment a session runs out.

Run it with `python examples/flask_app/app.py` and open the address it prints.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import socketio
from flask import Flask, Response, abort, jsonify, render_template, request, send_file
from werkzeug.security import check_password_hash, generate_password_hash
from werkzeug.serving import make_server

from users_session_manager import SessionManager, SessionRejected
from users_session_manager.integrations.flask import UserSessions, current_session, session_required
from users_session_manager.integrations.socketio import attach

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # what the examples share
from socket_io_client import CDN, INTEGRITY, fetch  # noqa: E402

# A real application has these hashes in its database, and its passwords nowhere.
DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia"}
PASSWORD_HASHES = {name: generate_password_hash(password) for name, password in DEMO_USERS.items()}
# What an unknown user is checked against: it takes as long as a known one, so the time tells nothing about who exists.
NOBODY = generate_password_hash("nobody")


def create_app(*, timeout: float = 60, client_script: Path | None = None, https: bool = False) -> Flask:
    """Return the application; `client_script` is our own copy of socket.io-client, `None` for the CDN's."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 4096
    app.config["USER_SESSIONS_HEADER"] = None  # the page's key is in the cookie alone
    # Over https the cookie is for https alone. `main` serves plain http, where not every browser would keep such a one.
    app.config["USER_SESSIONS_COOKIE_SECURE"] = https
    user_sessions = UserSessions(app)
    io = socketio.Server(async_mode="threading")
    manager = SessionManager()
    if not manager.setSessionTimeOut(timeout):
        raise ValueError(f"timeout must be at least {manager.MIN_SESSION_TIMEOUT} seconds, got {timeout}")

    # From here on every page that sends `session_key` hears `logout` the moment its session ends.
    attach(manager, io, cookie=app.extensions["users_session_manager"].carrier.cookie)
    app.wsgi_app = socketio.WSGIApp(io, app.wsgi_app)  # type: ignore[method-assign]

    pushing = threading.Lock()  # so that no page gets an old list after a newer one

    def list_for(reader: str) -> list[dict[str, Any]]:
        rows = []
        for key, session in list(manager.sessions.items()):
            left = manager.getSessionTimeLeft(key)
            if left is False:
                continue  # it ran out while we were looking
            # The label of a key is for showing. The whole key logs in, and is nobody's business but its owner's.
            label = key.partition("_")[0]
            timeout = session.timer.interval
            row = {"username": session.username, "label": label, "left": left, "timeout": timeout, "you": key == reader}
            rows.append(row)
        return rows

    def push_lists() -> None:
        with pushing:
            for key in list(manager.sessions):
                # The room of a key holds the pages of that session and nobody else.
                io.emit("sessions", list_for(key), to=key)

    def on_created(key: str) -> None:
        print(f"{manager.getUsernameFromSessionKey(key)} logged in, session {key.partition('_')[0]}", flush=True)
        push_lists()

    def on_deleted(key: str) -> None:
        print(f"session {key.partition('_')[0]} has ended", flush=True)
        push_lists()

    def on_error(error: Exception, details: dict[str, Any]) -> None:
        if not isinstance(error, SessionRejected):  # a rejection is the day's work; this is a fault of ours
            app.logger.error("A listener failed: %r", details, exc_info=error)

    manager.on("sessionCreated", on_created)
    manager.on("sessionDeleted", on_deleted)
    manager.on("error", on_error)  # with a listener a rejection is `False`; without one it would be raised

    @app.before_request
    def refuse_forms() -> None:
        # A form on somebody else's page can post, but it cannot post JSON.
        if request.method == "POST" and not request.is_json:
            abort(415)

    @app.get("/")
    def page() -> str:
        username = current_session.username if current_session else None
        client = {"src": "/socket.io-client.js" if client_script else CDN, "integrity": INTEGRITY}
        seconds = manager.getSessionTimeout()
        return render_template("page.html", username=username, demo_users=DEMO_USERS, client=client, timeout=seconds)

    @app.post("/login")
    def login() -> Any:
        username, password = str(field("username")), str(field("password"))
        right = check_password_hash(PASSWORD_HASHES.get(username, NOBODY), password)
        if not right or username not in PASSWORD_HASHES:
            return jsonify(error="That username and password do not go together."), 403
        user_sessions.sign_in(username)  # ends that of whoever used this browser before, and calls on_created
        return jsonify(timeout=manager.getSessionTimeout())

    @app.get("/sessions")
    @session_required(passive=True)  # the page asks by itself, which must not prolong
    def sessions() -> Response:
        return jsonify(list_for(current_session.key))

    @app.post("/still-here")
    @session_required
    def still_here() -> Response:
        push_lists()
        return jsonify({})

    @app.post("/timeout")
    @session_required(passive=True)
    def set_timeout() -> Any:
        if not manager.setSessionTimeOut(field("seconds")):
            return jsonify(error=f"It has to be a number of at least {manager.MIN_SESSION_TIMEOUT} seconds."), 400
        return jsonify(timeout=manager.getSessionTimeout())

    @app.post("/logout")
    @session_required(passive=True)
    def logout() -> Response:
        user_sessions.sign_out()  # calls on_deleted, and every tab of the session gets `logout`
        return jsonify({})

    @app.post("/logout-everyone")
    @session_required(passive=True)
    def logout_everyone() -> Response:
        manager.deleteAllSessions()  # a real application would also ask whether this user may
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
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    return app


def field(name: str) -> Any:
    """Return one field of the request's JSON object; what is missing is an empty text."""
    body = request.get_json()
    return body.get(name, "") if isinstance(body, dict) else abort(400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds a session lasts (default: %(default)s)")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request would hide the two that matter
    app = create_app(timeout=options.timeout, client_script=fetch(HERE / "instance"))
    # On a port that is taken this says so and exits.
    server = make_server("127.0.0.1", options.port, app, threaded=True)
    print(f"Open http://127.0.0.1:{server.port}/ in a browser. Ctrl-C ends it.", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
