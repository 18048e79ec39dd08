"""Cells that the test of docs/how-to/coming-from-npm.md runs beside its blocks."""

# %% before: manager = SessionManager()
from users_session_manager import MemoryStore, SessionManager

time_now = 0.0
store = MemoryStore(now=lambda: time_now, thread=False)
SessionManager(store=store)

# %% after: manager = SessionManager()
manager.remove_all_listeners()
for name in """
    loadNewSession addSession checkSessionStatus restartSessionTimer getUsernameFromSessionKey getSessionDetails
    setSessionData getSessionData deleteSession deleteAllSessions getLoggedUsers setSessionTimeOut getSessionTimeout
    getSessionTimeOut initSocketReference initSocketReferences getSocketReference sendLogoutMessage
    createNewSessionTimer on
""".split():
    assert callable(getattr(manager, name))
assert manager.settings == {"SESSION_TIMEOUT": 3000} and manager.MIN_SESSION_TIMEOUT == 2
assert isinstance(manager.sessions, dict)
assert manager.setSessionTimeOut(60 * 24 * 3600) is True
key = manager.loadNewSession("luca")
store.run_due()
assert manager.checkSessionStatus(key)
time_now += 60 * 24 * 3600
assert manager.getUsernameFromSessionKey(key) is False
store.run_due()
assert manager.setSessionTimeOut(3000) is True


def broken(key):
    raise ValueError


manager.on("sessionDeleted", broken)
manager.loadNewSession("luca"), manager.loadNewSession("fabio")
assert manager.deleteAllSessions() is True and manager.getLoggedUsers() == []
manager.remove_all_listeners()

# %% after: io = socketio.Server(async_mode="threading")
from unittest import mock

with mock.patch.object(io, "emit") as emit:
    key = manager.loadNewSession("luca")
    manager.deleteSession(key)
    emit.assert_not_called()
    key = manager.loadNewSession("luca")
    time_now += 3000
    store.run_due()
    emit.assert_called_once_with("logout", room=key)
with mock.patch.object(io, "enter_room") as enter_room:
    join("sid of a client", {"session_key": "sid of another"})
    enter_room.assert_not_called()
    key = manager.loadNewSession("luca")
    join("sid of a client", {"session_key": key})
    enter_room.assert_called_once_with("sid of a client", key)
manager.close()
