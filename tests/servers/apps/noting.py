"""A manager on a store that is made while an application is imported; its listeners note sessions in the file NOTES.

STORE_URL is the address, PREFIX what the names of all keys or tables begin with, LEASE that of the store in seconds.
BEFORE_FORK says what else happens at import, so before most servers fork: `client` hands in a client that is connected,
or what connects to a database and has done so; `session` signs in and out.
"""

import os
from functools import partial

from users_session_manager import SessionManager
from users_session_manager.stores import store_class

TIMEOUT = 30.0
"""How long a call may take, in seconds; a busy machine may need more than the default."""


def note(what: str, key: str) -> None:
    line = f"{what} {key} {os.getpid()}\n".encode()
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)  # at once, so that no two processes mix their lines
    os.close(file)


def make_store():
    url = os.environ["STORE_URL"]
    options = {"prefix": os.environ["PREFIX"], "lease": float(os.environ.get("LEASE", 30))}
    kind = store_class(url)
    if before_fork != "client":
        return kind.from_url(url, timeout=TIMEOUT, **options)
    if url.startswith("redis"):
        import redis

        client = redis.Redis.from_url(url)
        client.ping()
    elif url.startswith("sqlite"):
        import sqlite3

        client = partial(sqlite3.connect, url.removeprefix("sqlite:///"), check_same_thread=False)
    else:
        import psycopg

        client = partial(psycopg.connect, url)
    store = kind(client, **options, **({} if url.startswith("redis") else {"timeout": TIMEOUT}))
    len(store.sessions)
    return store


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
