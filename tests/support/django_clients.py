"""Clients of Django that are logged in, and a change of the middleware. `django_project` is to be imported first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings
from django.contrib.auth.middleware import RemoteUserMiddleware
from django.test import override_settings
from django_project import COOKIE, new_client, user_named

BACKEND = settings.AUTHENTICATION_BACKENDS[0]


def sign_in(handler: str, name: str = "luca") -> Any:
    """Return a client in which that user is logged in, and which has both cookies; the project needs a page /user."""
    client = new_client(handler)
    client.force_login(user_named(name), BACKEND)
    client.get("/user")  # gives the cookie of ours
    assert COOKIE in client.cookies
    return client


def copy_of(client: Any, handler: str, *names: str) -> Any:
    """Return a client that has copies of some cookies of another one."""
    copy = new_client(handler)
    for name in names:
        copy.cookies[name] = client.cookies[name].value
    return copy


@contextmanager
def middleware_below(*names: str) -> Iterator[None]:
    """Put middleware below that of the settings; a client keeps the middleware that it began with."""
    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, *names]):
        yield


class OfProxy(RemoteUserMiddleware):
    header = "HTTP_PROXY_USER"


class OfProxyOverAsgi(RemoteUserMiddleware):
    header = "HTTP_PROXY_USER" if django.VERSION >= (6, 1) else "PROXY_USER"  # earlier ones add the rest


def of_proxy(handler: str) -> str:
    """Return the path of a middleware that logs in the user whom a proxy names in the header Proxy-User."""
    return f"{__name__}.{'OfProxy' if handler == 'wsgi' else 'OfProxyOverAsgi'}"
