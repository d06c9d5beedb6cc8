"""The rights of a front's role and of a worker's: given by the owner, and given again by every migration."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psycopg
from psycopg import sql

from batch.errors import SettingsProblem
from batch.queue.postgres import schema
from batch.queue.postgres.connection_info import check_address, connect
from batch.queue.postgres.error_mapping import to_batch_error

MAX_NAME_BYTES = 63
"""Postgres cuts longer names."""


@dataclass(frozen=True, slots=True)
class Grants:
    """Which roles have which rights in a database."""

    front: str
    worker: str
    functions: int
    """How many a worker's role may call; it may do nothing else."""
    created: tuple[str, ...]
    """Roles that were made now."""


def migrate(url: str) -> int:
    """Bring a database to this version's schema, as its owner; the version. Raises NewerDatabase, OlderDatabase,
    SettingsProblem, StoreAway."""
    check_address(url)
    try:
        with contextlib.closing(connect(url)) as conn:
            schema.migrate(conn)
            return schema.read_version(conn)
    except psycopg.Error as error:
        raise to_batch_error(error) from error


def grant(url: str, front: str = "", worker: str = "") -> Grants:
    """Give the two roles their rights, and write down that they have them. A role that is not there is made, without a login.

    Empty names stand for the database's name with `_front` and `_worker`. Raises what `migrate` raises.
    """
    migrate(url)
    try:
        with contextlib.closing(connect(url)) as conn, conn.transaction():
            name = conn.info.dbname
            roles = {front or f"{name}_front": "front", worker or f"{name}_worker": "worker"}
            if len(roles) != 2:
                raise SettingsProblem("A front and a worker cannot have one role: name two.")
            created = tuple(role for role in roles if _create(conn, role))
            schema.act_as_owner(conn)
            for role, rights in roles.items():
                conn.execute(
                    "insert into granted_role values (%s, %s) on conflict (name) do update set rights = excluded.rights",
                    (role, rights),
                )
            conn.execute("select grant_rights()")
            for role in roles:
                _check_schema(conn, role)
            row = conn.execute(
                "select count(*) from pg_proc where pronamespace = current_schema()::regnamespace and proname like 'worker\\_%'"
            ).fetchone()
            front, worker = roles
            return Grants(front, worker, 0 if row is None else int(row[0]), created)
    except psycopg.Error as error:
        raise to_batch_error(error) from error


def _check_schema(conn: psycopg.Connection[tuple[object, ...]], role: str) -> None:
    """Raise SettingsProblem where a role cannot see the schema, or may make tables in it, and this one cannot change that."""
    conn.execute("do $$ begin execute format('revoke create on schema %I from public', current_schema()); end $$")
    row = conn.execute(
        "select current_schema(), has_schema_privilege(%s::text, current_schema(), 'USAGE'), "
        "has_schema_privilege(%s::text, current_schema(), 'CREATE')",
        (role, role),
    ).fetchone()
    assert row is not None
    schema_name, may_use, may_create = str(row[0]), row[1], row[2]
    quoted = sql.Identifier(schema_name).as_string(conn)
    if may_create:
        fault, remedy = "make tables in", f"revoke create on schema {quoted} from public"
    elif not may_use:
        fault, remedy = "not see", f"grant usage on schema {quoted} to {sql.Identifier(role).as_string(conn)}"
    else:
        return
    raise SettingsProblem(
        f"{role} may {fault} the schema {schema_name}, which {conn.info.user} cannot change: let an administrator run "
        f"`{remedy}`, and then run this again."
    )


def _create(conn: psycopg.Connection[tuple[object, ...]], role: str) -> bool:
    """Whether the role had to be made."""
    if not 0 < len(role.encode()) <= MAX_NAME_BYTES or "\0" in role:
        raise SettingsProblem(f"A role's name has 1 to {MAX_NAME_BYTES} bytes, which {role[:MAX_NAME_BYTES]!r} has not.")
    if conn.execute("select 1 from pg_roles where rolname = %s", (role,)).fetchone():
        return False
    try:
        conn.execute(sql.SQL("create role {} nologin").format(sql.Identifier(role)))
    except psycopg.errors.InsufficientPrivilege:
        quoted = sql.Identifier(role).as_string(conn)
        raise SettingsProblem(
            f"There is no role {role}, and {conn.info.user} may make none: let an administrator run `create role {quoted} "
            "nologin`, and then run this again."
        ) from None
    return True
