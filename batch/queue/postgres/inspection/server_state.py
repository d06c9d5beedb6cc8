"""What a PostgreSQL server says of itself, of this role's rights, and of others who use the database: for `batch doctor`."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from batch.queue.postgres.connection_info import check_address, connect, is_pooled
from batch.queue.postgres.error_mapping import to_batch_error
from batch.queue.postgres.inspection.node_overview import read_clock_difference
from batch.queue.postgres.schema import VERSION, read_version

Rights = Literal["owner", "front", "worker", "none", "empty"]
"""What this role may do with the tables; "empty" where there are none yet and it may make them."""

_HEARING_TIMEOUT_S = 3.0
_LATE_S = 10.0
"""Leases that ran out for longer ought to have been put back by now."""

_SERVER = (
    "select current_setting('server_version_num')::integer, current_setting('server_version'), current_user, "
    "(select rolsuper from pg_roles where rolname = current_user), current_setting('fsync') = 'on', "
    "current_setting('full_page_writes') = 'on', current_setting('synchronous_commit') <> 'off', "
    "current_setting('autovacuum') = 'on', current_setting('max_connections')::integer "
    "- current_setting('superuser_reserved_connections')::integer "
    "- coalesce(current_setting('reserved_connections', true)::integer, 0), "
    "(select count(*) from pg_stat_activity where backend_type = 'client backend'), pg_is_in_recovery()"
)
_TRANSACTIONS = (
    "select extract(epoch from clock_timestamp() - xact_start)::double precision, application_name, pid "
    "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null "
    "union all select extract(epoch from clock_timestamp() - prepared)::double precision, 'a prepared transaction', null "
    "from pg_prepared_xacts where database = current_database() order by 1 desc limit 1"
)
_HIDDEN = (
    "select count(*) from pg_stat_activity where datname = current_database() and backend_type = 'client backend' "
    "and query = '<insufficient privilege>'"
)
_RIGHTS = (
    "select case when c.oid is null then "
    "case when has_schema_privilege(current_schema(), 'create') then 'empty' else 'none' end "
    "when pg_has_role(c.relowner, 'usage') then 'owner' "
    "when has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert') then 'front' "
    "when to_regproc('worker_take') is not null and has_function_privilege(to_regproc('worker_take')::oid, 'execute') "
    "then 'worker' else 'none' end from (select to_regclass('job')::oid) as t (job) left join pg_class c on c.oid = t.job"
)
_LATE_LEASES = "select count(*) from claim where until < clock_timestamp() - make_interval(secs => %s)"


@dataclass(frozen=True, slots=True)
class ServerState:
    """As it is now."""

    version_number: int
    """130004 for 13.4."""
    version: str
    role: str
    is_superuser: bool
    rights: Rights
    schema_version: int
    known_schema_version: int
    """What this batch knows."""
    is_encrypted: bool
    is_on_this_machine: bool
    """By a Unix socket or the loopback address."""
    has_fsync: bool
    has_full_page_writes: bool
    has_synchronous_commit: bool
    has_autovacuum: bool
    connections: int
    max_connections: int
    """Of ordinary roles."""
    is_standby: bool
    hears_notifications: bool
    is_pooled: bool
    """Whether the address for notifications leads to a pooler, as it says itself."""
    clock_difference_s: float
    oldest_transaction_s: float
    """Of others; 0 where none is open."""
    oldest_transaction: str
    """Whose: the program's name and its process on the server."""
    hidden_sessions: int
    """Others' sessions whose transactions this role is not shown."""
    late_leases: int
    """Leases that ran out long enough ago to have been put back."""


def read_server_state(url: str, listen_url: str = "") -> ServerState:
    """Ask the server; takes three seconds longer where notifications get lost. Raises StoreAway and SettingsProblem."""
    check_address(url)
    try:
        with contextlib.closing(connect(url)) as conn:
            rights: Rights = _row(conn, _RIGHTS)[0]
            number, version, role, is_superuser, *settings, maximum, count, is_standby = _row(conn, _SERVER)
            fsync, full_page_writes, synchronous_commit, autovacuum = settings
            oldest = conn.execute(_TRANSACTIONS.encode()).fetchone() or (0.0, "", None)
            has_claims = rights in ("owner", "front")
            return ServerState(
                version_number=number,
                version=version,
                role=role,
                is_superuser=is_superuser,
                rights=rights,
                schema_version=read_version(conn),
                known_schema_version=VERSION,
                is_encrypted=bool(conn.pgconn.ssl_in_use),
                is_on_this_machine=conn.info.host.startswith("/") or conn.info.hostaddr in ("127.0.0.1", "::1", ""),
                has_fsync=fsync,
                has_full_page_writes=full_page_writes,
                has_synchronous_commit=synchronous_commit,
                has_autovacuum=autovacuum,
                connections=count,
                max_connections=maximum,
                is_standby=is_standby,
                hears_notifications=_hears_notifications(conn, listen_url or url),
                is_pooled=is_pooled(listen_url or url),
                clock_difference_s=read_clock_difference(lambda query, params: conn.execute(query.encode(), params).fetchall()),
                oldest_transaction_s=max(0.0, oldest[0]),
                oldest_transaction=oldest[1] + (f" (process {oldest[2]})" if oldest[2] else ""),
                hidden_sessions=_row(conn, _HIDDEN)[0],
                late_leases=_row(conn, _LATE_LEASES, (_LATE_S,))[0] if has_claims else 0,
            )
    except psycopg.Error as error:
        raise to_batch_error(error) from error


def _row(conn: psycopg.Connection[tuple[Any, ...]], query: str, params: Sequence[Any] | None = None) -> tuple[Any, ...]:
    row = conn.execute(query.encode(), params).fetchone()
    assert row is not None, "it is a single row"
    return row


def _hears_notifications(conn: psycopg.Connection[tuple[Any, ...]], listen_url: str) -> bool:
    """Whether what is notified by one connection is heard on another one to `listen_url`."""
    if is_pooled(listen_url):
        return False
    if _row(conn, "select pg_is_in_recovery()")[0]:
        return True  # a standby cannot notify, which is told by itself
    name = f"batch_doctor_{secrets.token_hex(8)}"
    with contextlib.closing(connect(listen_url)) as listening:
        listening.execute(f'listen "{name}"'.encode())
        conn.execute("select pg_notify(%s, '')", (name,))
        heard = any(notify.channel == name for notify in listening.notifies(timeout=_HEARING_TIMEOUT_S, stop_after=1))
        listening.execute("unlisten *")  # or the next client of a pooler's connection would listen
        return heard
