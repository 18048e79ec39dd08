"""The exceptions: what each one is, and that it survives pickle and `copy`."""

from __future__ import annotations

import copy
import pickle

import pytest

import users_session_manager
from users_session_manager import (
    AuthenticationTooOld,
    CrossOriginRequest,
    MissingDependency,
    SessionError,
    SessionRejected,
    StoreUnavailable,
    TooManySessions,
)

ERRORS = [
    SessionRejected(),
    *(AuthenticationTooOld("old"), TooManySessions("many"), StoreUnavailable("unreachable"), SessionError("other")),
    CrossOriginRequest("of another origin"),
    MissingDependency("redis", "extra"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error(error):
    """Each is a `SessionError`, is exported, and is the same after pickle and `copy`."""
    assert isinstance(error, SessionError)
    assert type(error).__name__ in users_session_manager.__all__
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(same) is type(error)
        assert str(same) == str(error)
        assert vars(same) == vars(error)


def test_what_python_calls_it():
    """A rejection is a `LookupError`; a missing package is an `ImportError` that says what helps."""
    assert isinstance(SessionRejected(), LookupError)
    missing = MissingDependency("python-socketio", "socketio")
    assert isinstance(missing, ImportError)
    assert (missing.name, missing.package, missing.extra) == ("python-socketio", "python-socketio", "socketio")
    command = "pip install 'users-session-manager[socketio]'"
    assert str(missing) == f"python-socketio is not installed: {command}, see docs/reference/errors.md"
