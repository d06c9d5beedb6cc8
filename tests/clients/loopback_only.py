"""Keeps a script on this machine, and tells which other hosts its libraries wanted."""

from __future__ import annotations

import sys
from ipaddress import ip_address
from typing import Any


def forbid_other_hosts() -> list[str]:
    """From now on nothing but loopback can be looked up or connected to; what else is tried gathers in the list."""
    tried: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        host: Any = None
        if event == "socket.getaddrinfo":
            host = arguments[0]
        elif event == "socket.connect" and isinstance(arguments[1], tuple):  # a Unix socket's address is a text
            host = arguments[1][0]
        if host is not None and not _is_loopback(host):
            tried.append(str(host))
            raise PermissionError(f"This test stays on this machine; {host} was to be reached.")

    sys.addaudithook(watch)
    return tried


def _is_loopback(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
