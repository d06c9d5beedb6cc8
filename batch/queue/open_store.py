"""Opens the store that a home's settings name."""

from __future__ import annotations

from pathlib import Path

from batch.database_address import IN_DATABASE
from batch.queue.nodes import WorkerSecret
from batch.queue.spool import Spool
from batch.queue.store import Store


def open_store(
    database: Path | str,
    *,
    home: Path | None = None,
    front: str = "",
    readonly: bool = False,
    create: bool = True,
    owns_home: bool = False,
    worker: WorkerSecret | None = None,
) -> Store:
    """The store in a file, or at an address of PostgreSQL, made and brought to this version's schema unless `create` is off
    or it is opened to read only.

    `home`: the folder that an address is used from; a file lies in its own. `front`: the service that jobs are accepted for,
    where several share an address; the home's id where none is named. `owns_home`: the home's service opens it, holding its
    lock; others bring no file forward while a service runs. `worker`: opened by a worker, which needs no rights on tables at an
    address. Raises NewerDatabase, OlderDatabase, DamagedDatabase, DiskFull,
    StoreAway and SettingsProblem, each with one sentence.
    """
    if isinstance(database, str):
        from batch.queue.postgres.connection_info import check_address

        check_address(database)  # it says so where the driver is missing, before anything else is imported
        from batch.queue.postgres.postgres_store import PostgresStore
        from batch.queue.remote.inbox_id import inbox_id

        if home is not None and not front:
            from batch.queue.remote.home_id import home_id

            front = home_id(home / ".batch")
        if worker is not None:
            from batch.queue.postgres.roles.worker_store import WorkerStore

            return WorkerStore(database, worker, home=home or Path.cwd(), front=front)
        inbox = "" if home is None else inbox_id(home / ".batch")
        return PostgresStore(database, home=home or Path.cwd(), front=front, inbox=inbox, readonly=readonly, create=create)
    from batch.queue.sqlite.sqlite_store import SqliteStore

    return SqliteStore(database, readonly=readonly, create=create, owns_home=owns_home)


def open_spool(
    database: Path | str, folder: Path, payloads: str = IN_DATABASE, *, worker_secret: str = "", **options: int
) -> Spool:
    """The payloads of a home's jobs: in a folder, which is a cache where machines share a database: new ones go there then, or
    where the setting `payloads` says. Raises SettingsProblem where a package is missing for that.

    `worker_secret`: opened by the worker that has it, for the payloads of its leases.
    """
    if isinstance(database, str):
        from batch.queue.postgres.payloads.shared_spool import SharedSpool

        rows = None
        if worker_secret:
            from batch.queue.postgres.roles.worker_payload_rows import WorkerPayloadRows

            rows = WorkerPayloadRows(worker_secret)

        return SharedSpool(folder, database, place=payloads, rows=rows, **options)
    return Spool(folder)
