"""What Django's own login and logout do to sessions, and what becomes of those of a user who is let in no more."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db.models.signals import post_delete, post_save

from ...manager import SessionManager
from ...web import dismiss, sign_in
from .visit import KEY_IN_SESSION, anonymous, current, visit_of


def connect() -> None:
    """Listen to Django's signals; a second time is harmless."""
    user_logged_in.connect(_logged_in, dispatch_uid=__name__)
    user_logged_out.connect(_logged_out, dispatch_uid=__name__)
    post_save.connect(_saved, sender=settings.AUTH_USER_MODEL, dispatch_uid=__name__)
    post_delete.connect(_deleted, sender=settings.AUTH_USER_MODEL, dispatch_uid=__name__)


def _logged_in(*, request: Any, user: Any, **_: Any) -> None:
    """Begin a session, or go on with that of the same user under a new key (OWASP ASVS 5.0, 7.2.4)."""
    visit = visit_of(request)
    options = {} if visit is None else visit.options
    try:
        session = sign_in(SessionManager(), _shown(request), str(user.get_username()), **options)
    except Exception:
        # Django has noted its login already; without a session there is none.
        request.session.flush()
        request.user = anonymous()
        raise
    if KEY_IN_SESSION in request.session:  # where the same user was logged in already, Django goes on under the old key
        request.session.cycle_key()
    request.session[KEY_IN_SESSION] = session.key
    if visit is not None:
        visit.signed_in(session)


def _logged_out(*, request: Any, **_: Any) -> None:
    for key in _shown(request):
        dismiss(SessionManager(), key)
    if (visit := visit_of(request)) is not None:
        visit.signed_out()


def _shown(request: Any) -> list[str | None]:
    visit = visit_of(request)
    return [request.session.get(KEY_IN_SESSION)] if visit is None else visit.keys()


def _saved(*, instance: Any, **_: Any) -> None:
    """Log out whoever has been deactivated, and elsewhere who has another password (OWASP ASVS 5.0, 7.4.2, 7.4.3)."""
    if not getattr(instance, "is_active", True):
        _log_out(instance)
    elif getattr(instance, "_password", None) is not None:  # Django tells its password validators by the same sign
        visit = current.get()
        _log_out(instance, spared=None if visit is None else visit.key)


def _deleted(*, instance: Any, **_: Any) -> None:
    _log_out(instance)


def _log_out(user: Any, *, spared: str | None = None) -> None:
    if username := str(user.get_username()):
        SessionManager().deleteUserSessions(username, spared)
