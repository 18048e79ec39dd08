"""See who is logged in, live, and watch every open tab being logged out the moment a session runs out.

Run it with `python examples/flask_app/app.py` and open the address it prints. Beside this file: `presence.py`, what the
pages show and when they are told, and `administration.py`, what the administrator may do.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import socketio
from administration import ADMINISTRATORS, administration
from flask import Flask, Response, abort, jsonify, render_template, request, send_file
from presence import Presence, label
from ua_parser import parse_os, parse_user_agent
from werkzeug.security import check_password_hash, generate_password_hash
from werkzeug.serving import make_server

from users_session_manager import Session, SessionManager
from users_session_manager.integrations.flask import UserSessions, current_session, session_required
from users_session_manager.integrations.socketio import attach

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # what the examples share
from socket_io_client import CDN, INTEGRITY, fetch  # noqa: E402

# A real application has these hashes in its database, and its passwords nowhere.
DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia", "admin": "antipasti"}
PASSWORD_HASHES = {name: generate_password_hash(password) for name, password in DEMO_USERS.items()}
# What an unknown user is checked against: it takes as long as a known one, so the time tells nothing about who exists.
NOBODY = generate_password_hash("nobody")


def create_app(
    *, timeout: float = 60, warning: float = 20, client_script: Path | None = None, https: bool = False
) -> Flask:
    """Return the application.

    `timeout` and `warning` are seconds: how long a session lasts, and how long before its end its pages ask whether
    somebody is there. `client_script` is our own copy of socket.io-client, `None` for the CDN's.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 4096
    app.config["USER_SESSIONS_HEADER"] = None  # the page's key is in the cookie alone
    # Over https the cookie is for https alone. `main` serves plain http, where not every browser would keep such a one.
    app.config["USER_SESSIONS_COOKIE_SECURE"] = https
    app.config["USER_SESSIONS_LOGIN_URL"] = "page"  # for who opens /admin without a session
    user_sessions = UserSessions(app)
    io = socketio.Server(async_mode="threading")
    manager = SessionManager()

    # From here on every page that sends `session_key` hears `session_expiring` shortly before its session ends, and
    # `logout` the moment it does.
    attach(manager, io, cookie=app.extensions["users_session_manager"].carrier.cookie)
    app.wsgi_app = socketio.WSGIApp(io, app.wsgi_app)  # type: ignore[method-assign]

    presence = Presence(manager, io, administrators=ADMINISTRATORS, warning=warning)
    if not presence.set_timeout(timeout):
        raise ValueError(f"timeout must be at least {manager.MIN_SESSION_TIMEOUT} seconds, got {timeout}")

    def on_created(key: str) -> None:
        print(f"{manager.getUsernameFromSessionKey(key)} logged in, session {label(key)}", flush=True)
        presence.push()

    def on_ended(session: Session, reason: str) -> None:
        print(f"session {label(session.key)} of {session.username} has ended: {reason}", flush=True)
        presence.push()

    manager.on("sessionCreated", on_created)
    manager.on("sessionRenewed", lambda _old, _new: presence.push())  # its label is another one
    manager.on("sessionExpiring", lambda _key, _left: presence.push())  # so that no older list comes after the warning
    manager.on("sessionEnded", on_ended)

    @app.before_request
    def refuse_forms() -> None:
        # A form on somebody else's page can post, but it cannot post JSON.
        if request.method == "POST":
            if not request.is_json:
                abort(415)
            if not isinstance(request.get_json(), dict):
                abort(400)

    @app.get("/")
    def page() -> str:
        return render_template("page.html", demo_users=DEMO_USERS)

    @app.post("/login")
    def login() -> Any:
        username, password = str(request.json.get("username", "")), str(request.json.get("password", ""))
        right = check_password_hash(PASSWORD_HASHES.get(username, NOBODY), password)
        if not right or username not in PASSWORD_HASHES:
            return jsonify(error="That username and password do not go together."), 403
        # Ends that of whoever used this browser before, and calls on_created.
        user_sessions.sign_in(username, data={"browser": browser_of(request.user_agent.string)})
        return jsonify(next=user_sessions.next_page(default=""), administrator=username in ADMINISTRATORS)

    # Nothing but `still-here` begins the countdown again, so that it is easy to watch. Most applications let everything
    # that a person does prolong the session, and have `passive` views for what a page does by itself alone.

    @app.get("/sessions")
    @session_required(passive=True)
    def sessions() -> Response:
        return jsonify(presence.for_person(current_session.username, current_session.key))

    @app.post("/still-here")
    @session_required
    def still_here() -> Response:
        presence.push()
        return jsonify({})

    @app.post("/logout")
    @session_required(passive=True)
    def logout() -> Response:
        user_sessions.sign_out()  # calls on_ended, and every tab of the session gets `logout`
        return jsonify({})

    @app.post("/logout-there")
    @session_required(passive=True)
    def logout_there() -> Any:
        # Looked for among the user's own: nobody ends the session of somebody else, whatever is sent here.
        ended = presence.end(current_session.username, request.json.get("session"))
        return jsonify({}) if ended else (jsonify(error="That session has ended already."), 404)

    @app.post("/logout-elsewhere")
    @session_required(passive=True)
    def logout_elsewhere() -> Response:
        user_sessions.sign_out_elsewhere()
        return jsonify({})

    app.register_blueprint(administration(manager, presence))

    @app.get("/socket.io-client.js")
    def socket_io_client() -> Response:
        return send_file(client_script) if client_script else abort(404)

    @app.context_processor
    def for_every_page() -> dict[str, Any]:
        client = {"src": "/socket.io-client.js" if client_script else CDN, "integrity": INTEGRITY}
        username = current_session.username if current_session else None
        return {"client": client, "username": username, "administrators": ADMINISTRATORS}

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


def browser_of(user_agent: str) -> str:
    """Return what people call the browser that says this of itself; they recognise their sessions by it.

    Anybody can say anything, so nothing is decided by it.
    """
    user_agent = user_agent[:400]  # no browser says more, and each character takes its time
    names = [found.family for found in (parse_user_agent(user_agent), parse_os(user_agent)) if found]
    return " on ".join(names)[:60] or "Unknown browser"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds a session lasts (default: %(default)s)")
    # WCAG 2.2, 2.2.1: at least 20 seconds to ask for more time.
    warning = "seconds before its end at which its pages ask whether somebody is there (default: %(default)s)"
    parser.add_argument("--warning", type=float, default=20, help=warning)
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request would hide the two that matter
    app = create_app(timeout=options.timeout, warning=options.warning, client_script=fetch(HERE / "instance"))
    # On a port that is taken this says so and exits.
    server = make_server("127.0.0.1", options.port, app, threaded=True)
    print(f"Open http://127.0.0.1:{server.port}/ in a browser. Ctrl-C ends it.", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
