"""The application for INSTALLED_APPS: system checks, and the listeners to Django's signals."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register

from . import conf


class UserSessionsConfig(AppConfig):  # type: ignore[misc]  # Django is not typed
    name = conf.APP
    label = "users_session_manager"
    verbose_name = "User sessions"

    def ready(self) -> None:
        from . import signals

        register(conf.problems)
        signals.connect()
