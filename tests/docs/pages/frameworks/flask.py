"""Cells that the test of docs/frameworks/flask.md runs beside its blocks."""

# %% before: app = Flask(__name__)
import sys
import types

import pytest

from users_session_manager import MemoryStore, SessionManager
from users_session_manager.testing import fresh_sessions

time_now = 0.0
store = MemoryStore(now=lambda: time_now, thread=False)
SessionManager(store=store)
html = {"Accept": "text/html"}
site = {"base_url": "https://localhost"}

# %% before: def test_guard():
sys.modules["app"] = types.ModuleType("app")
sys.modules["app"].app = app


# %% after: area = Blueprint("area", __name__, url_prefix="/area")
@area.get("/me")
def me():
    return current_session.username


other = Flask("other")
UserSessions(other)
other.register_blueprint(area)
assert other.test_client().get("/area/me").status_code == 401

# %% after: listeners = set()  # a queue for each open stream
LUCA = {"username": "luca", "password": "lasagne"}
browser, other = app.test_client(), app.test_client()
answer = browser.get("/", headers=html, **site)
assert (answer.status_code, answer.location) == (303, "/login?next=%2F")
assert browser.post("/login", data=LUCA | {"password": "x"}, **site).status_code == 403
assert browser.get("/login", **site).text == LOGIN
assert browser.post(answer.location, data=LUCA, **site).location == "/"
assert "You are luca." in browser.get("/", **site).text
first = browser.get_cookie("__Host-session_key", domain="localhost").value
SessionManager().setSessionData(first, "cart")
browser.post("/login", data=LUCA, **site)
second = browser.get_cookie("__Host-session_key", domain="localhost").value
assert SessionManager().getSessionData(second) == "cart"
answer = browser.post("/login", data=LUCA | {"remember": "on"}, **site)
assert "Max-Age" in answer.headers["Set-Cookie"]
key = browser.get_cookie("__Host-session_key", domain="localhost").value
for old in (first, second):
    assert SessionManager().getUsernameFromSessionKey(old) is False
assert SessionManager().getSessionData(key) is None
assert SessionManager().getSessionTimeLeft(key) > MONTH - 60
other.post("/login", data=LUCA, **site)
assert browser.post("/logout-elsewhere", **site).location == "/"
assert other.get("/", **site).status_code == 401
assert browser.post("/logout", **site).location == "/login"
answer = browser.get("/", **site)
assert (answer.status_code, answer.json) == (401, {"logout": True})

del sys.modules["app"]
for test, wants_clock in ((test_guard, False), (test_idle_timeout, True), (test_log_out_everywhere_else, False)):
    with fresh_sessions() as clock:
        test(*[clock] * wants_clock)

key = SessionManager().loadNewSession("luca")
time_now += 1000
assert app.test_client().get("/unread", headers={"Session-Key": key}).json == {"messages": 0, "for": "luca"}
assert SessionManager().getSessionTimeLeft(key) == 2000
SessionManager().deleteSession(key)

key = SessionManager().loadNewSession("fabio")
time_now += 1000
assert app.test_client().get("/login", headers={"Session-Key": key}).text == LOGIN
assert SessionManager().getSessionTimeLeft(key) == 3000
SessionManager().deleteSession(key)

browser = app.test_client()
key = SessionManager().loadNewSession("luca")
assert browser.get("/hello").text == "Hello, stranger"
assert browser.get("/hello", headers={"Session-Key": key}).text == "Hello, luca"
assert browser.post("/cart", headers={"Session-Key": key}).json == {"cart": ["lasagne"]}
assert SessionManager().getSessionData(key) == {"cart": ["lasagne"]}

single_sign_on = Flask("single_sign_on")
single_sign_on.config["USER_SESSIONS_TRUSTED_ORIGINS"] = ["https://login.example.com"]
single_sign_on_sessions = UserSessions(single_sign_on)


@single_sign_on.post("/saml/acs")
def assertion_consumer():
    single_sign_on_sessions.sign_in(request.form["SAMLResponse"])
    return redirect("/")


for origin, status in (("https://login.example.com", 302), ("https://evil.example", 403), ("null", 403)):
    for headers in ({"Origin": origin}, {"Origin": origin, "Sec-Fetch-Site": "cross-site"}):
        data = {"SAMLResponse": "fabio"}
        answer = single_sign_on.test_client().post("/saml/acs", data=data, headers=headers, **site)
        assert answer.status_code == status
assert answer.json == {"crossOrigin": True}
assert SessionManager().deleteUserSessions("fabio") == 2

wrong = Flask("wrong")
wrong.config["USER_SESSIONS_HEADER"] = "session_key"
with pytest.raises(ValueError, match=r"^USER_SESSIONS_HEADER: .*underscore"):
    UserSessions(wrong)


class Ready(set):
    def add(self, each):
        super().add(each)
        each.put("lasagne")


listeners = Ready()
key = SessionManager().loadNewSession("luca")
answer = app.test_client().get("/headlines", headers={"Session-Key": key})
events = answer.iter_encoded()
assert next(events) == b"data: lasagne\n\n"
SessionManager().deleteSession(key)
assert list(events) == [] and not listeners
answer.close()
assert app.test_client().get("/headlines", headers={"Session-Key": key}).status_code == 401
sessions.manager.close()
