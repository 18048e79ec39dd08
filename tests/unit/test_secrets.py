"""No line of a log, no repr and no exception shows the secret part of a key."""

from __future__ import annotations

import asyncio
import logging
import pprint
import re
import traceback

import pytest

from users_session_manager import SessionError
from users_session_manager.keys import GROUPS, group_of, is_key, label, new_key

ON_EVERY_STORE = True

SECRET = re.compile(r"[0-9A-F]{32}")


def test_a_key_holds_128_bits_of_the_systems_generator(monkeypatch):
    asked = []

    def urandom(count):
        asked.append(count)
        return bytes(range(count))

    monkeypatch.setattr("users_session_manager.keys.urandom", urandom)
    key = new_key()
    assert asked == [19]
    assert bytes.fromhex(key.partition("_")[2]) == bytes(range(3, 19))
    assert is_key(key)


def test_a_label_has_no_part_of_the_secret():
    for _ in range(1000):
        name, secret = (key := new_key()).split("_")
        assert label(key) == name
        assert len(secret) == 32
        assert SECRET.fullmatch(secret)


def test_its_label_shows_the_group_that_a_store_has_put_it_in():
    for group in range(GROUPS):
        keys = [new_key(group) for _ in range(200)]
        assert {group_of(key) for key in keys} == {group}
        assert len({key.partition("-")[0] for key in keys}) == 64 // GROUPS
    assert {group_of(new_key()) for _ in range(2000)} == set(range(GROUPS))
    assert {group_of(value) for value in (None, 1, "x", new_key() + "\n", "Nobody-calm-10_" + "0" * 32)} == {None}


@pytest.mark.parametrize(
    "value",
    [
        "hunter2",
        "hunter2_pass",
        "Otter-candid-46_short",
        "forged\nline",
        new_key() + "\n",
        "x" * 10**6,
        b"hunter2",
        None,
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_key_is_described_by_its_type_alone(value):
    assert label(value) == f"<{type(value).__name__}, not a key>"
    assert not is_key(value)


def test_no_secret_in_a_log_a_repr_or_an_exception(manager, clock, caplog):
    """Everything that the library says in all that it does, read at the level where it says the most."""
    assert logging.getLogger("users_session_manager").isEnabledFor(logging.DEBUG)
    said: list[str] = []
    keys: list[str] = []

    def look():
        for thing in (manager, manager.sessions, manager.settings, clock.store, vars(clock.store).get("clock")):
            said.extend((repr(thing), str(thing), pprint.pformat(thing)))
        for session in manager.sessions.values():
            said.extend((repr(session), str(session), repr(session.timer), session.timer.name))

    def login():
        keys.append(manager.loadNewSession("Luca"))
        return keys[-1]

    def attempt(method, *args):
        try:
            method(*args)
        except (SessionError, TypeError, ValueError):
            said.append(traceback.format_exc())

    def fails(*args):
        raise ZeroDivisionError

    async def fails_later(*args):
        raise ZeroDivisionError

    manager.setExpiryWarning(10)
    for event in ("sessionCreated", "sessionDeleted", "sessionRenewed", "sessionExpiring", "notifyClientToLogout"):
        manager.on(event, fails)
        manager.on(event, fails_later)
    manager.initSocketReference(object())
    clock.turn(0)
    look()
    for listening in (False, True):
        if listening:
            manager.on("error", lambda error, details: said.append(f"{error} {error!r}"))
            manager.on("error", fails)
        login()
        look()
        manager.createNewSessionTimer(keys[-1], "Luca")
        manager.restartSessionTimer(keys[-1])
        manager.setSessionData(keys[-1], {"a": 1})
        manager.sendLogoutMessage(keys[-1])
        keys.append(manager.renewSessionKey(keys[-1], 5))
        look()
        manager.deleteSession(keys[-1])
        login()
        look()
        clock.turn(2990)  # which warns
        clock.turn(10)
        manager.setMaxSessionsPerUser(1)
        login()
        login()  # which evicts
        attempt(manager.setMaxSessionsPerUser, 0)
        manager.setMaxSessionsPerUser(1, "reject")
        attempt(manager.loadNewSession, "Luca")
        attempt(manager.renewSessionKey, keys[-1], keys[-1])
        manager.setMaxSessionsPerUser(None)
        login()
        manager.deleteUserSessions("Luca", keys[-1])
        manager.deleteAllSessions()
        for key in [*keys, keys[0].lower(), "hunter2"]:
            for method in ("checkSessionStatus", "restartSessionTimer", "getSessionDetails", "deleteSession"):
                attempt(getattr(manager, method), key)
            attempt(manager.setSessionData, key, 1)

    async def application():
        manager.deleteSession(login())
        await asyncio.sleep(0)

    asyncio.run(application())
    manager.close()
    look()
    formatter = logging.Formatter("%(message)s %(args)s")
    said.extend(formatter.format(record) for record in caplog.records if record.name == "users_session_manager")
    everything = "\n".join(said)
    assert len(said) > 100
    assert all(key.partition("_")[0] in everything for key in keys)
    assert not [key for key in keys if key.partition("_")[2] in everything]
    assert SECRET.search(everything) is None
    assert "hunter2" not in everything
