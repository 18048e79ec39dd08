"""The setting `USER_SESSIONS`, and everything about a project's settings that cannot work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.utils.module_loading import import_string

from ...policy import require_timeout
from .._web import KeyCarrier

APP = "users_session_manager.integrations.django"
MIDDLEWARE = f"{APP}.UserSessionMiddleware"
BEFORE_OURS = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
)
NOT_LISTED = "users_session_manager.E002"
"""The one problem that a middleware ignores: it is there, if perhaps by other means."""


def defaults() -> dict[str, Any]:
    """Return the default of each option of `USER_SESSIONS`."""
    return {"HEADER": "Session-Key", "COOKIE": "session_key", "COOKIE_SECURE": not settings.DEBUG, "TIMEOUT": None}


def read() -> dict[str, Any]:
    """Return all options of `USER_SESSIONS`."""
    return {**defaults(), **getattr(settings, "USER_SESSIONS", {})}


def read_carrier() -> KeyCarrier:
    """Return where requests carry their keys; raise `ValueError` for names that cannot work."""
    options = read()
    return KeyCarrier(header=options["HEADER"], cookie=options["COOKIE"], secure=options["COOKIE_SECURE"])


def problems(**_: Any) -> list[CheckMessage]:
    """Return what in the settings cannot work, each with the name of the setting; a system check of Django's."""
    found = [Error(text, id="users_session_manager.E001") for text in _wrong_values()]
    if not apps.is_installed(APP):  # then nothing listens to Django's signals
        found.append(Error(f"{APP!r} has to be in INSTALLED_APPS", id="users_session_manager.E004"))
    return [*found, *_wrong_order()]


def _wrong_values() -> Iterator[str]:
    given = getattr(settings, "USER_SESSIONS", {})
    if not isinstance(given, dict):
        yield f"USER_SESSIONS has to be a dict, not {given!r}"
        return
    for name in given:
        if name not in defaults():
            yield f"USER_SESSIONS has no option {name!r}; its options are {', '.join(defaults())}"
    options = read()
    if not isinstance(options["COOKIE_SECURE"], bool):
        yield f"USER_SESSIONS['COOKIE_SECURE'] has to be True or False, not {options['COOKIE_SECURE']!r}"
    try:
        if options["TIMEOUT"] is not None:
            require_timeout("USER_SESSIONS['TIMEOUT']", options["TIMEOUT"])
    except (TypeError, ValueError) as problem:
        yield str(problem)
    try:
        cookie = read_carrier().cookie
    except ValueError as problem:
        yield f"USER_SESSIONS['HEADER'] or ['COOKIE']: {problem}"
    else:
        if cookie in (settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME):
            yield f"USER_SESSIONS['COOKIE'] cannot be {cookie!r}: Django has a cookie of that name"


def _wrong_order() -> Iterator[CheckMessage]:
    ours = _position(MIDDLEWARE)
    if ours is None:
        yield Error(f"{MIDDLEWARE!r} has to be in MIDDLEWARE", id=NOT_LISTED)
        return
    for other in BEFORE_OURS:
        theirs = _position(other)
        if theirs is None or theirs > ours:
            hint = f"MIDDLEWARE needs {other!r}, above {MIDDLEWARE!r}"
            yield Error(hint, id="users_session_manager.E003")


def _position(path: str) -> int | None:
    """Return the position in MIDDLEWARE of the class of that path, or of a subclass."""
    wanted = import_string(path)
    for index, name in enumerate(settings.MIDDLEWARE):
        try:
            found = import_string(name)
        except ImportError:
            continue  # Django reports that itself
        if isinstance(found, type) and issubclass(found, wanted):
            return index
    return None
