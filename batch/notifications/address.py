"""Where webhooks may go: this machine, and what the home's owner named; resolved once, so that a name cannot move meanwhile."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

import msgspec

from batch.errors import BadRequest

MAX_URL_CHARS = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}


class WebhookAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver, with the address that is dialled."""

    scheme: str
    host: str
    port: int
    path: str
    """With its query."""
    ip: str = ""


class RefusedAddress(BadRequest):
    """An address that the home's owner did not name."""

    sentence = (
        "This service sends notifications to this machine only; the home's owner can name others in notifications.hosts of "
        "batch.toml."
    )


def read_url(url: str) -> WebhookAddress:
    """The parts of an endpoint's URL. Raises BadRequest."""
    if len(url) > MAX_URL_CHARS or not url.isprintable() or any(c.isspace() for c in url):
        raise BadRequest(f"'url' should be an http or https address of at most {MAX_URL_CHARS} characters", param="url")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadRequest("'url' is no valid address", param="url") from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise BadRequest("'url' should begin with http:// or https:// and name a host", param="url")
    if parts.username is not None or parts.fragment:
        raise BadRequest("'url' should hold neither a user nor a fragment", param="url")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii():
        raise BadRequest("'url' should have its path in ASCII (percent-encoded)", param="url")
    return WebhookAddress(scheme=parts.scheme, host=parts.hostname, port=port or DEFAULT_PORTS[parts.scheme], path=path)


def resolve(address: WebhookAddress, hosts: Sequence[str]) -> WebhookAddress:
    """The address with the one IP that is dialled. Raises RefusedAddress where it may not be, BadRequest for a host that can
    be no name, OSError where nobody knows it."""
    try:
        entries = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except UnicodeError:  # an empty label, or one of more than 63 characters
        raise BadRequest("'url' names a host that can be no name", param="url") from None
    is_named = any(fnmatchcase(address.host.lower(), pattern.lower()) for pattern in hosts)
    for *_, where in entries:
        ip = str(where[0]).partition("%")[0]
        if is_named or is_loopback(ip) or any(ip == pattern for pattern in hosts):
            return msgspec.structs.replace(address, ip=ip)
    raise RefusedAddress(param="url")


def is_loopback(ip: str) -> bool:
    """Whether an IP is this machine's own."""
    parsed = ipaddress.ip_address(ip)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
