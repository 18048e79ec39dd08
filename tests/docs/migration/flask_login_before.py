from urllib.parse import urlsplit

from flask import Flask, abort, redirect, render_template_string, request, url_for
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user, logout_user
from werkzeug.security import check_password_hash, generate_password_hash

LOGIN_PAGE = """<form method="post">Username <input name="username"> Password <input name="password" type="password">
<label><input name="remember" type="checkbox"> Remember me</label> <button>Log in</button></form>"""
START_PAGE = """You are {{ current_user.username }}.
<form method="post" action="{{ url_for('sign_out') }}"><button>Log out</button></form>"""


class User(UserMixin):
    def __init__(self, user_id, username, password):
        self.id, self.username, self.password = user_id, username, generate_password_hash(password)


users = {"7": User("7", "luca", "lasagne")}
blog = Flask(__name__)
blog.config["SECRET_KEY"] = "change-me"
login_manager = LoginManager(blog)
login_manager.login_view = "sign_in"


@login_manager.user_loader
def load_user(user_id):
    return users.get(user_id)


@blog.route("/login", methods=["GET", "POST"])
def sign_in():
    if request.method == "GET":
        return LOGIN_PAGE
    user = next((user for user in users.values() if user.username == request.form["username"]), None)
    if user is None or not check_password_hash(user.password, request.form["password"]):
        abort(403)
    login_user(user, remember="remember" in request.form)
    next_page = request.args.get("next", "/")
    return redirect("/" if urlsplit(next_page).netloc else next_page)


@blog.get("/")
@login_required
def start():
    return render_template_string(START_PAGE)


@blog.get("/drafts")
@login_required
def drafts():
    return f"The drafts of {current_user.username}"


@blog.post("/logout")
@login_required
def sign_out():
    logout_user()
    return redirect(url_for("sign_in"))
