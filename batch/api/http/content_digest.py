"""One digest for a request's content, by which a repeated request is known."""

from __future__ import annotations

import hashlib


def digest(*parts: bytes) -> str:
    """sha256 of parts that cannot run into one another."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8) + part)
    return whole.hexdigest()
