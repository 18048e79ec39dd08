import os

from flask import Flask, abort, redirect, request, session
from flask_session import Session
from redis import Redis

app = Flask(__name__)
app.config["SESSION_TYPE"] = "redis"
app.config["SESSION_REDIS"] = Redis.from_url(os.environ["REDIS_URL"])
app.config["PERMANENT_SESSION_LIFETIME"] = 30 * 60
Session(app)


def password_is_right(username, password):  # yours compares a hash
    return (username, password) == ("luca", "lasagne")


@app.post("/login")
def login():
    username = request.form["username"]
    if not password_is_right(username, request.form["password"]):
        abort(403)
    session["username"] = username
    return redirect("/profile")


@app.get("/profile")
def profile():
    if "username" not in session:
        abort(401)
    return {"username": session["username"], "cart": session.get("cart", [])}


@app.post("/cart")
def put_into_cart():
    session["cart"] = [*session.get("cart", []), request.form["dish"]]
    return {"cart": session["cart"]}


@app.post("/logout")
def logout():
    session.clear()
    return redirect("/")
