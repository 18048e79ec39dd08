"""What the test of docs/frameworks/fastapi.md adds to its blocks."""

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

# %% after: MONTH = 30 * 24 * 60 * 60
manager = sessions.manager
client = TestClient(app, base_url="https://testserver")
luca = {"username": "luca", "password": "lasagne"}
assert client.get("/profile").status_code == 401
assert client.get("/").json() == {"hello": "stranger"}
assert client.post("/login", json=luca | {"password": "focaccia"}).status_code == 403
key = client.post("/login", json=luca).json()["session_key"]
assert client.get("/profile").json() == {"username": "luca", "cart": None}
assert client.post("/cart/lasagne").json() == ["lasagne"]
assert client.get("/profile").json() == {"username": "luca", "cart": ["lasagne"]}
assert client.get("/news").json()["for"] == "luca"
assert client.get("/me").json() == {"name": "Luca"}
USERS["luca"]["is_active"] = False
assert client.get("/me").json() == {"logout": True}
USERS["luca"]["is_active"] = True
assert client.get("/").json() == {"hello": "luca"}
assert client.post("/login", json=luca).json()["session_key"] != key
assert client.get("/profile", headers={"Session-Key": key}).status_code == 401
assert client.get("/profile").json() == {"username": "luca", "cart": ["lasagne"]}
elsewhere = manager.loadNewSession("luca")
assert client.post("/logout-elsewhere").json() == {"ended": 1}
answer = client.post("/login", json=luca | {"remember": True})
assert "Max-Age" in answer.headers["set-cookie"]
assert manager.getSessionTimeLeft(answer.json()["session_key"]) > MONTH - 60 * 60
assert client.post("/logout").json() == {"was_logged_in": True}
assert client.post("/logout").json() == {"was_logged_in": False}
assert client.post("/logout-elsewhere").json() == {"logout": True}
answer = client.get("/profile", headers={"Session-Key": key})
assert (answer.status_code, answer.json()) == (401, {"logout": True})
assert answer.headers["cache-control"] == "no-store, private"
assert answer.headers["vary"] == "Session-Key, Cookie"
document = app.openapi()
assert set(document["components"]["securitySchemes"]) == {"SessionKeyHeader", "SessionKeyCookie"}
assert document["paths"]["/profile"]["get"]["security"] == [{"SessionKeyHeader": []}, {"SessionKeyCookie": []}]

# %% after: site = FastAPI()
browser = TestClient(site, base_url="https://testserver", headers={"Accept": "text/html,*/*;q=0.8"})
assert browser.get("/orders").url == "https://testserver/login?next=%2Forders"
assert browser.post("/login?next=%2Forders%3Fold", data=luca).url == "https://testserver/orders?old"
assert browser.post("/login?next=https://evil.test", data=luca).url == "https://testserver/orders"
assert TestClient(site).get("/orders").json() == {"logout": True}
site_sessions.manager.deleteAllSessions()

# %% after: sessions = UserSessions(trusted_origins=["https://app.example.com"])
named = FastAPI()
sessions.install(named)


@named.post("/login")
def named_login(request: Request, response: Response):
    sessions.sign_in(request, response, "luca")


for origin, status in (("https://app.example.com", 200), ("https://evil.example", 403), ("https://testserver", 200)):
    answer = TestClient(named, base_url="https://testserver").post("/login", headers={"Origin": origin})
    assert answer.status_code == status
sessions.manager.deleteAllSessions()

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

# %% after: sessions = UserSessions(timeout=30 * 60, lifetime=12 * 60 * 60, max_sessions_per_user=5, warning=60)
assert (sessions.manager.getSessionTimeout(), sessions.manager.getMaxSessionLifetime()) == (1800, 43200)
sessions.manager.setSessionTimeOut(3000)
with pytest.raises(ValueError, match=r"^timeout: "):
    UserSessions(timeout="soon")

# %% after: manager = SessionManager()
import asyncio
import threading

told = threading.Event()


async def listener(session, reason):
    assert asyncio.get_running_loop()
    told.set()


manager.on("sessionEnded", listener)
with TestClient(app, base_url="https://testserver") as client:
    client.post("/login", json=luca)
    assert client.get("/profile").json()["username"] == "luca"
    manager.deleteAllSessions()  # on a thread without a loop
    assert told.wait(30)
with TestClient(app, base_url="https://testserver") as client:
    client.post("/login", json=luca)
    assert client.get("/profile").json()["username"] == "luca"
    manager.deleteAllSessions()

# %% after: @app.post("/async/login")
client = TestClient(app, base_url="https://testserver")
assert client.post("/async/login", json=luca).status_code == 200
assert client.post("/async/cart/lasagne").json() == ["lasagne"]
assert client.post("/async/cart/pesto").json() == ["lasagne", "pesto"]
assert manager.getLoggedUsers() == ["luca"]
manager.close()
