"""A `Session` on its own: its values, and its copies."""

from __future__ import annotations

import copy
import math
import pickle
import time

import pytest

from users_session_manager import Session, SessionError

NAMES = "username key createdAt authenticatedAt data timeout formerKeys userId securityStamp".split()


def values(session: Session) -> list[object]:
    return [getattr(session, name) for name in NAMES]


def test_copy(manager):
    """A copy is a snapshot: it has the values and no timer, and later changes do not reach it."""
    old = manager.loadNewSession("Luca", data={"a": [1]}, timeout=60, userId=7, securityStamp="a stamp")
    session = manager.getSession(manager.renewSessionKey(old, 5))
    copies = pickle.loads(pickle.dumps(session)), copy.copy(session), copy.deepcopy(session)
    before = values(session)
    assert before[-5:] == [{"a": [1]}, 60, (old,), "7", "a stamp"]
    manager.renewSessionKey(session.key)
    manager.setSessionData(session.key, None)
    for one in copies:
        assert type(one) is Session
        assert values(one) == before
        with pytest.raises(SessionError, match="no timer"):
            _ = one.timer


def test_age(manager, clock):
    """`authenticationAge` is counted from the last authentication, and a renewal is one; by a clock that is steady."""
    session = Session("Luca", "key", time.time() - 100, time.time() - 50)
    assert 50 <= session.authenticationAge < 90
    key = manager.loadNewSession("Luca")
    session = manager.getSession(key)
    session.authenticatedAt -= 1000  # as if the clock of the machine had been set
    assert session.authenticationAge == 0
    clock.turn(1000)
    assert session.authenticationAge == 1000
    manager.renewSessionKey(key)
    assert session.authenticationAge == 0
    clock.turn(5)
    assert session.authenticationAge == 5


def test_age_not_negative():
    """Of a copy whose authentication is in the future, since a clock was set back, it is infinite."""
    assert Session("Luca", "key", 1.0, time.time() + 100).authenticationAge == math.inf


def test_defaults():
    """Unless given, a session has no data, timeout of its own, former keys or stamp; its user id is the username."""
    assert values(Session("Luca", "key", 1.0, 2.0)) == ["Luca", "key", 1.0, 2.0, None, None, (), "Luca", None]


def test_repr(manager):
    """The `repr` shows the label of the key and not its secret, nor the security stamp."""
    key = manager.loadNewSession("Luca", securityStamp="a stamp")
    name, secret = key.split("_")
    for session in (manager.getSession(key), copy.copy(manager.getSession(key))):
        assert name in repr(session)
        assert "'Luca'" in repr(session)
        assert secret not in repr(session)
        assert "a stamp" not in repr(session)
