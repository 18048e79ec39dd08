"""The pytest plugin: `pytest_plugins = ["users_session_manager.testing.pytest_plugin"]` in the top conftest.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from .isolation import ManualClock, fresh_sessions


@pytest.fixture(autouse=True)
def _fresh_sessions() -> Iterator[ManualClock]:
    _import_urls()
    with fresh_sessions() as clock:
        yield clock


@pytest.fixture
def clock(_fresh_sessions: ManualClock) -> ManualClock:
    """The time of the sessions of this test: `clock.advance(minutes=20)`."""
    return _fresh_sessions


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> None:
    """Let a test begin with its first fixture; those with a wider scope are from before it.

    Which of two automatic fixtures comes first depends on the version of pytest.
    """
    if fixturedef.scope == "function" and fixturedef.argname != "_fresh_sessions":
        request.getfixturevalue("_fresh_sessions")


_tried_urls: set[str] = set()


def _import_urls() -> None:
    """Import what Django would import at its first request, so that it is not taken for a part of that test."""
    settings = getattr(sys.modules.get("django.conf"), "settings", None)
    if settings is None or not settings.configured:
        return
    from django.apps import apps
    from django.urls import get_resolver

    name = str(getattr(settings, "ROOT_URLCONF", ""))
    if apps.ready and name and name not in _tried_urls:
        _tried_urls.add(name)
        try:
            _ = get_resolver().url_patterns
        except Exception:  # noqa: BLE001
            pass  # the first request of a test raises it
