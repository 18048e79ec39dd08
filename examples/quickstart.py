import secrets

from flask import Flask, redirect, render_template_string, request
from flask_socketio import SocketIO

from users_session_manager.integrations.flask import UserSessions, session_required

app = Flask(__name__)
app.config.update(USER_SESSIONS_LOGIN_URL="login", USER_SESSIONS_COOKIE_SECURE=False)  # False: this is http, not https
sessions = UserSessions(app)
sessions.attach(SocketIO(app, async_mode="threading"))  # a tab presents its cookie


@app.route("/login", methods=["GET", "POST"])
def login():  # a demo user; your application compares hashes
    if secrets.compare_digest(request.form.get("password", "").encode(), b"lasagne") and request.form["name"] == "luca":
        sessions.sign_in("luca")
        return redirect("/")
    return "<form method=post>Name<input name=name> Password<input name=password type=password> <button>Log in</button>"


@app.get("/")
@session_required
def page():
    return render_template_string("""You are {{ current_session.username }}.
    <button onclick="fetch('/logout', {method: 'POST'}).then(() => location.reload())">Log out</button>
    <script src="https://cdn.jsdelivr.net/npm/socket.io-client@4.8.4/dist/socket.io.min.js"></script>
    <script>tab = io().on("connect", () => tab.emit("session_key")).on("logout", () => location.reload())</script>""")


@app.post("/logout")
def logout():
    return {"ended": sessions.sign_out()}
