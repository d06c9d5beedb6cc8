"""Who may see and use the page, and the headers of every answer: stricter than the rest of the port.

Captions, transcripts, names and errors are written by strangers, and a page of somebody else's may try to use the reader's
browser. So nothing is embedded, nothing comes from elsewhere, no script stands in the text, and whatever changes something
comes from this very address.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from batch.errors import Forbidden

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
MEDIA_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
"""Of bytes that strangers made: should a browser show them as a document, nothing in it runs or loads."""
_READING = ("GET", "HEAD")


def check_access(request: Request) -> None:
    """Raise Forbidden unless this page itself asks, or a person who typed the address or follows a bookmark."""
    site = request.headers.get("sec-fetch-site")
    is_reading = request.method in _READING
    if site is not None:
        if site != "same-origin" and not (site == "none" and is_reading):
            raise Forbidden("Another page asks for this one: open its address yourself.")
        return
    origin = request.headers.get("origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if origin == own or (origin is None and is_reading):
        return
    raise Forbidden(f"Only the page itself may do this: send the header Origin: {own[:200]}, or use the command line.")


def add_headers(response: Response) -> None:
    """The headers that every answer of the page has; what an answer says itself stays."""
    headers = response.headers
    headers.setdefault("content-security-policy", POLICY)
    headers.setdefault("cache-control", "no-store")
    headers["x-content-type-options"] = "nosniff"
    headers["referrer-policy"] = "same-origin"
    headers["cross-origin-resource-policy"] = "same-origin"
    headers["cross-origin-opener-policy"] = "same-origin"
