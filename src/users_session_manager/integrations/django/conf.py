"""The setting `USER_SESSIONS`, and everything about a project's settings that cannot work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLResolver, get_resolver
from django.utils.module_loading import import_string
from django.views.debug import get_default_exception_reporter_filter

from ...manager import SessionManager
from .. import _settings
from .._cookies import KeyCarrier
from .._forgery import OriginCheck
from .._settings import DEFAULTS, ConfiguredManager, carrier_of, nearest
from . import database

APP = "users_session_manager.integrations.django"
MIDDLEWARE = f"{APP}.UserSessionMiddleware"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
AUTH = "django.contrib.auth.middleware.AuthenticationMiddleware"
NOT_LISTED = "users_session_manager.E002"
"""The one problem that a middleware ignores: it is there, if perhaps by other means."""

_HINT = "See docs/frameworks/django.md."

# The settings as they were read, and a callable that returns the manager with these settings.
_options: dict[str, Any] | None = None
_manager: ConfiguredManager | None = None
_origins: OriginCheck | None = None


def defaults() -> dict[str, Any]:
    """Return the default of each option of `USER_SESSIONS`; `None` leaves the manager as it is."""
    return {**DEFAULTS, "PASSIVE": (), "USERNAME": "get_username", "COOKIE_SECURE": not settings.DEBUG}


def read() -> dict[str, Any]:
    """Return all options of `USER_SESSIONS`."""
    global _options
    if _options is None:
        given = getattr(settings, "USER_SESSIONS", {})
        _options = {**defaults(), **(given if isinstance(given, dict) else {})}  # what else it is, a check reports
    return _options


def read_carrier() -> KeyCarrier:
    """Return where requests carry their keys; raise `ValueError` for names that cannot work."""
    return carrier_of(read())


def manager() -> SessionManager:
    """Return the manager of the sessions, with the settings of the project."""
    global _manager
    if _manager is None:
        options = {**read(), "STORE": _store(read()["STORE"])}
        _manager = ConfiguredManager(options, folder=getattr(settings, "BASE_DIR", None))
    return _manager()


def _store(store: Any) -> Any:
    """Return what `SessionManager` knows as a store: `django://default` is an entry of DATABASES."""
    return database.store_in(store) if database.is_entry(store) else store


def origins() -> OriginCheck:
    """Return what refuses the forms of other origins, with the settings of the project."""
    global _origins
    if _origins is None:
        _origins = OriginCheck(read()["TRUSTED_ORIGINS"], read()["PROXIES"])
    return _origins


def is_passive(path: str, match: Any) -> bool:
    """Return whether requests of a path, and of the view it resolves to, leave the idle timeout as it is."""
    if match is not None and getattr(match.func, "is_passive_for_sessions", False):
        return True
    names = read()["PASSIVE"]
    return bool(names) and (path in names or (match is not None and match.view_name in names))


def forget_settings(**_: Any) -> None:
    """Read the settings anew, and apply them; they have been changed."""
    global _options, _manager, _origins
    _options = _manager = _origins = None


def problems(**_: Any) -> list[CheckMessage]:
    """Return what in the settings cannot work, each with the name of the setting; a system check of Django's."""
    found: list[CheckMessage] = [Error(text, hint=_HINT, id="users_session_manager.E001") for text in wrong_values()]
    if not apps.is_installed(APP):  # then nothing listens to Django's signals
        found.append(Error(f"{APP!r} has to be in INSTALLED_APPS", hint=_HINT, id="users_session_manager.E004"))
    return [*found, *_wrong_order()]


def require_middleware() -> None:
    """Raise `ImproperlyConfigured` without our middleware, which checks the other problems: no cookie would be set."""
    if _position(MIDDLEWARE) is None:
        raise ImproperlyConfigured(
            f"a login needs {MIDDLEWARE!r}: add it to MIDDLEWARE, directly below {SESSIONS!r}, see "
            "docs/frameworks/django.md"
        )


def unknown_names(**_: Any) -> list[CheckMessage]:
    """Return which names in `PASSIVE` no URL of the project has; a system check of Django's."""
    names = [] if [*wrong_values()] else [name for name in read()["PASSIVE"] if not name.startswith("/")]
    known = {*_view_names(get_resolver())} if names else set()
    return [
        CheckWarning(
            f"USER_SESSIONS['PASSIVE']: no URL has the name {name!r}",
            hint=f"Name one that there is, or a path that begins with a slash. {_HINT}",
            id="users_session_manager.W002",
        )
        for name in names
        if name not in known
    ]


