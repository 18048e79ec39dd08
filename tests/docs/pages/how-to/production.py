"""Cells that the test of docs/how-to/production.md runs beside its blocks."""

# %% before: def post_worker_init(worker):
import os

import pytest

from users_session_manager import SessionManager, StoreUnavailable

manager = SessionManager(store=os.environ["REDIS_URL"])

# %% after: def post_worker_init(worker):
post_worker_init(None)
manager.close()

# %% after: cluster = RedisCluster.from_url(os.environ["REDIS_CLUSTER_URL"], **limits)
key = manager.loadNewSession("luca")
assert manager.getLoggedUsers() == ["luca"]
assert any(cluster.scan_iter(match="shop:2:{*"))
manager.deleteSession(key)
manager.close()
cluster.close()

# %% after: store = RedisStore.from_url(os.environ["REDIS_URL"], prefix="shop:", max_data=10_000, max_username=100)
for wrong in ({"username": "x" * 101}, {"username": "luca", "userId": "x" * 101}):
    with pytest.raises(ValueError, match="101"):
        manager.loadNewSession(**wrong)
assert manager.getSessionData(key) == {"cart": []} and manager.getLoggedUsers() == ["luca"]
manager.deleteSession(key)
manager.close()
from users_session_manager.stores.redis import RedisStore
import socket

with socket.create_server(("127.0.0.1", 0)) as silent:
    address = f"redis://127.0.0.1:{silent.getsockname()[1]}/0?socket_timeout=0.05"
    hanging = RedisStore.from_url(address)
    with pytest.raises(StoreUnavailable):
        hanging.add("luca", 60)
    hanging.close()

# %% after: signal.signal(signal.SIGTERM, lambda *_: sys.exit())
with pytest.raises(SystemExit):
    signal.raise_signal(signal.SIGTERM)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
manager = SessionManager(store=os.environ["REDIS_URL"])
manager.serve()
manager.stop()
assert manager.deleteSession(manager.loadNewSession("luca"))
manager.close()
