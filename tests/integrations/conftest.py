"""Fixtures for the tests of integrations; the Django project is `django_project.py` in `support`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from watched_store import WatchedStore
from web_sites import SITES, Site

from users_session_manager import SessionManager


@pytest.fixture
def make_site(manager: SessionManager) -> Iterator[Callable[..., Site]]:
    """Make a site of `SITES`, by its name and with settings."""
    with ExitStack() as sites:

        def make_site(name: str, **settings: Any) -> Site:
            package, kind, is_async = SITES[name]
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"could not import {package!r}")
            site = kind(manager, is_async=is_async, **settings)
            sites.callback(site.close)
            return site

        yield make_site


@pytest.fixture(params=["wsgi", "asgi"])
def handler(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def threads() -> Iterator[Any]:
    """A Socket.IO server of threads."""
    from socketio_servers import Server

    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def loop() -> Iterator[Any]:
    """A Socket.IO server on an event loop."""
    from socketio_servers import LoopServer

    server = LoopServer(ping_interval=1)  # by default its clients leave when one ping is five seconds late
    yield server
    server.stop()


def _make_users() -> None:
    from django.contrib.auth import get_user_model

    model: Any = get_user_model()
    model.objects.all().delete()
    model.objects.create_user("luca", password="lasagne")
    model.objects.create_user("fabio", password="focaccia")
    model.objects.create_superuser("admin", password="antipasti")


@pytest.fixture(scope="module")
def django_users() -> Iterator[None]:
    """The users of the project: luca, fabio, and admin, who is a superuser."""
    from django.db import connection

    _make_users()
    SessionManager().close()  # deleting users has asked for one
    yield
    connection.close()


@pytest.fixture
def fresh_django_users(manager: SessionManager) -> Iterator[None]:
    """The users luca, fabio and admin, for one test that may change them."""
    from django.contrib.auth import get_user_model
    from django.db import connection

    _make_users()
    yield
    get_user_model().objects.all().delete()
    connection.close()


@pytest.fixture
def django_project(django_users: None) -> Iterator[None]:
    """The project with its users."""
    from django.db import connection
    from django.test import override_settings

    with override_settings(ROOT_URLCONF="django_project", LOGIN_URL="/login"):
        yield
    connection.close()


@pytest.fixture(params=["wsgi", "asgi"])
def client(request: pytest.FixtureRequest, django_project: None, manager: SessionManager) -> Any:
    from django_project import new_client

    return new_client(request.param)


@pytest.fixture
def kind(client: Any) -> str:
    """The kind of view that fits the handler; `test_kinds_of_views` has all of them on both."""
    from django_project import OverAsgi

    return "async" if isinstance(client, OverAsgi) else "sync"


@pytest.fixture
def unreachable(manager: SessionManager) -> WatchedStore:
    """The store of the manager, which a test can make unreachable."""
    manager.close()
    store = WatchedStore()
    SessionManager(store=store)
    return store
