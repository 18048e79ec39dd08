"""Show who is online, and log every open tab out the moment its session ends.

Run it with `python examples/flask_app/app.py` and open the address it prints.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import socketio
from flask import Flask, Response, abort, redirect, render_template, request
from werkzeug.security import check_password_hash, generate_password_hash
from werkzeug.serving import make_server

from users_session_manager import Session
from users_session_manager.integrations.flask import UserSessions, current_session, session_required
from users_session_manager.integrations.socketio import presence

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent / "shared"
sys.path.append(str(HERE.parent))  # for the package `shared`
from shared.command_line import read_options  # noqa: E402
from shared.socket_io_client import client_script  # noqa: E402

# A real application keeps the hashes in its database, and the passwords nowhere.
DEMO_USERS = {"luca": "lasagne", "fabio": "focaccia", "admin": "antipasti"}
PASSWORD_HASHES = {username: generate_password_hash(password) for username, password in DEMO_USERS.items()}
# The check of an unknown username takes as long as that of a known one, so its time does not reveal which users exist.
UNKNOWN_USER_HASH = generate_password_hash("unknown")

app = Flask(
    __name__,
    instance_path=str(HERE / "instance"),
    static_folder=SHARED / "static",
    template_folder=str(SHARED / "templates"),
)
app.config["USER_SESSIONS_STORE"] = "sqlite:///sessions.sqlite3"  # in the folder `instance`; survives a restart
app.config["USER_SESSIONS_LOGIN_URL"] = "login"
app.config["USER_SESSIONS_COOKIE_SECURE"] = False  # this is http; leave the line out where https is used
user_sessions = UserSessions(app)
manager = user_sessions.manager

io = socketio.Server(async_mode="threading")
user_sessions.attach(io)  # pages hear when their session ends, and some seconds before it expires
presence(manager, io)  # pages hear who logs in and out
app.wsgi_app = socketio.WSGIApp(io, app.wsgi_app)  # type: ignore[method-assign]


@app.route("/login", methods=["GET", "POST"])
def login() -> Any:
    demo_users = [{"username": username, "password": password} for username, password in DEMO_USERS.items()]
    if request.method == "GET":
        return render_template("login.html", demo_users=demo_users)
    username, password = request.form.get("username", ""), request.form.get("password", "")
    is_right = check_password_hash(PASSWORD_HASHES.get(username, UNKNOWN_USER_HASH), password)
    if not is_right or username not in PASSWORD_HASHES:
        return render_template("login.html", demo_users=demo_users, wrong=True), 403
    user_sessions.sign_in(username)
    return redirect(user_sessions.next_page())


@app.get("/")
@session_required
def page() -> str:
    is_admin = current_session.username == "admin"
    return render_template("page.html", username=current_session.username, administrator=is_admin)


@app.post("/logout")
def logout() -> Any:
    user_sessions.sign_out()  # logs out all tabs of this browser
    return redirect("/login")


@app.post("/logout-everywhere")
@session_required
def logout_everywhere() -> Any:
    username = current_session.username
    user_sessions.sign_out()  # refuses a form of another site
    manager.deleteUserSessions(username)
    return redirect("/login")


@app.post("/logout-user")
@session_required
def logout_user() -> dict[str, int]:
    if current_session.username != "admin":
        abort(403)
    # JSON, because a form of another site cannot send it.
    return {"ended": manager.deleteUserSessions(str(request.get_json()["username"]))}


@manager.on("sessionCreated")
def notify_other_browsers(key: str) -> None:
    username = manager.getUsernameFromSessionKey(key)
    for session in manager.getUserSessions(username) if username else []:
        if session["key"] != key:
            # The room of a key contains the tabs of its session.
            io.emit("notice", "You have also logged in with another browser.", to=session["key"])


@manager.on("sessionEnded")
def log_end(session: Session, reason: str) -> None:
    print(f"The session of {session.username} has ended: {reason}", flush=True)


@app.after_request
def add_security_headers(response: Response) -> Response:
    policy = "default-src 'none'; script-src 'self' https://cdn.jsdelivr.net; style-src 'self'; img-src 'self'; "
    policy += "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    response.headers["Content-Security-Policy"] = policy
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def main() -> None:
    port = read_options(manager, __doc__, port=5000)
    app.jinja_env.globals.update(client=client_script(), user_sessions_script="/user-sessions.js")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # no line for each request
    server = make_server("127.0.0.1", port, app, threaded=True)
    print(f"Open http://127.0.0.1:{server.port}/ in a browser. Ctrl-C ends it.", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
