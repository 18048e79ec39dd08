from flask import Flask, abort, redirect, render_template_string, request, url_for
from werkzeug.security import check_password_hash, generate_password_hash

from users_session_manager.integrations.flask import UserSessions, current_session, session_required

LOGIN_PAGE = """<form method="post">Username <input name="username"> Password <input name="password" type="password">
<label><input name="remember" type="checkbox"> Remember me</label> <button>Log in</button></form>"""
START_PAGE = """You are {{ current_session.username }}.
<form method="post" action="{{ url_for('sign_out') }}"><button>Log out</button></form>"""


class User:
    def __init__(self, user_id, username, password):
        self.id, self.username, self.password = user_id, username, generate_password_hash(password)


users = {"7": User("7", "luca", "lasagne")}
blog = Flask(__name__)
blog.config["SECRET_KEY"] = "change-me"
blog.config["USER_SESSIONS_LOGIN_URL"] = "sign_in"
sessions = UserSessions(blog)


@blog.route("/login", methods=["GET", "POST"])
def sign_in():
    if request.method == "GET":
        return LOGIN_PAGE
    user = next((user for user in users.values() if user.username == request.form["username"]), None)
    if user is None or not check_password_hash(user.password, request.form["password"]):
        abort(403)
    year = 365 * 24 * 60 * 60
    sessions.sign_in(user.username, userId=user.id, timeout=year if "remember" in request.form else None)
    return redirect(sessions.next_page())


@blog.get("/")
@session_required
def start():
    return render_template_string(START_PAGE)


@blog.get("/drafts")
@session_required
def drafts():
    return f"The drafts of {current_session.username}"


@blog.post("/logout")
@session_required
def sign_out():
    sessions.sign_out()
    return redirect(url_for("sign_in"))
