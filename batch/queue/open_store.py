"""Opens the store that a home's settings name."""

from __future__ import annotations

from pathlib import Path

from batch.queue.store import Store


def open_store(database: Path, *, readonly: bool = False, create: bool = True, owns_home: bool = False) -> Store:
    """The store in a file, made and brought to this version's schema unless `create` is off or it is opened to read only.

    `owns_home`: the home's service opens it, holding its lock; others bring nothing forward while a service runs.
    Raises NewerDatabase, OlderDatabase, DamagedDatabase and DiskFull, each with one sentence.
    """
    from batch.queue.sqlite.sqlite_store import SqliteStore

    return SqliteStore(database, readonly=readonly, create=create, owns_home=owns_home)
