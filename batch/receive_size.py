"""How much a connection on asyncio's event loop receives at a time."""

from __future__ import annotations

import asyncio

RECEIVE_BYTES = 64 << 10
"""More than a request and a worker's frame mostly have. Below 128 KiB, from where on glibc maps and unmaps the pages of each
buffer."""


def bound_receive_size(transport: asyncio.BaseTransport) -> None:
    """Have a connection receive pieces of `RECEIVE_BYTES` at most. asyncio asks for 256 KiB each time, for which memory is
    mapped and unmapped: to receive 300 bytes took 18 µs instead of 2 (Linux, glibc)."""
    # Loops of other makers have other transports.
    if hasattr(transport, "max_size"):
        transport.max_size = RECEIVE_BYTES
