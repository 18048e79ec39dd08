"""Cells that the test of docs/how-to/coming-from-flask-login.md runs beside its blocks."""

# %% before: class User(UserMixin):
from users_session_manager import MemoryStore, SessionManager

SessionManager(store=MemoryStore(now=float, thread=False))

# %% after: class User(UserMixin):
browser = blog.test_client()
luca = {"username": "luca", "password": "lasagne"}
assert browser.get("/").location == "/login?next=%2F"
assert browser.post("/login", data=luca | {"password": "focaccia"}).status_code == 403
assert browser.post("/login", data=luca | {"remember": "on"}).location == "/"
assert browser.get("/").text.startswith("You are luca.")
assert SessionManager().getUserSessions("7")[0]["timeLeft"] == 365 * 24 * 60 * 60
assert SessionManager().deleteUserSessions("7") == 1
assert browser.get("/").location == "/login?next=%2F"
browser.post("/login", data=luca)
assert SessionManager().getUserSessions("7")[0]["timeLeft"] == 3000
assert browser.post("/logout").location == "/login"
assert SessionManager().getUserSessions("7") == []
