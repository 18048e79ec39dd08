"""Cells that the test of docs/how-to/prometheus.md runs beside its blocks."""

# %% before: undo = instrument(SessionManager())
import pytest

from users_session_manager import MemoryStore, SessionError, SessionManager

time_now = 0.0
store = MemoryStore(now=lambda: time_now, thread=False)
SessionManager(store=store)

# %% after: def metrics_page():
manager = SessionManager()


def page():
    return metrics_page()[0].decode()


manager.deleteSession(manager.loadNewSession("luca"))
manager.loadNewSession("fabio")
manager.loadNewSession("fabio")
assert "users_session_manager_sessions 2.0" in page()
time_now = 3000.0
store.run_due()
assert "users_session_manager_sessions 0.0" in page()
assert 'users_session_manager_sessions_ended_total{reason="expired"} 2.0' in page()
assert 'users_session_manager_sessions_ended_total{reason="deleted"} 1.0' in page()
assert "users_session_manager_session_duration_seconds_count 3.0" in page()
assert "users_session_manager_rejections_total 0.0" in page()
manager.setMaxSessionsPerUser(1)
manager.loadNewSession("fabio")
manager.renewSessionKey(manager.loadNewSession("fabio"))
assert 'users_session_manager_sessions_ended_total{reason="evicted"} 1.0' in page()
assert "users_session_manager_sessions_created_total 5.0" in page()
assert "users_session_manager_sessions 1.0" in page()
assert "fabio" not in page()
with pytest.raises(SessionError):
    instrument(manager)

# %% after: def metrics():
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient
answer = TestClient(app).get("/metrics")
assert answer.headers["content-type"] == CONTENT_TYPE_LATEST
assert "users_session_manager_sessions 1.0" in answer.text

# %% after: undo()
assert "users_session_manager" not in page()
manager.close()
