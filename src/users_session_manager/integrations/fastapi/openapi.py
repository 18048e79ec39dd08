"""How the OpenAPI schema of an application shows its guarded routes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from .._cookies import KeyCarrier

HEADER_SCHEME = "SessionKeyHeader"
BEARER_SCHEME = "SessionKeyBearer"
COOKIE_SCHEME = "SessionKeyCookie"


def schemes_of(carrier: KeyCarrier) -> dict[str, dict[str, str]]:
    """Return the security schemes of guarded routes, by name; a request needs one of them."""
    schemes = {}
    if carrier.header is not None:
        schemes[HEADER_SCHEME] = {"type": "apiKey", "in": "header", "name": carrier.header}
    if carrier.bearer:
        schemes[BEARER_SCHEME] = {"type": "http", "scheme": "bearer"}
    if carrier.cookie is not None:
        schemes[COOKIE_SCHEME] = {"type": "apiKey", "in": "cookie", "name": carrier.cookie}
    return schemes


def document_schemes(app: FastAPI, schemes: dict[str, dict[str, str]]) -> None:
    """Add to the OpenAPI schema of `app` that a guarded route, which names the first scheme, accepts each of them."""
    generate, (first, *others) = app.openapi, schemes

    def openapi() -> dict[str, Any]:
        document = generate()
        known = document.get("components", {}).get("securitySchemes", {})
        if first in known and not known.keys() >= schemes.keys():  # not yet: FastAPI makes the document once
            known.update(schemes)
            for path in document["paths"].values():
                for operation in path.values():
                    if {first: []} in operation.get("security", []):
                        operation["security"] += [{name: []} for name in others]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
