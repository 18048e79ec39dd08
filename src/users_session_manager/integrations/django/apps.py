"""The application for INSTALLED_APPS: system checks, and what it adds to Django."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register

from . import conf


class UserSessionsConfig(AppConfig):  # type: ignore[misc]  # Django is not typed
    name = conf.APP
    label = "users_session_manager"
    verbose_name = "User sessions"

    def ready(self) -> None:
        from . import engine, forms, signals  # models wait for the applications

        register(conf.problems)
        register(conf.unknown_names)
        register(conf.shown_names)
        register(conf.unlike_session_cookie)
        signals.connect()
        forms.watch()
        engine.watch()
        if conf.read()["STORE"] is not None and not [*conf.wrong_values()]:
            conf.manager()  # before the project asks for one by `SessionManager()`
