"""The answers to requests that are refused."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import resolve_url
from django.template import TemplateDoesNotExist
from django.template.loader import render_to_string
from django.utils.cache import patch_vary_headers
from django.utils.http import escape_leading_slashes

from .._cookies import KeyCarrier
from .._refusals import NO_STORE, Refusal, prefers_html


def answer_to(request: Any, refusal: Refusal) -> Any:
    """Return the answer: JSON, or for a client that prefers HTML the login page after a rejection, else a page."""
    if not prefers_html(request.META.get("HTTP_ACCEPT", "")):
        return JsonResponse(refusal.body, status=refusal.status, headers=refusal.headers)
    if refusal.status == 401:
        response = _redirect_to_login(request)
        response.headers["Cache-Control"] = NO_STORE
        return response
    try:
        page = render_to_string(f"{refusal.status}.html", request=request)
    except (TemplateDoesNotExist, ImproperlyConfigured):  # the project has none of its own
        page = refusal.page()
    return HttpResponse(page, status=refusal.status, headers=refusal.headers)


def add_no_store(response: Any, carrier: KeyCarrier) -> Any:
    """Forbid caches to store the answer of a guarded view. Its own `Cache-Control` is kept, with a `Vary`.

    The middleware cannot do so: a decorator that stores answers may be above the guard.
    """
    if "Cache-Control" in response.headers:
        patch_vary_headers(response, [name for name in (carrier.header, "Cookie") if name])
    else:
        response.headers["Cache-Control"] = NO_STORE
    return response


def _redirect_to_login(request: Any) -> Any:
    from django.contrib.auth.views import redirect_to_login  # its forms wait for the applications

    if request.method not in ("GET", "HEAD"):
        return HttpResponseRedirect(resolve_url(settings.LOGIN_URL))  # a form cannot be sent again
    # Two slashes at its beginning would be the address of another site.
    return redirect_to_login(escape_leading_slashes(request.get_full_path()))
