"""A process that only listens, as one with connected clients does: `failover_worker.py REDIS_URL`.

It writes `ready`, then the key of each `notifyClientToLogout`, a line each, and ends when its standard input does.
"""

import sys

from users_session_manager import SessionManager
from users_session_manager.stores.redis import RedisStore


def main():
    manager = SessionManager(store=RedisStore.from_url(sys.argv[1], timeout=4.0))
    manager.initSocketReference(object())
    manager.on("notifyClientToLogout", lambda io, key: print(key, flush=True))
    manager.serve()
    print("ready", flush=True)
    sys.stdin.read()
    manager.close()


if __name__ == "__main__":
    main()
