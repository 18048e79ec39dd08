"""See who is logged in, live, and watch every open tab being logged out the moment a session expires.

Run it with `python examples/flask_app/app.py` and open the address it prints. In this folder: `lists.py` has the lists
that the pages show, `administration.py` the page of the administrator, and `activity.py` the log that it shows.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any, Literal

import socketio
from flask import Flask, Response, abort, jsonify, render_template, request
from ua_parser import parse_os, parse_user_agent
from werkzeug.security import check_password_hash, generate_password_hash
from werkzeug.serving import make_server

from users_session_manager import Session, SessionManager
from users_session_manager.integrations.flask import UserSessions, current_session, session_required
from users_session_manager.integrations.socketio import presence

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for the package `shared`
from activity import ActivityLog
from administration import ADMINISTRATORS, administration
from lists import SessionLists, id_of
from shared.flask_pages import shared_pages
from shared.pages import label
from shared.socket_io_client import fetch

# A real application keeps these hashes in its database, and the passwords nowhere.
DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia", "admin": "antipasti"}
PASSWORD_HASHES = {name: generate_password_hash(password) for name, password in DEMO_USERS.items()}
# For an unknown username. The check takes as long as for a known one, so its time does not reveal which users exist.
UNKNOWN_USER_HASH = generate_password_hash("unknown")


def create_app(
    *,
    store: str | None = "sqlite:///sessions.sqlite3",
    timeout: float = 60,
    warning: float = 20,
    client_script: Path | None = None,
    https: bool = False,
) -> Flask:
    """Return the application.

    Args:
        store: where the sessions are; a relative path of a file is in the folder `instance`.
        timeout: the idle timeout of a session, in seconds.
        warning: how many seconds before a session expires its pages ask whether the user is still there.
        client_script: our own copy of socket.io-client; `None` for the CDN's.
        https: whether the application is served over https.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 4096
    app.config["USER_SESSIONS_STORE"] = store
    app.config["USER_SESSIONS_HEADER"] = None  # the page's key is in the cookie alone
    # Over https the cookie is Secure. `main` serves plain http, where not every browser would store a Secure cookie.
    app.config["USER_SESSIONS_COOKIE_SECURE"] = https
    app.config["USER_SESSIONS_LOGIN_URL"] = "page"  # a browser without a session that opens /admin is sent there
    user_sessions = UserSessions(app)
    io = socketio.Server(async_mode="threading")
    manager = SessionManager()

    # From here on every page that sends `session_key` gets `session_expiring` shortly before its session expires, and
    # `logout` the moment it ends; and `presence` when sessions of any user begin and end. Presence has each name once,
    # so a public id makes the name of each session its own, and pages can count the sessions of a user.
    user_sessions.attach(io)
    presence(manager, io, show=lambda session: f"{session.username} {id_of(session.key)}")
    app.wsgi_app = socketio.WSGIApp(io, app.wsgi_app)  # type: ignore[method-assign]

    log, lists = ActivityLog(), SessionLists(manager, warning=warning)
    if not lists.set_timeout(timeout):
        raise ValueError(f"timeout must be at least {manager.MIN_SESSION_TIMEOUT} seconds, got {timeout}")

    def push(username: str | Literal[False]) -> None:
        """Let the pages that list the sessions of a user request them again; `False` if a session has just ended."""
        for name in filter(None, {username, *ADMINISTRATORS}):
            for session in manager.getUserSessions(name):
                io.emit("sessions", to=session["key"])  # the room of a key holds the pages of that session alone

    def on_created(key: str) -> None:
        username = manager.getUsernameFromSessionKey(key)
        log.add(f"{username} logged in, session {label(key)}")
        push(username)

    def on_ended(session: Session, reason: str) -> None:
        log.add(f"session {label(session.key)} of {session.username} has ended: {reason}")
        push(session.username)

    def on_change(key: str) -> None:
        push(manager.getUsernameFromSessionKey(key))

    manager.on("sessionCreated", on_created)
    manager.on("sessionRenewed", lambda _old, new: on_change(new))  # the lists show its new label
    manager.on("sessionExpiring", lambda key, _left: on_change(key))  # a page drops a list that is older than this
    manager.on("sessionEnded", on_ended)

    @app.before_request
    def refuse_forms() -> None:
        # A form on another site can post, but it cannot post JSON.
        if request.method == "POST":
            if not request.is_json:
                abort(415)
            if not isinstance(request.get_json(), dict):
                abort(400)

    notes = dict.fromkeys(ADMINISTRATORS, "sees everyone’s sessions")
    demo_users = [
        {"name": name, "password": password, "note": notes.get(name)} for name, password in DEMO_USERS.items()
    ]

    @app.get("/")
    def page() -> str:
        return render_template("page.html", demo_users=demo_users)

    @app.post("/login")
    def login() -> Any:
        username, password = str(request.json.get("username", "")), str(request.json.get("password", ""))
        right = check_password_hash(PASSWORD_HASHES.get(username, UNKNOWN_USER_HASH), password)
        if not right or username not in PASSWORD_HASHES:
            return jsonify(error="That username and password do not go together."), 403
        # Ends the session of another user in this browser, and calls on_created.
        user_sessions.sign_in(username, data={"browser": browser_of(request.user_agent.string)})
        return jsonify(next=user_sessions.next_page(default=""), administrator=username in ADMINISTRATORS)

    # Only `still-here` restarts the session, so that the countdown is easy to watch. In most applications each request
    # of a user restarts it, and only the views that a page requests by itself are `passive`.

    @app.get("/sessions")
    @session_required(passive=True)
    def sessions() -> Response:
        return jsonify(lists.for_user(current_session.username, current_session.key))

    @app.post("/still-here")
    @session_required
    def still_here() -> Response:
        push(current_session.username)
        return jsonify({})

    @app.post("/logout")
    @session_required(passive=True)
    def logout() -> Response:
        user_sessions.sign_out()  # calls on_ended, and every tab of the session gets `logout`
        return jsonify({})

    @app.post("/logout-there")
    @session_required(passive=True)
    def logout_there() -> Any:
        # Only among the user's own sessions: a forged id cannot end another user's session.
        ended = lists.end(current_session.username, request.json.get("session"))
        return jsonify({}) if ended else (jsonify(error="That session has ended already."), 404)

    @app.post("/logout-elsewhere")
    @session_required(passive=True)
    def logout_elsewhere() -> Response:
        user_sessions.sign_out_elsewhere()
        return jsonify({})

    app.register_blueprint(administration(user_sessions, lists, log))

    app.register_blueprint(shared_pages(client_script))

    @app.context_processor
    def for_every_page() -> dict[str, Any]:
        username = current_session.username if current_session else None
        return {"username": username, "administrators": ADMINISTRATORS}

    return app


