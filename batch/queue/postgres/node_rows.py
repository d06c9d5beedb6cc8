"""Workers of all machines in Postgres: their rows, and their leases renewed by one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from batch.errors import NotFound
from batch.queue.jobs import Kind
from batch.queue.nodes import FORGET_NODE_AFTER_S, SHOWN_NODES, Node, NodeOverview, Renewal
from batch.queue.postgres.duty_rows import PostgresDuties
from batch.queue.postgres.inspection.node_overview import read_overview
from batch.queue.remote.proof import LeaseKeys

_COLUMNS = (
    "id",
    "kind",
    "queue",
    "status",
    "model",
    "build",
    "version",
    "info",
    "error",
    "home",
    "pid",
    "started_at",
    "takes",
    "prefixes",
)
_FIELDS = tuple(field.name for field in fields(Node))
_REGISTER = (
    f"insert into node ({', '.join(_COLUMNS)}) values ({', '.join('?' * len(_COLUMNS))}) on conflict (id) do update set "
    + ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS[1:])
    + ", beat = clock_timestamp()"
)
_LIST = (
    f"select {', '.join('n.' + column for column in _COLUMNS)}, "
    "greatest(0.0, extract(epoch from clock_timestamp() - n.beat))::double precision, "
    "(select count(*) from claim c where c.worker = n.id), n.is_draining from node n order by n.kind, n.started_at, n.id"
)
_RENEW = (
    "with mine as (select * from unnest(?::text[], ?::bigint[]) as m (job, token)), "
    "renewed as (update claim c set until = clock_timestamp() + make_interval(secs => ?) from mine m "
    "where c.job = m.job and c.token = m.token returning c.job), "
    "worker as (update node set beat = clock_timestamp(), prefixes = coalesce(?::text, prefixes) where id = ? "
    "returning is_draining) "
    "select array(select job::text from renewed), "
    "array(select j.id::text from job j join renewed r on j.id = r.job where j.cancel <> 0), (select is_draining from worker)"
)
_WORKERS_OF = (
    "select j.id, coalesce(c.worker, j.worker) from job j left join claim c on c.job = j.id "
    "where j.id = any(?::text[]) and j.state <> 'queued' and coalesce(c.worker, j.worker) <> ''"
)


class PostgresNodes(PostgresDuties):
    """The rows of workers that come and go."""

    def lease_keys(self) -> LeaseKeys:
        """By what a front knows words of a job's worker."""
        ((outer_key, inner_key),) = self.read("select outer_key, inner_key from lease_root")
        return LeaseKeys(bytes(outer_key), bytes(inner_key))

    def register(self, node: Node) -> None:
        """Write down what a worker is and how it is, and that it lives."""
        with self._begun(durable=False) as transaction:
            transaction.execute(_REGISTER, list(node_columns(node).values()))

    def leave(self, worker: str) -> None:
        """A worker has ended: its row goes."""
        with self._begun(durable=False) as transaction:
            transaction.execute("delete from node where id = ?", (worker,))

    def nodes(self) -> list[Node]:
        """All workers by kind and start, also those that have not been heard of for long."""
        return [_to_node(row) for row in self.read(_LIST)]

    def overview(self, limit: int = SHOWN_NODES) -> NodeOverview | None:
        """The workers of all machines, at most `limit` of them one by one."""
        return read_overview(self.read, limit, self.lease_s)

    def workers_of(self, jobs: Sequence[str]) -> dict[str, str]:
        """The worker that holds, or that ended, each of up to 1,000 jobs: those of which that is known."""
        return dict(self.read(_WORKERS_OF, (list(jobs),)))

    def renew(self, worker: str, leases: Sequence[tuple[str, int]], *, prefixes: str | None = None) -> Renewal:
        """A worker lives, and keeps its (job, token) leases for `lease_s` from now on. `prefixes`: what its prompt cache holds
        by now, where that has changed."""
        jobs, tokens = [job for job, _ in leases], [token for _, token in leases]
        with self._begun(durable=False) as transaction:
            (row,) = transaction.execute(_RENEW, (jobs, tokens, self.lease_s, prefixes, worker)).fetchall()
        return to_renewal(jobs, row)

    def drain(self, worker: str, on: bool = True) -> None:
        """Let a worker end what it has and take nothing new, or again. Raises NotFound."""
        with self._begun(durable=True) as transaction:
            if not transaction.execute("update node set is_draining = ? where id = ?", (int(on), worker)).rowcount:
                raise NotFound(f"There is no node {worker}: `batch nodes` lists them.")

    def forget_silent_nodes(self) -> None:
        """Delete the rows of workers that have not been heard of for `FORGET_NODE_AFTER_S`."""
        where = "beat < clock_timestamp() - make_interval(secs => ?)"
        if self.read(f"select 1 from node where {where} limit 1", (FORGET_NODE_AFTER_S,)):
            with self._begun(durable=False) as transaction:
                transaction.execute(f"delete from node where {where}", (FORGET_NODE_AFTER_S,))


def node_columns(node: Node) -> dict[str, object]:
    """What a worker writes of itself, by column."""
    return {column: _plain(getattr(node, column)) for column in _COLUMNS}


def to_renewal(jobs: Sequence[str], row: Sequence[Any]) -> Renewal:
    """What a worker learns, from (jobs renewed, jobs cancelled, whether it drains, None where it has no row)."""
    renewed, cancelled, is_draining = row
    return Renewal(frozenset(jobs) - frozenset(renewed), frozenset(cancelled), bool(is_draining), is_draining is not None)


def _to_node(row: Sequence[Any]) -> Node:
    values = dict(zip(_FIELDS, row, strict=True))
    return Node(**values | {"kind": Kind(values["kind"]), "is_draining": bool(values["is_draining"])})


def _plain(value: Any) -> Any:
    """Kinds and the like are texts."""
    return str(value) if isinstance(value, str) else value
