# The Flask integration:
#
#   extension.py   `UserSessions`
#   guards.py      `session_required` and the other guards
#   state.py       the state of one request: its session, and the cookie and the headers of its answer
#   answers.py     the answers to requests that are refused
#   settings.py    the settings, and what can be wrong with them
#   login.py       the bridge to Flask-Login, imported only if there is a login manager
"""The Flask extension: the session of a request, a guard for routes, sign-in and sign-out."""

from ...errors import MissingDependency

try:
    import flask  # noqa: F401  # here alone, so that one place names what to install
except ImportError as missing:
    raise MissingDependency("flask", "flask") from missing

from .extension import UserSessions
from .guards import passive, session_optional, session_required
from .state import current_session

__all__ = ["UserSessions", "current_session", "passive", "session_optional", "session_required"]