def shown_names(**_: Any) -> list[CheckMessage]:
    """Return which names let Django's error reports show keys (OWASP ASVS 5.0, 16.2.5); a system check of Django's."""
    if [*wrong_values()]:
        return []
    carrier, hide = read_carrier(), get_default_exception_reporter_filter().cleanse_setting
    names = [("HEADER", carrier.variable), ("COOKIE", carrier.cookie)]
    return [
        CheckWarning(
            f"USER_SESSIONS[{option!r}]: Django's error reports show the keys, since they do not hide {name!r}",
            hint=f"Give it a name with KEY, TOKEN or SECRET, which they hide. {_HINT}",
            id="users_session_manager.W003",
        )
        for option, name in names
        if name and hide(name, "a key") == "a key"
    ]


def unlike_session_cookie(**_: Any) -> list[CheckMessage]:
    """Return which attributes of our cookie Django's session cookie has not; a system check of Django's."""
    options = {} if [*wrong_values()] else read()
    own = {name: value for name, value in options.items() if DEFAULTS.get(name, value) != value}
    return [
        CheckWarning(
            f"USER_SESSIONS[{name!r}] has no effect on logins without the same SESSION_{name}: Django's own session "
            "decides who is logged in",
            hint=f"Set both to the same. {_HINT}",
            id="users_session_manager.W004",
        )
        for name in ("COOKIE_DOMAIN", "COOKIE_SAMESITE")
        if name in own and _plain(own[name]) != _plain(getattr(settings, f"SESSION_{name}"))
    ]


def _plain(attribute: Any) -> str:
    return str(attribute).lower().removeprefix(".")


def _view_names(resolver: Any, prefix: str = "") -> Iterator[str]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from _view_names(pattern, f"{prefix}{pattern.namespace}:" if pattern.namespace else prefix)
        else:
            yield prefix + (pattern.name or pattern.lookup_str)


def wrong_values() -> Iterator[str]:
    """Yield what is wrong in `USER_SESSIONS`, one text for each option."""
    given = getattr(settings, "USER_SESSIONS", {})
    if not isinstance(given, dict):
        yield f"USER_SESSIONS has to be a dict, not {given!r}"
        return
    for name in given:
        if name not in defaults():
            yield f"USER_SESSIONS has no option {name!r}; {nearest(str(name), defaults())}"
    options = {**defaults(), **given}
    if database.is_entry(options["STORE"]):
        if problem := database.problem_of(options["STORE"]):
            yield f"USER_SESSIONS['STORE']: {problem}"
        options["STORE"] = None
    names = ("SESSION", "CSRF", "LANGUAGE")
    taken = [*(getattr(settings, f"{name}_COOKIE_NAME") for name in names), "messages"]
    for name, problem in [*_settings.wrong_values(options, taken), *_own_wrong_values(options)]:
        yield f"USER_SESSIONS[{name!r}]: {problem}"


def _own_wrong_values(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong in the options that Django alone has."""
    for name, check in (("PASSIVE", _check_passive), ("USERNAME", _check_username)):
        try:
            check(options[name])
        except (TypeError, ValueError) as problem:  # noqa: PERF203
            yield name, str(problem)


def _check_passive(value: Any) -> None:
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(one, str) for one in value):
        raise TypeError(f"has to be a list of names of URLs, and of paths that begin with a slash, not {value!r}")


def _check_username(value: Any) -> None:
    if (
        not isinstance(value, str)
        or not hasattr(get_user_model(), value)
        or value.startswith("__")
        or getattr(getattr(get_user_model(), value), "alters_data", False)  # `delete`, as templates know it
    ):
        raise ValueError(
            f"has to be the name of an attribute or a method of {get_user_model().__name__}, not {value!r}"
        )


def _wrong_order() -> Iterator[CheckMessage]:
    ours, sessions, auth = (_position(path) for path in (MIDDLEWARE, SESSIONS, AUTH))
    if auth is None:
        yield Error(f"MIDDLEWARE needs {AUTH!r}, below {MIDDLEWARE!r}", hint=_HINT, id="users_session_manager.E003")
    if ours is None:
        yield Error(f"{MIDDLEWARE!r} has to be in MIDDLEWARE, directly below {SESSIONS!r}", hint=_HINT, id=NOT_LISTED)
    elif sessions is None or sessions > ours:
        yield Error(f"MIDDLEWARE needs {SESSIONS!r}, above {MIDDLEWARE!r}", hint=_HINT, id="users_session_manager.E003")
    elif ours != sessions + 1:
        between = ", ".join(map(repr, settings.MIDDLEWARE[sessions + 1 : ours]))
        yield CheckWarning(
            f"{MIDDLEWARE!r} belongs in MIDDLEWARE directly below {SESSIONS!r}",
            hint=f"Move it above {between}: these may load a session before it, which then costs one more query to "
            f"the store, and is answered 500 in place of 503 while the store is unavailable. {_HINT}",
            id="users_session_manager.W001",
        )


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
