"""The answers to requests that are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from flask import Response, current_app, jsonify, redirect, request, url_for

from ...errors import SessionRejected
from .._refusals import REFUSED, prefers_html
from .._urls import OWN_PATH
from .state import current_state, installation


def answer_to(error: Exception) -> Response:
    """Return the answer to a request that is refused: that of the application, if it has a handler for the error."""
    # Not for its base classes: who handles every exception has not thought of these.
    kind = next(kind for kind in REFUSED if isinstance(error, kind))
    specs = [current_app.error_handler_spec.get(name, {}).get(None, {}) for name in (*request.blueprints, None)]
    handler = next(spec[kind] for spec in specs if kind in spec)  # of the application it is ours, if no other
    return current_app.make_response(current_app.ensure_sync(handler)(error))


def answer_ours(answer_others: Callable[[Exception], Any], error: Exception) -> Any:
    """Return the answer to what a view has raised."""
    return answer_to(error) if isinstance(error, REFUSED) else answer_others(error)


def refuse(error: Exception) -> Any:
    """Return our own answer, as a view would: JSON, or for a browser the login page after a rejection, else a page."""
    installed = installation()
    refusal, login = current_state().refuse(error), installed.login_url
    if login is None and installed.bridge is not None:
        login = installed.bridge.login_view
    if installed.has_api and not prefers_html(request.headers.get("Accept", "")):
        return jsonify(refusal.body), refusal.status, refusal.headers
    if isinstance(error, SessionRejected) and login is not None:
        return _redirect_to(login)
    return refusal.page(), refusal.status, refusal.headers


def _redirect_to(login: str) -> Any:
    here = request.script_root + request.full_path.removesuffix("?")
    url = login if "/" in login else url_for(login)
    if request.method == "GET" and OWN_PATH.fullmatch(here):
        url += ("&" if "?" in url else "?") + urlencode({"next": here})
    return redirect(url, 303)
