"""All that the migrations made in a PostgreSQL database, put into a schema of another name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from batch.queue.postgres import schema

_MADE = re.compile(r"(?im)^create (?:or replace )?(table|view|sequence|domain|function|type) (?:if not exists )?([a-z_]+)")
_FUNCTIONS = (
    "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = current_schema()::regnamespace "
    "and p.proname = any(%s)"
)
_RELATIONS = (
    "select c.relname, case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end from pg_class c "
    "where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'v') and c.relname like '\\_reindex\\_%%' "
    "or c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'v', 'S') and c.relname = any(%s)"
)
"""Those that a rebuild of the search index had begun to make, too."""
_TYPES = (
    "select t.typname from pg_type t where t.typnamespace = current_schema()::regnamespace and t.typname = any(%s) "
    "and t.typtype in ('d', 'e')"
)


def made_names() -> dict[str, set[str]]:
    """By what they are, the names of all that the migrations, and what is carried out after them, make."""
    names: dict[str, set[str]] = {"table": {"batch_schema"}}
    for file in Path(schema.__file__).parent.rglob("*.sql"):
        for kind, name in _MADE.findall(file.read_text("utf-8")):
            names.setdefault(kind.lower(), set()).add(name)
    return names


def put_tables_aside(conn: psycopg.Connection[tuple[Any, ...]], name: str) -> None:
    """Within the transaction that goes on, move them into a new schema; others' objects stay where they are."""
    names = made_names()
    aside = sql.Identifier(name)
    conn.execute(sql.SQL("create schema {}").format(aside))
    relations = sorted(names["table"] | names.get("view", set()) | names.get("sequence", set()))
    for relation, kind in conn.execute(_RELATIONS, (relations,)).fetchall():
        statement = sql.SQL(f"alter {kind} {{}} set schema {{}}")
        conn.execute(statement.format(sql.Identifier(relation), aside))
    for (signature,) in conn.execute(_FUNCTIONS, (sorted(names.get("function", set())),)).fetchall():
        conn.execute(sql.SQL("alter function {} set schema {}").format(sql.SQL(signature), aside))
    for (type_name,) in conn.execute(_TYPES, (sorted(names.get("domain", set()) | names.get("type", set())),)).fetchall():
        conn.execute(sql.SQL("alter type {} set schema {}").format(sql.Identifier(type_name), aside))


def has_schema(conn: psycopg.Connection[tuple[Any, ...]], name: str) -> bool:
    """Whether something was put aside under that name."""
    return conn.execute("select 1 from pg_namespace where nspname = %s", (name,)).fetchone() is not None
