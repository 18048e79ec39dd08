"""The events for the open pages of a session, as a test sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from users_session_manager import SessionError, SessionManager
from users_session_manager.testing import ManualClock, expect_logout, expect_session_expiring, fresh_sessions


class Attached:
    """As `attach` adds it."""

    def watched(self) -> dict[Any, str]:
        return {}

    def noticed(self, notice: Any) -> None:
        pass


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    with fresh_sessions() as clock:
        yield clock


@pytest.fixture
def manager(clock: ManualClock) -> SessionManager:
    manager = SessionManager()
    manager.addWatcher(Attached())
    return manager


ENDS: dict[str, Callable[[SessionManager, str, ManualClock], object]] = {
    "deleteSession": lambda manager, key, clock: manager.deleteSession(key),
    "deleteAllSessions": lambda manager, key, clock: manager.deleteAllSessions(),
    "deleteUserSessions": lambda manager, key, clock: manager.deleteUserSessions("luca"),
    "sendLogoutMessage": lambda manager, key, clock: manager.sendLogoutMessage(key),
    "expiry": lambda manager, key, clock: clock.advance(minutes=50),
    "eviction": lambda manager, key, clock: [manager.setMaxSessionsPerUser(1), manager.loadNewSession("luca")],
}


@pytest.mark.parametrize("end", ENDS)
def test_every_end(manager: SessionManager, clock: ManualClock, end: str):
    key = manager.loadNewSession("luca")
    with expect_logout(key):
        ENDS[end](manager, key, clock)


def test_a_session_and_several(manager: SessionManager):
    """A `Session` will do, and of several each has to be logged out."""
    keys = [manager.loadNewSession("luca") for _ in range(2)]
    with expect_logout(manager.getSession(keys[0]), keys[1]):
        manager.deleteUserSessions("luca")
    keys = [manager.loadNewSession("luca") for _ in range(2)]
    with pytest.raises(AssertionError, match="were sent no logout"), expect_logout(*keys):
        manager.deleteSession(keys[0])


def test_none_comes(manager: SessionManager, clock: ManualClock):
    """The text says whose session it is and what has become of it, and shows no secret."""
    key = manager.loadNewSession("luca")
    with pytest.raises(AssertionError) as failure, expect_logout(key):
        clock.advance(minutes=49)
    label = key.rpartition("_")[0]
    expected = f"the pages of 'luca' ({label}) were sent no logout: the session is live, and expires in 60 seconds"
    assert str(failure.value) == expected
    assert key not in str(failure.value)


def test_another_session(manager: SessionManager):
    key, other = manager.loadNewSession("luca"), manager.loadNewSession("luca")
    with pytest.raises(AssertionError, match="no logout"), expect_logout(key):
        manager.deleteSession(other)


def test_before_and_after_the_block(manager: SessionManager):
    key = manager.loadNewSession("luca")
    manager.sendLogoutMessage(key)
    with pytest.raises(AssertionError, match="no logout"), expect_logout(key):
        pass
    manager.deleteSession(key)
    with pytest.raises(AssertionError, match="has no live session at the start"), expect_logout(key):
        pass


def test_a_renewed_key(manager: SessionManager):
    """It is that of the same session."""
    key = manager.loadNewSession("luca")
    with expect_logout(key):
        manager.deleteSession(manager.renewSessionKey(key))
    key = manager.loadNewSession("luca")
    with pytest.raises(AssertionError, match="no logout"), expect_logout(key):
        manager.renewSessionKey(key)


def test_a_failure_within(manager: SessionManager):
    """The failure of the test itself is what is shown."""
    with pytest.raises(ZeroDivisionError), expect_logout(manager.loadNewSession("luca")):
        raise ZeroDivisionError


def test_nothing_is_left(manager: SessionManager):
    key, before = manager.loadNewSession("luca"), [*manager._watchers]
    with expect_logout(key):
        manager.deleteSession(key)
    assert manager._watchers == before


def test_no_server(clock: ManualClock):
    """Where the application has attached none, no page would hear of it."""
    key = SessionManager().loadNewSession("luca")
    for expect in (expect_logout, expect_session_expiring):
        with pytest.raises(AssertionError, match=r"no Socket\.IO server is attached"), expect(key):
            SessionManager().deleteSession(key)


def test_as_in_npm(clock: ManualClock):
    """An application that emits for `notifyClientToLogout` itself is sent none of `deleteSession`."""
    manager = SessionManager()
    manager.initSocketReference(object())
    key = manager.loadNewSession("luca")
    with pytest.raises(AssertionError, match="is attached"), expect_logout(key):
        pass
    manager.on("notifyClientToLogout", lambda io, key: None)
    with expect_logout(key):
        clock.advance(minutes=50)
    key = manager.loadNewSession("luca")
    with pytest.raises(AssertionError, match="the session has ended without one"), expect_logout(key):
        manager.deleteSession(key)


def test_expiring(manager: SessionManager, clock: ManualClock):
    manager.setExpiryWarning(60)
    key = manager.loadNewSession("luca")
    with expect_session_expiring(key):
        clock.advance(minutes=49)
    assert manager.checkSessionStatus(key)
    with pytest.raises(AssertionError, match="no session_expiring"), expect_session_expiring(key):
        manager.deleteSession(key)
    key = manager.loadNewSession("luca")
    with pytest.raises(AssertionError, match="no logout"), expect_logout(key):
        clock.advance(minutes=49)


def test_what_is_no_session(manager: SessionManager):
    with pytest.raises(TypeError, match=r"not a builtins\.object"), expect_logout(object()):
        pass
    with pytest.raises(TypeError, match="needs a key"), expect_logout():
        pass


def test_without_fresh_sessions(redis_url: str):
    """A shared store notifies clients on a thread of its own, at some later moment."""
    manager = SessionManager(store=redis_url)
    manager.addWatcher(Attached())
    with pytest.raises(SessionError, match="fresh_sessions"), expect_logout(manager.loadNewSession("luca")):
        pass
    manager._forget_all()
