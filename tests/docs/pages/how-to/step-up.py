"""Cells that the test of docs/how-to/step-up.md runs beside its blocks."""

# %% before: def pay():
import warnings

from documents import python_blocks

from users_session_manager import MemoryStore, SessionManager

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

time_now = 0.0
store = MemoryStore(now=lambda: time_now, thread=False)
SessionManager(store=store)
luca = {"username": "luca", "password": "lasagne"}
site = {"base_url": "https://localhost"}
exec(python_blocks("frameworks/flask.md")[0])

# %% after: def pay():
browser = app.test_client()
browser.post("/login", data=luca, **site)
key = browser.get_cookie("__Host-session_key", domain="localhost").value
assert browser.post("/payment", **site).json == {"paid": True}
time_now += 5 * 60 + 1
answer = browser.post("/payment", **site)
assert (answer.status_code, answer.json) == (403, {"reauthenticate": True})
assert browser.post("/password-again", data={"password": "wrong"}, **site).status_code == 403
assert browser.post("/password-again", data={"password": "lasagne"}, **site).json == {"proved": True}
assert browser.post("/payment", **site).json == {"paid": True}
assert app.test_client().post("/payment", headers={"Session-Key": key}).json == {"paid": True}

# %% before: async def pay(session: Annotated[RequestSession, Depends(sessions.recent(max_age=5 * 60))]):
exec(python_blocks("frameworks/fastapi.md")[0])
client = TestClient(app)

# %% after: async def pay(session: Annotated[RequestSession, Depends(sessions.recent(max_age=5 * 60))]):
client.post("/login", data=luca)
key = client.cookies["session_key"]
assert client.post("/payment").json() == {"paid_by": "luca"}
time_now += 5 * 60 + 1
answer = client.post("/payment")
assert (answer.status_code, answer.json()) == (403, {"reauthenticate": True})
assert client.post("/password-again", data={"password": "focaccia"}).status_code == 403
assert client.post("/password-again", data={"password": "lasagne"}).json() == {"proved": True}
assert client.post("/payment").json() == {"paid_by": "luca"}
assert client.post("/payment", headers={"Session-Key": key}).json() == {"paid_by": "luca"}
client.post("/logout")

# %% before: def pay(request):
from django.db import connection
from django.test import Client, override_settings
from django.urls import path
from documents import new_django_users

[user] = new_django_users("luca")
manager = SessionManager()
manager.deleteAllSessions()

# %% after: def pay(request):
with override_settings(ROOT_URLCONF=(path("pay", pay), path("prove", prove))):
    browser = Client()
    browser.force_login(user)
    [key] = manager.sessions
    assert browser.post("/pay").json() == {"paid": True}
    time_now += 5 * 60 + 1
    answer = browser.post("/pay")
    assert (answer.status_code, answer.json()) == (403, {"reauthenticate": True})
    assert browser.post("/prove", {"password": "wrong"}).status_code == 403
    assert browser.post("/prove", {"password": "lasagne"}).json() == {"proved": True}
    assert browser.post("/pay").json() == {"paid": True}
    assert Client().post("/pay", headers={"Session-Key": key}).json() == {"paid": True}
    manager.deleteAllSessions()
    Client().force_login(user)
    by_header = {"Session-Key": next(iter(manager.sessions))}
    assert Client().post("/prove", {"password": "wrong"}, headers=by_header).status_code == 403
    assert Client().post("/prove", {"password": "lasagne"}, headers=by_header).json() == {"proved": True}
    time_now += 5
    assert Client().post("/pay", headers=by_header).status_code == 401
manager.close()
connection.close()
