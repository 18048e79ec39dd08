"""What the test of docs/frameworks/flask.md adds to its blocks."""

# %% before: app = Flask(__name__)
import pytest

from users_session_manager import MemoryStore, SessionManager

time_now = 0.0
store = MemoryStore(now=lambda: time_now, thread=False)
SessionManager(store=store)
html = {"Accept": "text/html"}
site = {"base_url": "https://localhost"}


# %% after: area = Blueprint("area", __name__, url_prefix="/area")
@area.get("/me")
def me():
    return current_session.username


other = Flask("other")
UserSessions(other)
other.register_blueprint(area)
assert other.test_client().get("/area/me").status_code == 401

# %% after: shop = Flask("shop")
key = SessionManager().loadNewSession("fabio")
time_now += 1000
assert shop.test_client().get("/", headers={"Session-Key": key}).text == "pasta"
assert SessionManager().getSessionTimeLeft(key) == 3000
SessionManager().deleteSession(key)

# %% after: site_for_all = Flask("site_for_all")
browser = site_for_all.test_client()
key = SessionManager().loadNewSession("luca")
assert browser.get("/").text == "Hello, stranger"
assert browser.get("/", headers={"Session-Key": key}).text == "Hello, luca"
assert browser.post("/cart", headers={"Session-Key": key}).json == {"cart": ["lasagne"]}
assert SessionManager().getSessionData(key) == {"cart": ["lasagne"]}


# %% after: single_sign_on = Flask("single_sign_on")
for origin, status in (("https://login.example.com", 302), ("https://evil.example", 403), ("null", 403)):
    for headers in ({"Origin": origin}, {"Origin": origin, "Sec-Fetch-Site": "cross-site"}):
        data = {"SAMLResponse": "fabio"}
        answer = single_sign_on.test_client().post("/saml/acs", data=data, headers=headers, **site)
        assert answer.status_code == status
assert answer.json == {"crossOrigin": True}
assert SessionManager().deleteUserSessions("fabio") == 2

# %% after: wrong = Flask("wrong")
with pytest.raises(ValueError, match=r"^USER_SESSIONS_HEADER: .*underscore"):
    UserSessions(wrong)


# %% after: listeners = set()  # a queue for each open stream
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

# %% after: io = socketio.Server(async_mode="threading")
browser = app.test_client()
answer = browser.get("/profile", headers=html, **site)
assert (answer.status_code, answer.location) == (303, "/login?next=%2Fprofile")
assert browser.post("/login", data={"username": "luca", "password": "x"}, **site).status_code == 403
answer = browser.post(answer.location, data={"username": "luca", "password": "lasagne"}, **site)
assert answer.location == "/profile"
assert browser.get("/profile", **site).json == {"username": "luca"}
assert browser.get("/unread", **site).json == {"messages": 0}
assert browser.post("/logout", **site).location == "/"
answer = browser.get("/profile", **site)
assert (answer.status_code, answer.json) == (401, {"logout": True})
browser, other = app.test_client(), app.test_client()
luca = {"username": "luca", "password": "lasagne"}
for client in (browser, other):
    client.post("/login", data=luca, **site)
first = browser.get_cookie("__Host-session_key", domain="localhost").value
SessionManager().setSessionData(first, "cart")
answer = browser.post("/login", data=luca | {"remember": "on"}, **site)
assert "Max-Age" in answer.headers["Set-Cookie"]
browser.post("/login", data=luca | {"remember": "on"}, **site)
key = browser.get_cookie("__Host-session_key", domain="localhost").value
assert SessionManager().getUsernameFromSessionKey(first) is False
assert SessionManager().getSessionTimeLeft(key) > MONTH - 60
detach()
sessions.manager.close()
