# The FastAPI integration:
#
#   sessions.py     `UserSessions`, which an application makes and installs
#   guard.py        its dependencies
#   state.py        the state of one request: its session, and the cookie and the headers of its answer
#   answers.py      the answers to requests that are refused
#   middleware.py   what every request of the application passes
#   openapi.py      the guards in the OpenAPI schema
"""The FastAPI dependency: the session of a request, 401 without one, 503 while the store is unavailable."""

from ...errors import (
    AuthenticationTooOld,
    CrossOriginRequest,
    MissingDependency,
    SessionError,
    SessionRejected,
    StoreUnavailable,
    TooManySessions,
)

try:
    import fastapi  # noqa: F401  # here alone, so that one place names what to install
except ImportError as missing:
    raise MissingDependency("fastapi", "fastapi") from missing

from ...manager import SessionManager
from .._cookies import KeyCarrier
from .._request import RequestSession
from .sessions import UserSessions

__all__ = [
    "AuthenticationTooOld",
    "CrossOriginRequest",
    "KeyCarrier",
    "RequestSession",
    "SessionError",
    "SessionManager",
    "SessionRejected",
    "StoreUnavailable",
    "TooManySessions",
    "UserSessions",
]
