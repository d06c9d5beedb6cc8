"""The statements on a payload's rows: its parts in the database, or the row of its object in a bucket."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]

_LOCK_PRESENT = (
    "with parts as (select sha256 from payload where sha256 = any(cast(%(names)s as text[])) and part = 0 "
    "and created_at > '-infinity' order by sha256 for key share), "
    "objects as (select sha256 from payload_object where sha256 = any(cast(%(names)s as text[])) and is_whole "
    "order by sha256 for key share) "
    "select sha256::text from parts union select sha256::text from objects"
)
_TOUCH_STAGED = (
    "update payload set created_at = clock_timestamp() where (sha256, part) in (select sha256, part from payload "
    "where sha256 = %s and part > 0 and created_at > '-infinity' order by part for update) returning part"
)
_PUT = (
    "insert into payload (sha256, part, data, created_at) values (%s, %s, %s, clock_timestamp()) "
    "on conflict (sha256, part) do update set created_at = clock_timestamp(), data = excluded.data"
)
_DISCARD = "insert into payload_garbage (place, key) values (%s, %s) on conflict do nothing"


@dataclass(frozen=True, slots=True)
class PayloadObject:
    """Where an object lies."""

    place: str
    """The address that the setting `payloads` named when it was put there."""
    key: str
    is_whole: bool = True


def new_key(sha256: str) -> str:
    """An object's name that no other ever has, so that what is deleted can never be what somebody keeps anew."""
    return f"{sha256[:2]}/{sha256}-{secrets.token_hex(4)}"


class PayloadRows:
    """As whoever may read and write the tables sends them."""

    def lock_present(self, conn: Connection, names: list[str]) -> set[str]:
        """Those of the payloads that are whole, which stay until the transaction is over."""
        return {row[0] for row in conn.execute(_LOCK_PRESENT, {"names": names})}

    def touch_staged(self, conn: Connection, sha256: str) -> set[int]:
        """Which parts behind the first are there; as if they had been put in now."""
        # Touched, not only locked: the sweeper looks again at the age of what it had to wait for.
        return {row[0] for row in conn.execute(_TOUCH_STAGED, (sha256,))}

    def touch(self, conn: Connection, names: list[str]) -> None:
        """As if these had been put in now: for a minute every worker may read them."""
        for table in ("payload", "payload_object"):
            conn.execute(
                f"update {table} set created_at = clock_timestamp() where sha256 in (select sha256 from {table} "
                "where sha256 = any(cast(%s as text[])) order by sha256 for no key update)".encode(),
                (names,),
            )

    def put(self, conn: Connection, sha256: str, part: int, data: bytes) -> None:
        """Write a part."""
        conn.execute(_PUT, (sha256, part, data))

    def read(self, conn: Connection, sha256: str, part: int) -> bytes | None:
        """A part; None where there is none."""
        row = conn.execute("select data from payload where sha256 = %s and part = %s", (sha256, part)).fetchone()
        return None if row is None else row[0]

    def mark_damaged(self, conn: Connection, sha256: str) -> None:
        """What is read is not what was written: whoever keeps the same bytes again writes them anew."""
        conn.execute("update payload set created_at = '-infinity' where sha256 = %s", (sha256,))
        conn.execute("update payload_object set is_whole = false where sha256 = %s", (sha256,))

    def begin_object(self, conn: Connection, sha256: str, place: str) -> PayloadObject:
        """Before an object is written: where it goes, or is already. Its row comes first, so that nothing lies in a bucket
        that no row knows of."""
        row = conn.execute(
            "insert into payload_object (sha256, place, key) values (%s, %s, %s) "
            "on conflict (sha256) do update set created_at = clock_timestamp() returning place, key, is_whole",
            (sha256, place, new_key(sha256)),
        ).fetchone()
        assert row is not None
        return PayloadObject(*row)

    def finish_object(self, conn: Connection, sha256: str, written: PayloadObject) -> bool:
        """All of an object is there. False where the sweeper took its row meanwhile: then the object goes, too."""
        with conn.transaction():
            is_known = conn.execute(
                "update payload_object set is_whole = true, created_at = clock_timestamp() "
                "where sha256 = %s and place = %s and key = %s",
                (sha256, written.place, written.key),
            ).rowcount
            if not is_known:
                conn.execute(_DISCARD, (written.place, written.key))
        return bool(is_known)

    def find_object(self, conn: Connection, sha256: str) -> PayloadObject | None:
        """Where a whole object lies."""
        row = conn.execute("select place, key from payload_object where sha256 = %s and is_whole", (sha256,)).fetchone()
        return None if row is None else PayloadObject(*row)
