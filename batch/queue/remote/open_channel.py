"""Opens the channel to the other homes that share a database."""

from __future__ import annotations

from pathlib import Path

from batch.queue.remote.channel import Channel


def open_channel(database: Path | str, home: str, *, is_front: bool, listen_url: str = "") -> Channel | None:
    """The channel of the home with the id `home`; None where its database is a file, which nobody else has.

    `is_front`: it accepts jobs. `listen_url`: an address that leads to the database itself, past a pooler.
    """
    if isinstance(database, Path):
        return None
    from batch.queue.postgres.channel import PostgresChannel

    return PostgresChannel(database, home, is_front=is_front, listen_url=listen_url)
