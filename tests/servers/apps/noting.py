"""A manager on Redis that is made while an application is imported; its listeners note sessions in the file NOTES.

REDIS_URL is the address, PREFIX what the keys in Redis begin with, LEASE that of the store in seconds. BEFORE_FORK says
what else happens at import, so before most servers fork: `client` hands in a client that is connected, `session` signs
in and out.
"""

import os

import redis

from users_session_manager import SessionManager
from users_session_manager.stores.redis import RedisStore


def note(what: str, key: str) -> None:
    line = f"{what} {key} {os.getpid()}\n".encode()
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)  # at once, so that no two processes mix their lines
    os.close(file)


def make_store() -> RedisStore:
    url = os.environ["REDIS_URL"]
    options = {"prefix": os.environ["PREFIX"], "lease": float(os.environ.get("LEASE", 30))}
    if before_fork != "client":
        return RedisStore.from_url(url, **options)
    client = redis.Redis.from_url(url)
    client.ping()
    return RedisStore(client, **options)


before_fork = os.environ.get("BEFORE_FORK")
manager = SessionManager(store=make_store())
manager.on("sessionCreated", lambda key: note("created", key))
manager.on("sessionEnded", lambda session, reason: note(reason, session.key))
if before_fork == "session":
    manager.loadNewSession("expires", timeout=2)
    manager.deleteSession(manager.loadNewSession("Luca"))


def visit(name: str = "Luca") -> bool:
    """Sign in twice and out once; the other session expires. Return whether each answer was right."""
    manager.loadNewSession(name, timeout=2)
    key = manager.loadNewSession(name)
    return (
        manager.getUsernameFromSessionKey(key) == name
        and manager.deleteSession(key)
        and manager.findSession(key) is None
        and manager.getUsernameFromSessionKey(key) is False
    )
