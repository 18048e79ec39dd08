"""What the test of docs/how-to/remember-me.md adds to its blocks."""

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
