"""The shared files and headers in an application made with Flask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Blueprint, Response, abort, send_file

from .pages import STATIC, TEMPLATES, client_tag, security_headers


def shared_pages(client_script: Path | str | None) -> Blueprint:
    """Return a blueprint with the base template, the files it loads, and the headers of every answer.

    Args:
        client_script: our own copy of socket.io-client; `None` for the CDN's.
    """
    pages = Blueprint(
        "shared", __name__, static_folder=STATIC, static_url_path="/static/shared", template_folder=TEMPLATES
    )

    @pages.get("/socket.io-client.js")
    def socket_io_client() -> Response:
        return send_file(client_script) if client_script else abort(404)

    @pages.app_context_processor
    def client() -> dict[str, Any]:
        return {"client": client_tag(client_script)}

    @pages.after_app_request
    def harden(response: Response) -> Response:
        response.headers.update(security_headers(client_script))
        return response

    return pages
