"""Shows an error in Django's login form, and so in the admin's, for a login that `MAX_SESSIONS_PER_USER` refuses."""

from __future__ import annotations

from functools import wraps
from typing import Any

from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy

from .._refusals import TOO_MANY
from . import conf, users
from .state import state_of


def watch() -> None:
    """Check the number of sessions in Django's login form; a second time is harmless."""
    confirm = AuthenticationForm.confirm_login_allowed
    if getattr(confirm, "counts_sessions", False):
        return

    @wraps(confirm)
    def confirm_and_count(form: Any, user: Any) -> None:
        confirm(form, user)
        if not _has_room(form.request, user):
            raise ValidationError(gettext_lazy(TOO_MANY), code="too_many_sessions")

    confirm_and_count.counts_sessions = True  # type: ignore[attr-defined]
    AuthenticationForm.confirm_login_allowed = confirm_and_count


def _has_room(request: Any, user: Any) -> bool:
    """Return whether a login of a user would not be refused; one that goes on with a session counts as that."""
    manager = conf.manager()
    policy = manager._policy
    if policy.max_sessions is None or policy.overflow == "evict":
        return True
    state = None if request is None else state_of(request)
    presented = [] if state is None else state.presented_keys()
    return sum(one["key"] not in presented for one in manager.getUserSessions(users.id_of(user))) < policy.max_sessions
