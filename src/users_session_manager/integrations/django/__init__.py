# The Django integration, in the parts that Django asks for by name:
#
#   apps.py         the application for INSTALLED_APPS
#   conf.py         the setting USER_SESSIONS, what can be wrong with it, and the manager that has these settings
#   middleware.py   the middleware
#   views.py        `session_required`, and what else a project calls
#   state.py        the state of one request: its session, its login, its end
#   answers.py      the answers to requests that are refused
#   engine.py       checks the login in Django's own session where that is loaded
#   signals.py      what Django's login and logout do to sessions, and changes of a user
#   forms.py        a login too many, in Django's login form
#   database.py     sessions in a PostgreSQL of the project; migrations/ makes their tables
#   testing.py      keeps the sessions of one test of a project out of the next
#   users.py        the user id, the name that is shown, and the stamp of the password
"""The Django integration: a login of Django's has a session, and ends with it."""

from ...errors import MissingDependency

try:
    import django  # noqa: F401  # here alone, so that one place names what to install
except ImportError as missing:
    raise MissingDependency("Django", "django") from missing

from .middleware import UserSessionMiddleware
from .views import (
    attach,
    cookie_name,
    delete_user_sessions,
    get_user_sessions,
    passive,
    renew_key,
    session_required,
    sign_in,
    sign_out_elsewhere,
    stream,
)

__all__ = [
    "UserSessionMiddleware",
    "attach",
    "cookie_name",
    "delete_user_sessions",
    "get_user_sessions",
    "passive",
    "renew_key",
    "session_required",
    "sign_in",
    "sign_out_elsewhere",
    "stream",
]
