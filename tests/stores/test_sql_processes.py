"""Notices of a SQL database as several processes read them: out of order, or not for a while."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from typing import Any

import pytest
from waiting import WAIT, eventually

from users_session_manager import SessionManager


class Clients:
    """Notes the notices for the clients of this process."""

    def __init__(self, keys: dict[Any, str]) -> None:
        self.keys, self.heard = keys, list[Any]()

    def watched(self) -> dict[Any, str]:
        return self.keys

    def noticed(self, notice: Any) -> None:
        self.heard.append((notice.kind, notice.session_id))


@pytest.mark.parametrize("store_kind", ["postgresql"])
def test_out_of_order(address, monkeypatch):
    """A notice of a transaction that ends after later ones is read once that has ended."""
    monkeypatch.setattr("users_session_manager.stores.sql.notices.GAP_TIMEOUT", 60.0)
    manager = SessionManager(store=address.open())
    keys = [manager.loadNewSession(name) for name in ("Luca", "Marco", "Fabio")]
    luca, marco, fabio = (manager.getSession(key)._id for key in keys)
    clients = Clients(dict(zip((luca, marco, fabio), keys, strict=True)))
    manager.addWatcher(clients)
    with contextlib.closing(address.connect()) as connection:
        connection.execute("BEGIN")
        insert = f"INSERT INTO {address.prefix}notices (noticed_at, notices) VALUES (%s, %s)"
        connection.execute(insert, [time.time(), json.dumps([("logout", luca, None, None)])])
        for key in keys[1:]:
            manager.sendLogoutMessage(key)
        eventually(lambda: len(clients.heard) == 2)
        time.sleep(1)
        assert clients.heard == [("logout", marco), ("logout", fabio)]
        connection.execute("COMMIT")
        at = time.monotonic()
        eventually(lambda: len(clients.heard) == 3)
        print(f"after the commit it took {time.monotonic() - at:.3f} s")
    assert clients.heard[2:] == [("logout", luca)]


@pytest.mark.parametrize("store_kind", ["sqlite", "postgresql"])
def test_old(address):
    """Old notices are deleted, so many at a time that no call waits long for it, and also while no session ends."""
    store = address.open(thread=False)
    manager = SessionManager(store=store)
    assert len(manager.sessions) == 0  # the tables are there
    with contextlib.closing(address.connect()) as connection:
        rows = ", ".join(["(0, '[]')"] * 1200)
        connection.execute(f"INSERT INTO {address.prefix}notices (noticed_at, notices) VALUES {rows}")
    manager.loadNewSession("Luca")
    left = []
    for _ in range(4):
        store.run_due()
        left += address.query("SELECT count(*) FROM {notices}")
    assert left == [(701,), (201,), (1,), (1,)]
    manager.close()


@pytest.mark.slow
@pytest.mark.parametrize("store_kind", ["sqlite", "postgresql"])
def test_missed(processes, address):
    """A process that was stopped until its notices had been deleted knows that, and checks its clients."""
    manager = SessionManager(store=address.open())
    manager.on("sessionEnded", lambda session, reason: None)
    worker = processes.start("clients", "Luca")
    processes.wait_for("followed", worker)
    processes.alive[worker].send_signal(signal.SIGSTOP)
    try:
        assert manager.deleteUserSessions("Luca")
        ((last,),) = address.query("SELECT max(id) FROM {notices}")

        def is_deleted():
            manager.loadNewSession("of whom there is something to do", timeout=2)
            time.sleep(1)
            return not address.query(f"SELECT id FROM {{notices}} WHERE id <= {last}")

        eventually(is_deleted, timeout=2 * WAIT)
        seen = len(processes.facts("followed"))
        assert processes.facts("notice") == []
    finally:
        processes.alive[worker].send_signal(signal.SIGCONT)
    (notice,) = eventually(lambda: processes.facts("notice"))
    assert notice["kind"] == "deleted", "a notice, and not the check"
    assert "missed" in [fact["kind"] for fact in processes.facts("followed")[seen:]]
    processes.end()


@pytest.mark.parametrize("store_kind", ["sqlite", "postgresql"])
def test_new_tables(address):
    """Notices of a database that was replaced by an older or an empty one are read, though their numbers are lower."""
    manager = SessionManager(store=address.open())
    for _ in range(3):
        manager.deleteSession(manager.loadNewSession("Luca"))
    kinds = list[str]()
    manager.addFollower(lambda notice: kinds.append(notice.kind))
    eventually(lambda: kinds)  # it is subscribed
    with contextlib.closing(address.connect()) as connection:
        connection.execute(f"DELETE FROM {address.prefix}notices")
        if address.url.startswith("sqlite"):
            connection.execute("UPDATE sqlite_sequence SET seq = 0")
        else:
            connection.execute(f"ALTER TABLE {address.prefix}notices ALTER COLUMN id RESTART")
    manager.loadNewSession("Marco")
    eventually(lambda: kinds.count("missed") == 2)
    assert kinds.count("created") == 1
