"""The settings of this library in the configuration of an application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from flask import Flask

from .._script import SCRIPT_PATH, SCRIPT_URL
from .._settings import DEFAULTS, nearest, wrong_values

PREFIX: Final = "USER_SESSIONS_"

# The settings that other frameworks do not have.
_OWN_DEFAULTS: Final[dict[str, Any]] = {"LOGIN_URL": None, "API": True, "USERNAME": "username", "SCRIPT": SCRIPT_URL}


def settings_of(app: Flask) -> dict[str, Any]:
    """Return what the configuration of `app` has for this library, by names without the prefix."""
    return {name.removeprefix(PREFIX): value for name, value in app.config.items() if name.startswith(PREFIX)}


def read_settings(app: Flask, taken: list[str]) -> dict[str, Any]:
    """Return all settings of `app`, which has the `taken` cookies; raise `ValueError` for what cannot work."""
    for name, default in {**DEFAULTS, "COOKIE_SECURE": not app.debug, **_OWN_DEFAULTS}.items():
        app.config.setdefault(f"{PREFIX}{name}", default)
    options = settings_of(app)
    problems = [*_unknown_names(options), *wrong_values(options, taken), *_wrong_own_values(options)]
    if problems:
        texts = "; ".join(f"{PREFIX}{name}: {problem}" for name, problem in problems)
        raise ValueError(f"{texts}; see docs/frameworks/flask.md")
    return options


def _unknown_names(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    names = [*DEFAULTS, *_OWN_DEFAULTS]
    for name in options:
        if name not in names:
            yield name, f"does not exist; {nearest(name, names, PREFIX)}"


def _wrong_own_values(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    login, script = options["LOGIN_URL"], options["SCRIPT"]
    if login is not None and not (isinstance(login, str) and login):
        yield "LOGIN_URL", f"has to be an endpoint, a URL or None, not {login!r}"
    if script is not None and not (isinstance(script, str) and SCRIPT_PATH.fullmatch(script)):
        yield "SCRIPT", f"has to be a path that begins with a slash, or None, not {script!r}"
    if not isinstance(options["API"], bool):
        yield "API", f"has to be True or False, not {options['API']!r}"
    if not isinstance(options["USERNAME"], str):
        yield "USERNAME", f"has to be the name of an attribute or a method, not {options['USERNAME']!r}"