def browser_of(user_agent: str) -> str:
    """Return the name of a browser and its system, by which users recognise their sessions.

    A client can send any User-Agent, so nothing may depend on it.
    """
    user_agent = user_agent[:400]  # no browser sends more, and parsing takes time for each character
    names = [found.family for found in (parse_user_agent(user_agent), parse_os(user_agent)) if found]
    return " on ".join(names)[:60] or "Unknown browser"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one (default: %(default)s)")
    sessions = "where the sessions are (default: %(default)s, in the folder `instance`)"
    parser.add_argument("--sessions", default="sqlite:///sessions.sqlite3", metavar="ADDRESS", help=sessions)
    parser.add_argument("--timeout", type=float, default=60, help="seconds a session lasts (default: %(default)s)")
    # WCAG 2.2, 2.2.1: at least 20 seconds to ask for more time.
    warning = "seconds before it expires at which its pages ask whether the user is still there (default: %(default)s)"
    parser.add_argument("--warning", type=float, default=20, help=warning)
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request would hide our own
    app = create_app(store=options.sessions, timeout=options.timeout, warning=options.warning, client_script=fetch())
    # If the port is in use, this prints an error and exits.
    server = make_server("127.0.0.1", options.port, app, threaded=True)
    print(f"Open http://127.0.0.1:{server.port}/ in a browser. Ctrl-C ends it.", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
