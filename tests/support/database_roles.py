"""A database as three roles have it: its owner, a front and a worker; and a store of which each half is a role's."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from batch.queue.jobs import JobProgress, State
from batch.queue.nodes import Node, Renewal, WorkerSecret, worker_id_of
from batch.queue.open_store import open_store
from batch.queue.store import Ending, Lease, Store
from postgres_server import PostgresServer

_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class RoleAddresses:
    """One database's addresses. The roles of front and worker are logins, members of the roles that have the rights."""

    owner: str
    front: str
    worker: str
    front_role: str
    worker_role: str


def as_role(url: str, role: str) -> str:
    """The same database as another role."""
    _, at, place = url.partition("@")
    return f"postgresql://{role}{at}{place}"


def prepare_roles(server: PostgresServer, *, create_roles: bool = True) -> RoleAddresses:
    """An empty database whose owner may make tables, and two logins that may do nothing yet."""
    url = server.new_database()
    name = f"r{os.getpid()}_{next(_NUMBERS)}"
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(f"create role {name}_owner login {'createrole' if create_roles else ''}".encode())
        conn.execute(f"alter schema public owner to {name}_owner".encode())
        for rights in ("front", "worker"):
            conn.execute(f"create role {name}_{rights} nologin".encode())
            conn.execute(f"create role {name}_{rights}_login login in role {name}_{rights}".encode())
    logins = (as_role(url, f"{name}_{login}") for login in ("owner", "front_login", "worker_login"))
    return RoleAddresses(*logins, f"{name}_front", f"{name}_worker")


def granted_roles(server: PostgresServer) -> RoleAddresses:
    """The same with tables and rights."""
    from batch.queue.postgres.roles.grants import grant

    roles = prepare_roles(server)
    grant(roles.owner, roles.front_role, roles.worker_role)
    return roles


def secret_of(worker: str) -> str:
    """Of a worker that tests call by a short name."""
    return f"the secret of {worker}".ljust(32, ".")


class StoreOfRoles:
    """A front's store whose worker's half is done by stores of workers, one each, known by the names that tests give them."""

    def __init__(self, roles: RoleAddresses, *, front: str = "f1", home: Path | None = None) -> None:
        self._roles = roles
        self._home = home
        self._front = open_store(roles.front, front=front, home=home)
        self._workers: dict[str, Store] = {}
        self._holders: dict[int, str] = {}
        self._submitted: Callable[[set[str]], None] = lambda queues: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._front, name)

    @property
    def submitted(self) -> Callable[[set[str]], None]:
        return self._submitted

    @submitted.setter
    def submitted(self, call: Callable[[set[str]], None]) -> None:
        self._submitted = call
        for store in (self._front, *self._workers.values()):
            store.submitted = call

    def worker(self, name: str) -> Store:
        if name not in self._workers:
            self._workers[name] = open_store(self._roles.worker, home=self._home, worker=WorkerSecret(secret_of(name)))
            self._workers[name].submitted = self._submitted
        return self._workers[name]

    def close(self) -> None:
        for store in (self._front, *self._workers.values()):
            store.close()

    def _holder(self, lease: Lease) -> Store:
        return self.worker(self._holders.get(lease.token, "nobody"))

    def take(self, queue: str, worker: str, **options: Any) -> list[Lease]:
        leases = self.worker(worker).take(queue, worker_id_of(secret_of(worker)), **options)
        self._holders |= {lease.token: worker for lease in leases}
        return leases

    def end(self, endings: Sequence[Ending], *, durable: bool = False) -> list[bool]:
        return [self._holder(ending.lease).end([ending], durable=durable)[0] for ending in endings]

    def put_back(self, lease: Lease, *, count: bool, durable: bool = True) -> None:
        self._holder(lease).put_back(lease, count=count, durable=durable)

    def progress(self, lease: Lease, progress: JobProgress) -> None:
        self._holder(lease).progress(lease, progress)

    def checkpoint(self, lease: Lease, step: int, data: str) -> None:
        self._holder(lease).checkpoint(lease, step, data)

    def checkpoints(self, lease: Lease) -> list[str]:
        return self._holder(lease).checkpoints(lease)

    def refer(self, lease: Lease, sha256: str) -> None:
        self._holder(lease).refer(lease, sha256)

    def cancelled(self, job: str) -> bool:
        return self.worker("w1").cancelled(job)

    def recover(
        self, queue: str, worker: str, limit: int, last_death: str = "", *, predecessor: str = ""
    ) -> list[tuple[str, State]]:
        secret = WorkerSecret(secret_of(worker), secret_of(predecessor))
        with contextlib.closing(open_store(self._roles.worker, worker=secret)) as store:
            store.submitted = self._submitted
            return store.recover(queue, secret.id, limit, last_death, predecessor=secret.predecessor_id)

    def reap(self, limit: int, *, batch: int = 100) -> list[tuple[str, State]]:
        return self.worker("w1").reap(limit, batch=batch)

    # -- rows of workers, under the tests' names

    def register(self, node: Node) -> None:
        self.worker(node.id).register(replace(node, id=worker_id_of(secret_of(node.id))))

    def leave(self, worker: str) -> None:
        self.worker(worker).leave(worker_id_of(secret_of(worker)))

    def renew(self, worker: str, leases: Sequence[tuple[str, int]], *, prefixes: str | None = None) -> Renewal:
        return self.worker(worker).renew(worker_id_of(secret_of(worker)), leases, prefixes=prefixes)

    def drain(self, worker: str, on: bool = True) -> None:
        self._front.drain(worker_id_of(secret_of(worker)), on)

    def nodes(self) -> list[Node]:
        names: Mapping[str, str] = {worker_id_of(secret_of(name)): name for name in self._workers}
        return [replace(node, id=names.get(node.id, node.id)) for node in self._front.nodes()]


def open_store_of(database: Path | str | RoleAddresses, front: str = "f1", home: Path | None = None) -> Any:
    """The store of a test's database, whichever it is."""
    if isinstance(database, RoleAddresses):
        return StoreOfRoles(database, front=front, home=home)
    return open_store(database, front=front, home=home)
