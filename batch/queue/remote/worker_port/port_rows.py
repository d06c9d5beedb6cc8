"""The rows by which homes find one another's worker ports, and know whom they speak with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batch.queue.postgres.connection_info import lease_of
from batch.queue.postgres.liveness.watched_connection import Connection, WatchedConnection

PORT_LIFE_S = 30.0
"""A front that has not said for so long where its port is has none."""
_LOOK = "select front, address, cert_sha256 from worker_ports(%s, %s, %s, %s)"
_ANNOUNCE = "select announce_port(%s, %s, %s, %s)"
_WITHDRAW = "select withdraw_port(%s)"
_NONCES = "select nonce from nonces_of_home(%s, %s) as nonce"


@dataclass(frozen=True, slots=True)
class FrontPort:
    """Where a front is dialled."""

    front: str
    """Its id."""
    address: str
    """host:port."""
    cert_sha256: str


def look_for_ports(conn: Connection, home: str, nonce: str, lease_s: float) -> list[FrontPort]:
    """Write down by what `home` will prove itself, and return the ports of the other fronts that live; none where `home` has no
    worker that was heard of within `lease_s`. Raises psycopg's errors."""
    return [FrontPort(*map(str, row)) for row in conn.execute(_LOOK, (home, nonce, lease_s, PORT_LIFE_S)).fetchall()]


def announce_port(conn: Connection, port: FrontPort) -> None:
    """Let workers know a front's port for `PORT_LIFE_S` from now on. Raises psycopg's errors."""
    conn.execute(_ANNOUNCE, (port.front, port.address, port.cert_sha256, PORT_LIFE_S))


class NonceReader:
    """A front's own connection for what it is asked while workers dial; methods may be called from any thread."""

    def __init__(self, url: str) -> None:
        self._lease_s = lease_of(url)
        self._connection = WatchedConnection(url)

    def nonces(self, home: str) -> list[str]:
        """What the living workers of a home prove themselves by. Raises StoreAway."""
        return [str(row[0]) for row in self._read(_NONCES, (home, self._lease_s))]

    def withdraw(self, front: str) -> None:
        """A front's port closes. Raises StoreAway."""
        self._read(_WITHDRAW, (front,))

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _read(self, sql: str, params: tuple[object, ...]) -> list[tuple[Any, ...]]:
        return self._connection.run(lambda conn: conn.execute(sql.encode(), params).fetchall())
