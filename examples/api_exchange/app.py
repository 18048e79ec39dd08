"""The exchange of the npm package's documentation as an application: log in, see your data, be logged out.

Run it with `python examples/api_exchange/app.py` and open the address it prints. The data is in a SQLite file in
this folder, or in PostgreSQL with `--database postgresql://user:password@host/name`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import socketio
from database import DEMO_PASSWORDS, Database
from flask import Flask, Response, abort, jsonify, render_template, request
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.serving import make_server

from users_session_manager import Session, SessionManager, SessionRejected
from users_session_manager.integrations.flask import UserSessions, current_session, session_required

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))  # for the package `shared`
from shared.flask_pages import shared_pages  # noqa: E402
from shared.pages import label  # noqa: E402
from shared.socket_io_client import fetch  # noqa: E402

# The npm package's page sends `api_name` and `session_key`. Most servers drop headers with an underscore in their name.
API_NAME = "Api-Name"

NOT_ALLOWED = {"accepted": False, "message": "Action not allowed!"}, 403


def create_app(database: Database, *, timeout: float = 60, client_script: Path | None = None) -> Flask:
    """Return the application.

    Args:
        database: the users and their orders.
        timeout: the idle timeout of a session, in seconds.
        client_script: our own copy of socket.io-client; `None` for the CDN's.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 4096
    # The page has its key in a variable and sends it in a header. So there is no cookie, no other site can make a
    # browser send the key, and the page loses it when it is reloaded.
    app.config["USER_SESSIONS_COOKIE"] = None
    sessions = UserSessions(app)
    manager = SessionManager()
    if not manager.setSessionTimeOut(timeout):
        raise ValueError(f"timeout must be at least {manager.MIN_SESSION_TIMEOUT} seconds, got {timeout}")

    # From here on every page that sends `session_key` gets `logout` the moment its session ends.
    io = socketio.Server(async_mode="threading")
    sessions.attach(io)
    app.wsgi_app = socketio.WSGIApp(io, app.wsgi_app)  # type: ignore[method-assign]

    @manager.on("sessionCreated")
    def on_created(key: str) -> None:
        print(f"{manager.getUsernameFromSessionKey(key)} logged in, session {label(key)}", flush=True)

    @manager.on("sessionEnded")
    def on_ended(session: Session, reason: str) -> None:
        print(f"session {label(session.key)} of {session.username} has ended: {reason}", flush=True)

    # The actions of the API

    def try_login() -> Any:
        # The page sends the password itself, and https protects it. If it sent an MD5 of it, as the npm package's page
        # does, that MD5 would be the password, and a stolen database would contain it.
        user_data = database.try_login(text("username"), text("password"))
        if user_data is None:
            return {"accepted": False, "message": "Wrong username or password."}, 403
        user_data |= {"session_key": sessions.sign_in(user_data["username"]), "timeout": manager.getSessionTimeout()}
        return {"accepted": True, "message": "Welcome!", "user_data": user_data}

    @session_required
    def get_table_data() -> Any:
        table = text("table")
        if table == "orders" and validate_api_request("dataset_management"):
            page = field("page")
            return ok(table_data=database.orders(current_session.username, page if isinstance(page, int) else 1))
        if table == "users" and validate_api_request("users_management"):
            logged_in = manager.getLoggedUsers()
            rows = [[name, logged_in.count(name)] for name in database.users()]
            return ok(table_data={"columns": ["Who", "Sessions"], "rows": rows, "page": 1, "pages": 1})
        return NOT_ALLOWED

    @session_required
    def log_user_out() -> Any:
        if not validate_api_request("users_management"):
            return NOT_ALLOWED
        username = text("username")
        return ok(ended=manager.deleteUserSessions(username) if username else 0)

    @session_required
    def set_session_timeout() -> Any:
        if not validate_api_request("users_management"):
            return NOT_ALLOWED
        if not manager.setSessionTimeOut(field("seconds")):
            reason = f"It has to be a number of at least {manager.MIN_SESSION_TIMEOUT} seconds."
            return {"accepted": False, "message": reason}, 400
        return ok(timeout=manager.getSessionTimeout())

    @session_required
    def logout() -> Any:
        sessions.sign_out()
        return {"logout": True}

    def validate_api_request(action: str) -> bool:
        """Return whether the user may do that now; the database may have changed since the login."""
        username = current_session.username
        permissions = database.permissions(username)
        if permissions is None:  # the user is logged in, but no longer in the database
            sessions.sign_out()
            raise SessionRejected
        if not permissions[action]:
            app.logger.warning("Action not allowed! %s: %s", username, request.headers[API_NAME])
        return permissions[action]

    actions: dict[str, Callable[[], Any]] = {
        action.__name__: action for action in (try_login, get_table_data, log_user_out, set_session_timeout, logout)
    }

    @app.post("/api")
    def api() -> Any:
        action = actions.get(request.headers.get(API_NAME, ""))
        return action() if action else ({"accepted": False, "message": "There is no such action."}, 400)

    @app.errorhandler(SQLAlchemyError)
    def database_is_away(error: SQLAlchemyError) -> Any:
        app.logger.error("The database failed: %s", type(error).__name__)  # its text may contain the query
        return {"accepted": False, "message": "Error in API call!"}, 503

    # The page

    app.register_blueprint(shared_pages(client_script))

    @app.get("/")
    def page() -> str:
        users = [{"name": name, "password": password} for name, password in DEMO_PASSWORDS.items()]
        return render_template("page.html", demo_users=users)

    return app


def ok(**rest: Any) -> Response:
    """Return the npm package's answer to an action that was done."""
    return jsonify(accepted=True, message="OK", **rest)


def field(name: str) -> Any:
    """Return one field of the request's JSON object, or `None` if it is missing."""
    body = request.get_json()
    return body.get(name) if isinstance(body, dict) else abort(400)


def text(name: str) -> str:
    """Return one field that has to be a text, or an empty text for anything else."""
    value = field(name)
    # PostgreSQL accepts no NUL in a text.
    return value if isinstance(value, str) and "\0" not in value else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds a session lasts (default: %(default)s)")
    parser.add_argument(
        "--database", help="an address in SQLAlchemy's form (default: DATABASE_URL, else a SQLite file)"
    )
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request would hide our own
    instance = HERE / "instance"
    instance.mkdir(exist_ok=True)
    url = options.database or os.environ.get("DATABASE_URL") or f"sqlite:///{instance / 'exchange.sqlite3'}"
    app = create_app(Database(url), timeout=options.timeout, client_script=fetch())
    # If the port is in use, this prints an error and exits.
    server = make_server("127.0.0.1", options.port, app, threaded=True)
    print(f"Open http://127.0.0.1:{server.port}/ in a browser. Ctrl-C ends it.", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
