"""A machine of its own, as far as its network goes: a namespace with one line to this one, which can be cut without a word."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from typing import Literal

import pytest

Direction = Literal["both", "to us", "from us"]
_NOBODY = "02:00:00:00:00:99"
"""A hardware address that none of the two ends has: what is sent there arrives nowhere, and nobody is told."""


class NetworkNamespace:
    """One namespace; `address` is ours on its line, `prefix` runs a command in it."""

    def __init__(self, number: int) -> None:
        """`number`: different for each that lives at a time on this machine."""
        name = f"bd{secrets.token_hex(3)}"
        self._ours, self._theirs = f"{name}a", f"{name}b"
        self.name = name
        self.prefix = ("ip", "netns", "exec", name)
        subnet = f"10.213.{number // 60 % 256}.{number % 60 * 4}".rpartition(".")
        self.address, self.peer = (f"{subnet[0]}.{int(subnet[2]) + host}" for host in (1, 2))

    def make(self) -> None:
        """Raises CalledProcessError where this machine does not allow it."""
        _ip("netns", "add", self.name)
        _ip("link", "add", self._ours, "type", "veth", "peer", "name", self._theirs)
        _ip("link", "set", self._theirs, "netns", self.name)
        _ip("addr", "add", f"{self.address}/30", "dev", self._ours)
        _ip("link", "set", self._ours, "up")
        _ip("-n", self.name, "addr", "add", f"{self.peer}/30", "dev", self._theirs)
        for device in (self._theirs, "lo"):
            _ip("-n", self.name, "link", "set", device, "up")
        self._hardware = json.loads(_ip("-j", "link", "show", self._ours))[0]["address"]
        self._peer_hardware = json.loads(_ip("-n", self.name, "-j", "link", "show", self._theirs))[0]["address"]

    def cut(self, direction: Direction) -> None:
        """Lose all packets of a direction from now on, silently, as a switch that died does."""
        if direction != "from us":
            self._know(self.address, _NOBODY, inside=True)
        if direction != "to us":
            self._know(self.peer, _NOBODY, inside=False)

    def mend(self) -> None:
        """Let packets through again."""
        self._know(self.address, self._hardware, inside=True)
        self._know(self.peer, self._peer_hardware, inside=False)

    def _know(self, address: str, hardware: str, *, inside: bool) -> None:
        device = self._theirs if inside else self._ours
        place = ("-n", self.name) if inside else ()
        _ip(*place, "neigh", "replace", address, "lladdr", hardware, "dev", device, "nud", "permanent")

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self.name)  # its end of the line goes with it, and so does ours
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._ours)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, text=True, capture_output=True).stdout


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[NetworkNamespace]]:
    """Machines of their own; the test is skipped where this one may not make any."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and `ip`: `apt-get install iproute2` brings it")
    first = os.getpid() % 5000 * 3
    made: list[NetworkNamespace] = []
    try:
        for number in range(first, first + count):
            made.append(NetworkNamespace(number))
            try:
                made[-1].make()
            except subprocess.CalledProcessError as error:
                pytest.skip(f"this machine allows no network namespaces: {error.stderr.strip()}")
        yield made
    finally:
        for namespace in made:
            namespace.close()
