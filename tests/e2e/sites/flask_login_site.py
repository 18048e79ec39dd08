"""A small application with Flask-Login, in which nothing but `UserSessions` and `attach` is new.

`python flask_login_site.py --port 0 --timeout 600` prints the address to open.
"""

import argparse
import secrets
import sys
from pathlib import Path

import socketio
from flask import Flask, redirect, render_template, request, send_file
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user
from werkzeug.security import check_password_hash, generate_password_hash
from werkzeug.serving import make_server

from users_session_manager.integrations.flask import UserSessions
from users_session_manager.integrations.socketio import attach

sys.path.append(str(Path(__file__).parents[3] / "examples"))
from shared.socket_io_client import fetch


class User(UserMixin):
    def __init__(self, user_id: int, username: str, password: str) -> None:
        self.id, self.username = user_id, username
        self.set_password(password)

    def set_password(self, password: str) -> None:
        self.password_hash = generate_password_hash(password, "pbkdf2:sha256:1000")

    def check_password(self, password: str) -> bool:
        return check_password_hash(self.password_hash, password)


USERS = {"7": User(7, "luca", "lasagne"), "8": User(8, "fabio", "focaccia")}

app = Flask(__name__)
login_manager = LoginManager(app)
login_manager.login_view = "login"
sessions = UserSessions(app, login_manager=login_manager)
io = socketio.Server(async_mode="threading")
attach(sessions.manager, io, cookie=app.extensions["users_session_manager"].carrier.cookie)
app.wsgi_app = socketio.WSGIApp(io, app.wsgi_app)
client_script = fetch()


@login_manager.user_loader
def load_user(user_id):
    return USERS.get(user_id)


@app.route("/login", methods=["GET", "POST"])
def login():
    error = None
    if request.method == "POST":
        user = next((user for user in USERS.values() if user.username == request.form["username"]), None)
        if user is not None and user.check_password(request.form["password"]):
            login_user(user, remember="remember" in request.form)
            return redirect(sessions.next_page())
        error = "Wrong username or password."
    return render_template("login.html", error=error)


@app.get("/")
@login_required
def home():
    return show("Home")


@app.get("/orders")
@login_required
def orders():
    return show(f"Orders of {request.args['of']}")


@app.post("/logout")
def logout():
    logout_user()
    return redirect("/login")


@app.post("/logout-elsewhere")
@login_required
def logout_elsewhere():
    sessions.sign_out_elsewhere()
    return redirect("/")


@app.post("/password")
@login_required
def change_password():
    if not current_user.check_password(request.form["current"]):
        return show("Wrong password"), 403
    current_user.set_password(request.form["new"])
    sessions.sign_out_elsewhere()
    sessions.renew_key(overlap=5)
    return redirect("/")


@app.get("/socket.io-client.js")
def socket_io_client():
    return send_file(client_script)


def show(title):
    return render_template("page.html", title=title, username=current_user.username)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--secret-key", default=secrets.token_hex())
    options = parser.parse_args()
    app.secret_key = options.secret_key
    sessions.manager.setSessionTimeOut(options.timeout)
    server = make_server("127.0.0.1", options.port, app, threaded=True)
    print(f"Open http://127.0.0.1:{server.port}/", flush=True)
    server.serve_forever()
