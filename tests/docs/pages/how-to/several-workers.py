"""Cells that the test of docs/how-to/several-workers.md runs beside its blocks."""

# %% after: manager = SessionManager(store="sqlite:///sessions.db")
from pathlib import Path

manager.close()
assert not Path("sessions.db").exists()

# %% after: manager = SessionManager(store=os.environ["SESSIONS"])
manager.deleteSession(manager.loadNewSession("luca"))
manager.close()

# %% after: from users_session_manager.stores.sql import SQLStore
manager.deleteSession(manager.loadNewSession("luca"))
manager.close()
manager = SessionManager(store=os.environ["REDIS_URL"])

# %% after: io = socketio.Server(async_mode="threading")
import pytest

detach()
manager.close()
manager = SessionManager(store=os.environ["REDIS_URL"])
key = manager.loadNewSession("luca", data={"numbers": (1, 2)})
assert manager.getSessionData(key) == {"numbers": [1, 2]}
with pytest.raises(TypeError):
    manager.setSessionData(key, {object()})
with pytest.raises(TypeError):
    manager.updateSessionData(key, lambda data: {1: data})
manager.getSession(key).data["numbers"].append("lost")
manager.getSession(key).data = "lost"
manager.sessions[key].timer.cancel()
assert manager.getSessionData(key) == {"numbers": [1, 2]} and manager.getSessionTimeLeft(key) < 3001
manager.close()
manager = SessionManager(store=os.environ["REDIS_URL"])
assert manager.checkSessionStatus(key) and manager.deleteSession(key)
manager.close()
