"""Cells that the test of docs/how-to/coming-from-flask-session.md runs beside its blocks."""

# %% after: def take_over_old_login():
from users_session_manager import SessionManager

browser = app.test_client()
luca = {"username": "luca", "password": "lasagne"}
assert browser.get("/profile").status_code == 401
browser.post("/cart", data={"dish": "pesto"})
assert browser.post("/login", data=luca | {"password": "focaccia"}).status_code == 403
assert browser.post("/login", data=luca).location == "/profile"
assert browser.get("/profile").json == {"username": "luca", "cart": ["pesto"]}
assert SessionManager().getSessionTimeout() == 30 * 60
# A login that ends leaves the data of the visitor; a logout removes both.
assert SessionManager().deleteUserSessions("luca") == 1
assert browser.get("/profile").status_code == 401
assert browser.post("/cart", data={"dish": "lasagne"}).json == {"cart": ["pesto", "lasagne"]}
browser.post("/login", data=luca)
assert browser.post("/logout").location == "/"
assert SessionManager().getLoggedUsers() == []
assert browser.post("/cart", data={"dish": "lasagne"}).json == {"cart": ["lasagne"]}

late = app.test_client()
with late.session_transaction() as old:
    old.update(username="luca", cart=["pesto"])
assert late.get("/profile").json == {"username": "luca", "cart": ["pesto"]}
with late.session_transaction() as old:
    assert dict(old) == {"_permanent": True, "cart": ["pesto"]}
assert SessionManager().deleteUserSessions("luca") == 1
assert late.get("/profile").status_code == 401
app.config["SESSION_REDIS"].close()
