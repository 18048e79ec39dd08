"""What Django's own login and logout do to sessions, and what becomes of those of a user who is let in no more."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db.models.signals import post_delete, post_save

from ...errors import SessionError
from ...manager import SessionManager
from ...web import dismiss, sign_in
from .visit import KEY_IN_SESSION, visit_of


def connect() -> None:
    """Listen to Django's signals; a second time is harmless."""
    user_logged_in.connect(_logged_in, dispatch_uid=__name__)
    user_logged_out.connect(_logged_out, dispatch_uid=__name__)
    post_save.connect(_saved, sender=settings.AUTH_USER_MODEL, dispatch_uid=__name__)
    post_delete.connect(_deleted, sender=settings.AUTH_USER_MODEL, dispatch_uid=__name__)


def _logged_in(*, request: Any, user: Any, **_: Any) -> None:
    """Begin a session, or go on with that of the same user under a new key (OWASP ASVS 5.0, 7.2.4)."""
    try:
        session = sign_in(SessionManager(), _shown(request), str(user.get_username()))
    except SessionError:
        request.session.flush()  # Django has noted its login already; without a session there is none
        raise
    request.session[KEY_IN_SESSION] = session.key
    if (visit := visit_of(request)) is not None:
        visit.signed_in(session)


def _logged_out(*, request: Any, **_: Any) -> None:
    for key in _shown(request):
        dismiss(SessionManager(), key)
    if (visit := visit_of(request)) is not None:
        visit.signed_out()


def _shown(request: Any) -> set[str | None]:
    """Return the keys that the client shows: that of its request, and that of its login."""
    visit = visit_of(request)
    return {request.session.get(KEY_IN_SESSION), None if visit is None else visit.shown}


def _saved(*, instance: Any, **_: Any) -> None:
    """Log out whoever has been deactivated (OWASP ASVS 5.0, 7.4.2)."""
    if not getattr(instance, "is_active", True):
        _deleted(instance=instance)


def _deleted(*, instance: Any, **_: Any) -> None:
    if username := str(instance.get_username()):
        SessionManager().deleteUserSessions(username)
