"""The log: what goes to the console, and that no secret of a key is ever shown."""

from __future__ import annotations

import asyncio
import logging
import pprint
import re
import traceback

from interpreter import run

from users_session_manager import SessionError

SECRET = re.compile(r"[0-9A-F]{32}")


def test_no_secret(manager, clock, caplog):
    """No log line, `repr` or exception shows a secret, at the level where the log says the most."""
    assert logging.getLogger("users_session_manager").isEnabledFor(logging.DEBUG)
    seen: list[str] = []
    keys: list[str] = []

    def look():
        for thing in (manager, manager.sessions, manager.settings, clock.store, clock.store.clock):
            seen.extend((repr(thing), str(thing), pprint.pformat(thing)))
        for session in manager.sessions.values():
            seen.extend((repr(session), str(session), repr(session.timer), session.timer.name))

    def login():
        keys.append(manager.loadNewSession("Luca"))
        return keys[-1]

    def attempt(method, *args):
        try:
            method(*args)
        except (SessionError, TypeError, ValueError):
            seen.append(traceback.format_exc())

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
            manager.on("error", lambda error, details: seen.append(f"{error} {error!r}"))
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
    seen.extend(formatter.format(record) for record in caplog.records if record.name == "users_session_manager")
    everything = "\n".join(seen)
    assert len(seen) > 100
    assert all(key.partition("_")[0] in everything for key in keys)
    assert not [key for key in keys if key.partition("_")[2] in everything]
    assert SECRET.search(everything) is None
    assert "hunter2" not in everything


def test_console():
    """With DEBUG set, the lines go to the console without the secret; a listener's failure is seen without it too."""
    program = """
        from users_session_manager import SessionManager
        manager = SessionManager()
        manager.on("sessionCreated", lambda key: 1 / 0)
        print(manager.loadNewSession("Luca"))
        """
    done = run(program, DEBUG="users-session-manager")
    name, secret = done.stdout.strip().split("_")
    assert f"Session created: {name}" in done.stderr
    assert secret not in done.stderr
    done = run(program)
    assert done.returncode == 0
    assert "Session created" not in done.stderr
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_debug_values():
    """DEBUG is off where it is not set, is empty, or spells "off" out in any case; anything else sets it."""
    done = run("""
        import importlib, os
        from users_session_manager import log
        assert log.log.handlers == []
        for value in ("", " ", "0", "False", "no", "OFF", "1", "true", "users-session-manager"):
            os.environ["DEBUG"] = value
            importlib.reload(log)
            print(len(log.log.handlers), end="")
        """)
    assert (done.stdout, done.stderr) == ("000000123", "")
