"""Opens the channel to the other homes that share a database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from batch.errors import SettingsProblem
from batch.queue.remote.channel import Channel


@dataclass(frozen=True, slots=True)
class PortSettings:
    """Where a front lets workers dial it."""

    listen: str
    """host:port; empty: nowhere. Port 0 takes a free one."""
    advertise: str
    """Where workers reach that, when it is another address."""
    state_dir: Path
    """Where its certificate is kept."""


def open_channel(
    database: Path | str, home: str, *, is_front: bool, listen_url: str = "", port: PortSettings | None = None
) -> Channel | None:
    """The channel of the home with the id `home`; None where its database is a file, which nobody else has.

    `is_front`: it accepts jobs. `listen_url`: an address that leads to the database itself, past a pooler. `port`: that of a
    front. Raises SettingsProblem where that cannot be, and DiskFull.
    """
    listens = port is not None and bool(port.listen)
    if isinstance(database, Path):
        if listens:
            raise SettingsProblem(
                "The setting front.listen opens a port for workers of other machines, and there are none while the jobs are in "
                "a file: set database to the address of a PostgreSQL database, or leave it out."
            )
        return None
    from batch.queue.postgres.channel import PostgresChannel
    from batch.queue.postgres.connection_info import lease_of
    from batch.queue.remote.worker_port.channel import StreamChannel

    lease_s = lease_of(database)
    notifying = PostgresChannel(database, home, is_front=is_front, listen_url=listen_url)
    if port is None or not listens:
        return StreamChannel(notifying, home, lease_s)
    from batch.queue.remote.worker_port.certificate import own_certificate
    from batch.queue.remote.worker_port.port import WorkerPort
    from batch.queue.remote.worker_port.port_rows import NonceReader

    worker_port = WorkerPort(port.listen, port.advertise, home, own_certificate(port.state_dir))
    return StreamChannel(notifying, home, lease_s, port=worker_port, nonces=NonceReader(database))
