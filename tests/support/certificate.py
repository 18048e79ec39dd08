"""A certificate for servers of the tests."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificate(folder: Path, address: str) -> tuple[Path, Path]:
    """Make a certificate for an IP address, which is its own authority, and its key."""
    certificate, key = folder / f"{address}.crt", folder / f"{address}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=sessions", "-addext", f"subjectAltName=IP:{address}"]
    command += ["-addext", "keyUsage=digitalSignature,keyCertSign", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
