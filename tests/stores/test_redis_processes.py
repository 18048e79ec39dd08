"""Processes on one Redis: what they ask it, and what Redis and its connections alone can do to them."""

from __future__ import annotations

import threading
import time

import pytest
from interpreter import run
from processes import OPENED, run_opened
from redis_checks import calls, kept_sessions
from store_address import StoreAddress
from waiting import WAIT, at_rest, eventually

from users_session_manager import SessionManager

redis = pytest.importorskip("redis")


@pytest.fixture
def address(own_server):
    return StoreAddress.new(own_server().url)


def test_idle(processes, address):
    """Idle processes ask Redis about once per second each."""
    with redis.Redis.from_url(address.url) as client:
        for many, more in ((1, 1), (4, 3)):
            processes.wait_for("ready", *(processes.start("listen") for _ in range(more)))
            rate = at_rest(lambda: calls(client), most=2 * many)
            print(f"{many} idle: {rate:.2f} calls per second")
            before = calls(client)
            eventually(lambda before=before: calls(client) > before)
    processes.end()


def test_subscribed_parent(redis_url, prefix):
    """A child of a process that subscribes does not wait for the locks of its parent's connections."""
    done = run(
        """
        import os, signal, sys, threading
        from users_session_manager import SessionManager
        from users_session_manager.stores.redis import RedisStore

        store = RedisStore.from_url(sys.argv[1], prefix=sys.argv[2], thread=False)
        manager = SessionManager(store=store)
        manager.initSocketReference(object())
        manager.serve()
        store.run_due()
        lock, held, done = store._scripts.client.get().connection_pool._lock, threading.Event(), threading.Event()

        def hold():
            with lock:
                held.set()
                done.wait()

        threading.Thread(target=hold).start()
        held.wait()
        child = os.fork()
        if child == 0:
            os._exit(0)
        timer = threading.Timer(10, os.kill, (child, signal.SIGKILL))
        timer.start()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        timer.cancel()
        done.set()
        """,
        redis_url,
        prefix,
        covered=False,
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_connections_after_close(own_server):
    """Closing in a listener leaves no connection, though the end is acknowledged afterwards."""
    server, closed = own_server(), threading.Event()
    manager = SessionManager(store=server.url)
    manager.on("sessionDeleted", lambda key: (manager.close(), closed.set()))
    manager.loadNewSession("Luca", timeout=2)
    assert closed.wait(WAIT)
    with redis.Redis.from_url(server.url) as administrator:
        eventually(lambda: kept_sessions(administrator, "users-session-manager:") == [])
        eventually(lambda: len(administrator.client_list()) == 1)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGSTOP"])
@pytest.mark.parametrize("noticed", [True, False])
def test_without_redis(own_server, how, noticed):
    """An exit without Redis neither hangs nor prints anything."""
    server = own_server()
    start = time.monotonic()
    done = run_opened(
        StoreAddress.new(server.url),
        f"""
    import logging
    noticed = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: noticed.set()
    logging.getLogger("users_session_manager").addHandler(handler)
    manager.loadNewSession("Luca")
    manager.deleteSession(manager.loadNewSession("Marco"))
    os.kill({server.process.pid}, signal.{how})
    assert not {noticed} or noticed.wait(30)
    """,
        OPENED.replace("timeout=30", "timeout=2"),
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "Marco deleted True\n")
    assert time.monotonic() - start < WAIT / 2
