"""Deletes payloads that nothing refers to: one sweeper at a time in all of a database, in short transactions."""

from __future__ import annotations

from collections.abc import Sequence

from batch.queue.postgres.payloads.payload_rows import Connection, PayloadObject
from batch.queue.postgres.schema import ADVISORY_CLASS

_PARTS_A_STEP = 128
_SWEEPER = 4
"""Second half of the advisory lock."""

_UNREFERENCED = "not exists (select 1 from blob where blob.sha256 = {table}.sha256)"
_WITHOUT_FIRST = "not exists (select 1 from payload f where f.sha256 = p.sha256 and f.part = 0)"
_OLD = "created_at <= clock_timestamp() - make_interval(secs => %(age_s)s)"
_LOCKED = (
    "select sha256::text from {table} where sha256 = any(cast(%(names)s as text[])) and {more} "
    f"and {_OLD} order by sha256 for update skip locked"
)


def unreferenced_names(conn: Connection, prefix: str, *, age_s: float, after: str, limit: int) -> list[str]:
    """Payloads behind `after` whose names begin with `prefix`, that nothing refers to and that are older than `age_s`, by
    name; what a crash left of one is one, too."""
    tables = " union ".join(
        f"select distinct sha256 from {table} where sha256 > %(after)s and sha256 >= %(low)s and sha256 < %(high)s "
        f"and {_OLD} and {_UNREFERENCED.format(table=table)}"
        for table in ("payload", "payload_object")
    )
    values = {"after": after, "low": prefix, "high": prefix + "g", "age_s": age_s, "limit": limit}
    statement = f"select sha256::text from ({tables}) as names order by sha256 limit %(limit)s"
    return [row[0] for row in conn.execute(statement.encode(), values)]


def sweep(conn: Connection, names: Sequence[str], *, age_s: float) -> bool:
    """Delete those of up to some hundred payloads that nothing refers to and that are older than `age_s`; those in a bucket
    become garbage. False where another sweeper is at work."""
    values = {"names": list(names), "age_s": age_s, "limit": _PARTS_A_STEP}
    with conn.transaction():
        if not begin(conn):
            return False
        parts = conn.execute(_LOCKED.format(table="payload", more="part = 0").encode(), values).fetchall()
        objects = conn.execute(_LOCKED.format(table="payload_object", more="true").encode(), values).fetchall()
        # Statements of their own: they see the references of those who held the locks before.
        conn.execute(
            "delete from payload where part = 0 and sha256 = any(cast(%s as text[])) and "
            + _UNREFERENCED.format(table="payload"),
            ([row[0] for row in parts],),
        )
        conn.execute(
            "with gone as (delete from payload_object where sha256 = any(cast(%s as text[])) and "
            + _UNREFERENCED.format(table="payload_object")
            + " returning place, key) "
            "insert into payload_garbage (place, key) select place, key from gone on conflict do nothing",
            ([row[0] for row in objects],),
        )
    while True:
        with conn.transaction():
            if not begin(conn):
                return False
            loose = conn.execute(
                "select sha256::text, part from payload p "
                f"where sha256 = any(cast(%(names)s as text[])) and part > 0 and {_OLD} and {_WITHOUT_FIRST} "
                "order by sha256, part limit %(limit)s for update skip locked".encode(),
                values,
            ).fetchall()
            # Again a statement of its own: it sees the first part that was committed while the lock was waited for.
            conn.execute(
                "delete from payload p using unnest(cast(%s as text[]), cast(%s as integer[])) as l (sha256, part) "
                f"where p.sha256 = l.sha256 and p.part = l.part and {_WITHOUT_FIRST}".encode(),
                ([row[0] for row in loose], [row[1] for row in loose]),
            )
        if len(loose) < _PARTS_A_STEP:
            return True


def begin(conn: Connection) -> bool:
    """Whether this transaction is the sweeper's."""
    conn.execute("set local synchronous_commit = off")
    row = conn.execute("select pg_try_advisory_xact_lock(%s, %s)", (ADVISORY_CLASS, _SWEEPER)).fetchone()
    return row is not None and bool(row[0])


def remaining_names(conn: Connection, names: Sequence[str]) -> set[str]:
    """Those of the payloads of which the database still has something."""
    statement = (
        "select distinct sha256::text from payload where sha256 = any(cast(%(names)s as text[])) "
        "union select sha256::text from payload_object where sha256 = any(cast(%(names)s as text[]))"
    )
    return {row[0] for row in conn.execute(statement, {"names": list(names)})}


def kept_names(conn: Connection, prefix: str) -> set[str]:
    """Every whole payload whose name begins with `prefix`."""
    statement = (
        "select sha256::text from payload where part = 0 and sha256 >= %(low)s and sha256 < %(high)s "
        "union select sha256::text from payload_object where is_whole and sha256 >= %(low)s and sha256 < %(high)s"
    )
    return {row[0] for row in conn.execute(statement, {"low": prefix, "high": prefix + "g"})}


def garbage(conn: Connection, limit: int) -> list[PayloadObject]:
    """Objects that are to be deleted."""
    rows = conn.execute("select place, key from payload_garbage order by place, key limit %s", (limit,))
    return [PayloadObject(*row) for row in rows]


def forget_garbage(conn: Connection, place: str, keys: Sequence[str]) -> None:
    """These objects are deleted."""
    conn.execute("delete from payload_garbage where place = %s and key = any(%s)", (place, list(keys)))
