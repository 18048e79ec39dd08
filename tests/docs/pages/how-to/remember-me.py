"""Cells that the test of docs/how-to/remember-me.md runs beside its blocks."""

# %% after: sessions.sign_in(username, timeout=TWO_WEEKS if "remember" in request.form else None)
browser = app.test_client()
for box, is_kept in (({"remember": "on"}, True), ({}, False)):
    answer = browser.post("/login", data={"username": "luca"} | box, base_url="https://localhost")
    [cookie] = answer.headers.getlist("Set-Cookie")
    assert ("Max-Age" in cookie) is is_kept
    assert sessions.manager.getSession(browser.get_cookie("__Host-session_key", domain="localhost").value).timeout == (
        TWO_WEEKS if is_kept else None
    )
sessions.manager.close()

# %% before: manager = SessionManager()
from users_session_manager import MemoryStore, SessionManager

time_now = 0.0
store = MemoryStore(now=lambda: time_now, thread=False)
SessionManager(store=store)


def turn(seconds):
    global time_now
    time_now += seconds
    store.run_due()


# %% after: manager = SessionManager()
assert manager.getMaxSessionLifetime() is None

# %% after: errand = manager.loadNewSession("guest", lifetime=15 * 60)
assert manager.deleteSession(errand)
manager.restartSessionTimer(remembered)
turn(13 * 24 * 3600)
manager.restartSessionTimer(remembered)
assert manager.getSessionTimeLeft(remembered) == 14 * 24 * 3600
turn(13 * 24 * 3600)
manager.restartSessionTimer(remembered)
assert manager.getSessionTimeLeft(remembered) == 4 * 24 * 3600
turn(4 * 24 * 3600)
assert manager.getUsernameFromSessionKey(remembered) is False
errand = manager.loadNewSession("guest", lifetime=15 * 60)
turn(600)
manager.restartSessionTimer(errand)
assert manager.getSessionTimeLeft(errand) == 300
turn(300)
assert manager.getUsernameFromSessionKey(errand) is False
manager.setMaxSessionLifetime(None)
manager.close()
