"""Where the shared files are, and what every page needs to load them."""

from __future__ import annotations

from pathlib import Path

from .socket_io_client import CDN, INTEGRITY

STATIC = Path(__file__).resolve().parent / "static"
TEMPLATES = Path(__file__).resolve().parent / "templates"


def client_tag(client_script: Path | str | None) -> dict[str, str]:
    """Return the attributes of the tag that loads socket.io-client: our own copy, or the CDN's if there is none."""
    return {"src": "/socket.io-client.js" if client_script else CDN, "integrity": INTEGRITY}


def content_security_policy(client_script: Path | str | None) -> str:
    """Return the policy by which a page loads only our own files, and socket.io-client."""
    return (
        f"default-src 'none'; script-src 'self'{'' if client_script else ' ' + CDN}; style-src 'self'; "
        "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


def security_headers(client_script: Path | str | None) -> dict[str, str]:
    """Return the headers of every answer. No cache stores an answer, since it may show who is logged in.

    Under `no-referrer`, browsers would send our own forms with `Origin: null`, as those of an attacker can be.
    """
    return {
        "Content-Security-Policy": content_security_policy(client_script),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def label(key: str) -> str:
    """Return the readable part of a session key. The rest is secret: with the whole key one is logged in."""
    return key.partition("_")[0]
