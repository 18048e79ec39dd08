"""Cells that the test of docs/guide.md runs beside its blocks."""

# %% before: manager = SessionManager()
import threading

import pytest

from users_session_manager import MemoryStore, SessionManager, SessionRejected

time_now = 0.0


def turn(seconds):
    global time_now
    time_now += seconds
    hand_turned.run_due()


hand_turned = MemoryStore(now=lambda: time_now, thread=False)
SessionManager(store=hand_turned)

# %% after: assert manager.getSessionData(key) is None
with pytest.raises(ZeroDivisionError):
    manager.updateSessionData(key, lambda data: data["cart"].append(1 / 0))
assert manager.updateSessionData(key, lambda data: data | {"paid": True}) == {"cart": ["lasagne"], "paid": True}
manager.setSessionData(key, {"cart": ["lasagne"]})

# %% after: snapshot = pickle.loads(pickle.dumps(manager.getSession(key)))
from users_session_manager import SessionError

with pytest.raises(SessionError, match="a copy of a session has no timer"):
    snapshot.timer
snapshot.username = "fabio"
assert manager.getSession(key).username == "luca"

# %% after: assert 0 < manager.getSessionTimeLeft(key) <= 1200
turn(600)
assert manager.getSessionTimeLeft(key) == 600
assert manager.checkSessionStatus(key) and manager.getSessionDetails(key) and manager.getSessionData(key) is None
assert manager.getSessionTimeLeft(key) == 600
manager.restartSessionTimer(key)
assert manager.getSessionTimeLeft(key) == 1200
manager.sessions[key].timer.cancel()
turn(10_000)
assert manager.checkSessionStatus(key) and manager.getSessionTimeLeft(key) == float("inf")
assert isinstance(manager.sessions[key].timer, threading.Timer)
manager.restartSessionTimer(key)
assert manager.getSessionTimeLeft(key) == 1200
manager.deleteSession(key)

# %% after: manager.setExpiryWarning(60)  # None, the default, is for no warning
key = manager.loadNewSession("luca")
turn(1140)
assert expiring == [60]
manager.restartSessionTimer(key)
turn(1140)
assert expiring == [60, 60]
manager.setExpiryWarning(None)
manager.remove_all_listeners("sessionExpiring")
manager.deleteAllSessions()

# %% after: key = manager.loadNewSession("luca", securityStamp="5d1f0e")
manager.deleteAllSessions()

# %% after: old = manager.loadNewSession("luca", data={"cart": ["lasagne"]})
turn(10)
assert manager.getUsernameFromSessionKey(old) is False and manager.getUsernameFromSessionKey(key) == "luca"
assert manager.getSession(key).authenticationAge == 10
manager.deleteSession(key)

# %% after: except SessionRejected as rejection:
for reject in (manager.getSession, manager.resumeSession, manager.getSessionTimeLeft, manager.renewSessionKey):
    with pytest.raises(SessionRejected):
        reject("no such key")
manager.remove_listener("error", note)
with pytest.raises(SessionRejected, match="Session rejected"):
    manager.checkSessionStatus("no such key")
for no_key in (None, [], {}, 7, b"x", "x" * 1_000_000):
    with pytest.raises(SessionRejected):
        manager.checkSessionStatus(no_key)
assert manager.getUsernameFromSessionKey("no such key") is False and manager.findSession("no such key") is None

# %% after: def username_of(key):
live = manager.loadNewSession("luca")
for listeners in ([], [lambda *_: None]):
    for listener in listeners:
        manager.on("error", listener)
    assert username_of(live) == "luca"
    with pytest.raises(SessionRejected):
        username_of("no such key")
manager.remove_all_listeners("error")
manager.deleteSession(live)

# %% after: rejected = []
assert rejected == ["no such key"]
manager.remove_listener("sessionRejected", rejected.append)

# %% after: @manager.on("sessionCreated")
order = []
for name in ("sessionCreated", "notifyClientToLogout", "sessionDeleted", "activeUserDeleted", "sessionEnded"):
    manager.on(name, lambda *_, name=name: order.append(name))
manager.initSocketReference(object())
key = manager.loadNewSession("luca")
turn(1200)
assert order == ["sessionCreated", "notifyClientToLogout", "sessionDeleted", "activeUserDeleted", "sessionEnded"]
order.clear()
manager.loadNewSession("luca")
manager.deleteAllSessions()
assert order == ["sessionCreated", "sessionDeleted", "activeUserDeleted", "sessionEnded", "notifyClientToLogout"]
order.clear()
manager.setMaxSessionsPerUser(1)
manager.loadNewSession("luca")
order.clear()
manager.loadNewSession("luca")
ends = ["sessionDeleted", "activeUserDeleted", "sessionEnded", "notifyClientToLogout"]
assert order == [*ends, "sessionCreated"]
order.clear()
manager.deleteUserSessions("luca")
assert order == ends
manager.setMaxSessionsPerUser(None)
order.clear()
assert manager.sendLogoutMessage("any") is True
assert order == ["notifyClientToLogout"]
manager.initSocketReference(None)
assert manager.sendLogoutMessage("any") is False
manager.remove_all_listeners()

# %% after: failures = []
assert len(manager.getLoggedUsers()) == 2
manager.remove_all_listeners()
manager.deleteAllSessions()
with pytest.raises(TypeError):
    manager.on("sessionCreated", "no listener")

# %% after: async def main():
manager.remove_all_listeners()

# %% after: print("logged in:", key.partition("_")[0])  # never the whole key
assert len(key.partition("_")[2]) == 32
assert key not in repr(manager.sessions) and key not in repr(manager)
manager.deleteSession(key)

# %% after: io = socketio.Server(async_mode="threading")
assert manager.getSocketReference() is io
detach()
assert manager.getSocketReference() is None
with pytest.raises(TypeError):
    attach(manager, object())
key = manager.loadNewSession("luca")
manager.stop()
assert manager.checkSessionStatus(key) and manager.deleteSession(key)
manager.close()

# %% after: store = MemoryStore()
with pytest.raises(SessionError):
    SessionManager(store=MemoryStore())
