# The Django integration, in the parts that Django asks for by name:
#
#   apps.py         the application for INSTALLED_APPS, and the system checks
#   middleware.py   the middleware, `session_required`, sign-in and sign-out for views
#   signals.py      what Django's login and logout do to sessions
#   state.py        the state of one request: its session, its user, its answer
#   conf.py         the setting USER_SESSIONS, and what can be wrong with it
"""The Django integration: a login of Django's has a session, and ends with it."""

from ...errors import MissingDependency

try:
    import django  # noqa: F401  # here alone, so that one place names what to install
except ImportError as missing:
    raise MissingDependency("Django", "django") from missing

from .middleware import UserSessionMiddleware, renew_key, session_required, sign_in, sign_out_elsewhere

__all__ = ["UserSessionMiddleware", "renew_key", "session_required", "sign_in", "sign_out_elsewhere"]
