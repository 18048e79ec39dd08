"""A user of Django for this library: the user id, the name that is shown, and the stamp of the password."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.contrib.auth import get_backends, get_user_model
from django.core.exceptions import ValidationError
from django.utils.crypto import constant_time_compare

from . import conf


def id_of(user: Any) -> str:
    """Return the user id: the primary key of a user, written as Django's login writes it.

    Args:
        user: The user, or the primary key.

    Raises:
        ValueError: It is neither, or a user who was not saved.
    """
    if not hasattr(user, "_meta"):
        model = get_user_model()
        with suppress(ValidationError):
            user = model(pk=model._meta.pk.to_python(user))
    if getattr(user, "pk", None) is None:
        raise ValueError(
            f"this is neither a user with sessions nor a primary key: pass a user that is stored, not {user!r:.80}"
        )
    return str(user._meta.pk.value_to_string(user))


def name_of(user: Any) -> str:
    """Return what is shown as the name, see `USER_SESSIONS["USERNAME"]`; the username where that is empty."""
    found = getattr(user, conf.read()["USERNAME"])
    return str((found() if callable(found) else found) or user.get_username() or id_of(user))


def stamp_of(user: Any) -> str:
    """Return what changes with the password."""
    return str(user.get_session_auth_hash()) if hasattr(user, "get_session_auth_hash") else ""


def is_stamp_of(stamp: str, user: Any) -> bool:
    """Return whether the password is that of the stamp, also under one of `SECRET_KEY_FALLBACKS`."""
    if not hasattr(user, "get_session_auth_hash"):
        return True
    stamps = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return any(constant_time_compare(stamp, each) for each in stamps)


def find(user_id: str) -> Any:
    """Return the user of a user id, or `None` if no backend lets one in: deleted, deactivated."""
    try:
        pk = get_user_model()._meta.pk.to_python(user_id)
    except ValidationError:
        return None
    backends = [backend for backend in get_backends() if hasattr(backend, "get_user")]  # some know permissions alone
    return next((user for backend in backends if (user := backend.get_user(pk)) is not None), None)


def may_log_in(user: Any) -> bool:
    """Return whether a backend lets an existing user in."""
    checks = [backend.user_can_authenticate for backend in get_backends() if hasattr(backend, "user_can_authenticate")]
    return any(check(user) for check in checks) if checks else getattr(user, "is_active", True)
