"""What Django's own login and logout do to sessions, and what ends those of a user whom Django refuses."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db.models.signals import post_delete, post_save

from ...manager import SessionManager
from .conf import read_carrier
from .state import KEY_IN_SESSION, DjangoState, anonymous, current, state_of


def connect() -> None:
    """Listen to Django's signals; a second time is harmless."""
    user_logged_in.connect(_logged_in, dispatch_uid=__name__)
    user_logged_out.connect(_logged_out, dispatch_uid=__name__)
    post_save.connect(_saved, sender=settings.AUTH_USER_MODEL, dispatch_uid=__name__)
    post_delete.connect(_log_out, sender=settings.AUTH_USER_MODEL, dispatch_uid=__name__)


def _logged_in(*, request: Any, user: Any, **_: Any) -> None:
    """Start a session, or go on with that of the same user under a new key (OWASP ASVS 5.0, 7.2.4)."""
    state = _state(request)
    try:
        session = state.sign_in(str(user.get_username()), **state.options)
    except Exception:
        # Django has stored its login already; without a session there is none.
        request.session.flush()
        request.user = anonymous()
        raise
    if KEY_IN_SESSION in request.session:  # the same user was logged in: Django goes on under the old session key
        request.session.cycle_key()
    request.session[KEY_IN_SESSION] = session.key
    state.login_user = user


def _logged_out(*, request: Any, **_: Any) -> None:
    state = _state(request)
    state.sign_out()
    state.login_user = anonymous()


def _state(request: Any) -> DjangoState:
    return state_of(request) or DjangoState(request, read_carrier())


def _saved(*, instance: Any, **_: Any) -> None:
    """Log a deactivated user out, and one with another password elsewhere (OWASP ASVS 5.0, 7.4.2, 7.4.3)."""
    if not getattr(instance, "is_active", True):
        _log_out(instance=instance)
    elif getattr(instance, "_password", None) is not None:  # Django informs its password validators by the same sign
        _log_out(instance=instance, spared=getattr(current.get(), "key", None))


def _log_out(*, instance: Any, spared: str | None = None, **_: Any) -> None:
    if username := str(instance.get_username()):
        SessionManager().deleteUserSessions(username, spared)
