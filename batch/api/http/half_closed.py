"""Whether a client that sends no more still listens.

The end of a stream means both "this was all of my request" and "I have hung up". On Linux the kernel's own table of
sockets tells the two apart for a client on this machine: a socket that its program still holds has an inode.
"""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LOCAL, _REMOTE, _INODE = 1, 2, 9
"""Columns of a table."""


def still_listens(client: tuple[str, int], server: tuple[str, int]) -> bool:
    """Whether the client's program still holds its end of a connection; False where that cannot be known."""
    if not sys.platform.startswith("linux"):
        return False
    theirs = {(_address(client[0], mapped), client[1]) for mapped in (False, True)}
    ours = {(_address(server[0], mapped), server[1]) for mapped in (False, True)}
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if _endpoint(fields[_LOCAL]) in theirs and _endpoint(fields[_REMOTE]) in ours:
                return fields[_INODE] != "0"
    return False


def _endpoint(text: str) -> tuple[str, int]:
    address, port = text.split(":")
    return address, int(port, 16)


def _address(address: str, mapped: bool) -> str:
    """An address as the tables spell it: 32-bit words in the machine's byte order; `mapped`: as an IPv6 address."""
    packed = ipaddress.ip_address(address).packed
    if mapped and len(packed) == 4:
        packed = b"\0" * 10 + b"\xff\xff" + packed
    words = [int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4)]
    return "".join(f"{word:08X}" for word in words)
