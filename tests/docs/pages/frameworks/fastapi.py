"""Cells that the test of docs/frameworks/fastapi.md runs beside its blocks."""

# %% before: app = FastAPI()
import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

from users_session_manager import MemoryStore, SessionManager

time_now = 0.0
store = MemoryStore(now=lambda: time_now, thread=False)
SessionManager(store=store)

# %% after: app = FastAPI()
manager = sessions.manager
HTML = {"Accept": "text/html,*/*;q=0.8"}
luca = {"username": "luca", "password": "lasagne"}
browser, other = (TestClient(app, headers=HTML) for _ in range(2))
assert browser.get("/").url == "http://testserver/login?next=%2F"
assert browser.get("/login").text == LOGIN
assert browser.get("/login?reason=expired").text == REASONS["expired"] + LOGIN
assert browser.get("/login?reason=<b>").text == LOGIN
answer = browser.post("/login", data=luca | {"password": "focaccia"})
assert (answer.status_code, answer.headers["content-type"]) == (403, "text/html; charset=utf-8")
assert LOGIN in answer.text and answer.text != LOGIN
for client in (browser, other):
    assert client.post("/login", data=luca, headers=HTML).url == "http://testserver/"
first = browser.cookies["session_key"]
manager.setSessionData(first, "cart")
browser.post("/login", data=luca)
assert browser.cookies["session_key"] != first and manager.findSession(first) is None
assert manager.getSessionData(browser.cookies["session_key"]) == "cart"
assert browser.post("/login?next=https://evil.test", data=luca).url == "http://testserver/"
assert browser.post("/login?next=%2F%3Fold", data=luca).url == "http://testserver/?old"
answer = browser.post("/login", data=luca | {"remember": "on"}, follow_redirects=False)
assert "Max-Age" in answer.headers["set-cookie"]
remembered = browser.cookies["session_key"]
assert manager.getSessionData(remembered) is None and manager.getSessionTimeLeft(remembered) > MONTH - 60
assert "You are luca." in browser.get("/").text
assert browser.post("/logout-elsewhere").url == "http://testserver/"
assert other.get("/").url == "http://testserver/login?next=%2F"
assert browser.post("/logout").url == "http://testserver/login"
answer = TestClient(app).get("/", headers={"Session-Key": remembered})
assert (answer.status_code, answer.json()) == (401, {"logout": True})
assert answer.headers["cache-control"] == "no-store, private"
assert {"Session-Key", "Cookie"} <= {*answer.headers["vary"].split(", ")}
named = manager.loadNewSession("<b>luca</b>")
assert "&lt;b&gt;" in TestClient(app).get("/", headers={"Session-Key": named}).text
manager.deleteAllSessions()

# %% before: def test_guard(browser):
import sys
import types

from users_session_manager.testing import fresh_sessions

sys.modules["main"] = types.ModuleType("main")
sys.modules["main"].app, sys.modules["main"].sessions = app, sessions

# %% after: def test_guard(browser):
del sys.modules["main"]
for test in (test_guard, test_log_out_everywhere_else, test_signed_in_users):
    with fresh_sessions(), TestClient(app) as client:
        test(client)
with fresh_sessions() as clock, TestClient(app) as client:
    test_idle_timeout(client, clock)

# %% after: strict_sessions = UserSessions(timeout=30 * 60, lifetime=12 * 60 * 60, max_sessions_per_user=5, warning=60)
assert (strict_sessions.manager.getSessionTimeout(), manager.getMaxSessionLifetime()) == (1800, 43200)
manager.setSessionTimeOut(3000)
with pytest.raises(ValueError, match=r"^timeout: "):
    UserSessions(timeout="soon")

# %% after: from fastapi import Body, HTTPException
client = TestClient(app)
assert client.get("/hello").json() == {"hello": "stranger"}
assert client.post("/api/login", json=luca | {"password": "focaccia"}).status_code == 403
key = client.post("/api/login", json=luca).json()["session_key"]
client.cookies.clear()
client.headers["Session-Key"] = key
assert client.post("/cart/lasagne").json() == ["lasagne"]
assert client.get("/hello").json() == {"hello": "luca"}
time_now += 1000
assert client.get("/news").json()["for"] == "luca"
assert manager.getSessionTimeLeft(key) == 2000
assert client.get("/me").json() == {"name": "luca"}
LOCKED.add("luca")
assert client.get("/me").json() == {"logout": True}
document = app.openapi()
assert set(document["components"]["securitySchemes"]) == {"SessionKeyHeader", "SessionKeyCookie"}
assert document["paths"]["/me"]["get"]["security"] == [{"SessionKeyHeader": []}, {"SessionKeyCookie": []}]

guarded = UserSessions(trusted_origins=["https://app.example.com"])
named = FastAPI()
guarded.install(named)


@named.post("/login")
def named_login(request: Request, response: Response):
    guarded.sign_in(request, response, "luca")


for origin, status in (("https://app.example.com", 200), ("https://evil.example", 403), ("https://testserver", 200)):
    answer = TestClient(named, base_url="https://testserver").post("/login", headers={"Origin": origin})
    assert answer.status_code == status
manager.deleteAllSessions()

# %% after: @app.websocket("/prices")
key = SessionManager().loadNewSession("luca")
with TestClient(app).websocket_connect("/prices", headers={"Session-Key": key}) as connection:
    connection.send_text("lasagne")
    assert connection.receive_json() == {"for": "luca", "dish": "lasagne", "price": 9}
    SessionManager().deleteSession(key)
    with pytest.raises(WebSocketDisconnect) as closed:
        connection.receive_text()
    assert closed.value.code == 4401

# %% after: listeners = set()  # a queue for each open stream
import threading
import time

manager = SessionManager()
key = manager.loadNewSession("luca")


def log_out():
    while not listeners:
        time.sleep(0.01)
    manager.deleteSession(key)


ending = threading.Thread(target=log_out)
ending.start()
assert client.get("/headlines", headers={"Session-Key": key}).text == ""
ending.join()
assert listeners == set()
assert client.get("/headlines", headers={"Session-Key": key}).status_code == 401

# %% after: @sessions.manager.on("sessionEnded")
import asyncio
import threading

has_run = threading.Event()


async def listener(session, reason):
    assert asyncio.get_running_loop()
    has_run.set()


manager.on("sessionEnded", listener)
with TestClient(app, base_url="https://testserver") as client:
    client.post("/login", data=luca)
    assert "You are luca." in client.get("/").text
    manager.deleteAllSessions()  # on a thread without a loop
    assert has_run.wait(30)
with TestClient(app, base_url="https://testserver") as client:
    client.post("/login", data=luca)
    assert "You are luca." in client.get("/").text
    manager.deleteAllSessions()

# %% after: @app.post("/async/login")
client = TestClient(app)
assert client.post("/async/login", json=luca).status_code == 200
assert client.post("/async/cart/lasagne").json() == ["lasagne"]
assert client.post("/async/cart/pesto").json() == ["lasagne", "pesto"]
assert manager.getLoggedUsers() == ["luca"]
manager.close()
