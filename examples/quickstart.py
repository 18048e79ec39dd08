from flask import Flask, redirect, render_template_string, request
from flask_socketio import SocketIO

from users_session_manager.integrations.flask import UserSessions, session_required

app = Flask(__name__)
app.config.from_mapping(USER_SESSIONS_STORE="sqlite:///sessions.db", USER_SESSIONS_LOGIN_URL="login")
app.config["USER_SESSIONS_COOKIE_SECURE"] = False  # this is http, not https
sessions = UserSessions(app)
sessions.attach(SocketIO(app, async_mode="threading"))  # a tab presents its cookie


@app.route("/login", methods=["GET", "POST"])
def login():
    if request.form.to_dict() == {"name": "luca", "password": "lasagne"}:  # your application compares a hash
        sessions.sign_in("luca")
        return redirect("/")
    return "<form method=post>Name<input name=name> Password<input name=password type=password> <button>Log in</button>"


@app.get("/")
@session_required
def page():
    return render_template_string("""You are {{ current_session.username }}.
<form action="/logout" method="post"><button>Log out</button></form>
<script src="https://cdn.jsdelivr.net/npm/socket.io-client@4.8.4/dist/socket.io.min.js"></script>
<script src=/user-sessions.js data-login=/login data-signed-in data-options='{"transports":["websocket"]}'></script>""")


@app.post("/logout")
def logout():
    sessions.sign_out()
    return redirect("/login")
