"""Writes payloads as parts of 1 MiB: a payload exists once its first part does, which commits with what refers to it.

The other parts of a large one are written before, in short transactions; without a first part nobody sees them, and the
sweeper takes what a crash left of them. Whoever ties a payload to a row locks its first part against the sweeper, which takes
none that is locked and looks again for references once it has a lock itself.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from batch.errors import Unavailable
from batch.queue.postgres.payloads.payload_rows import Connection, PayloadRows
from batch.queue.spool import location_in

PART_BYTES = 1 << 20
_PARTS_A_COMMIT = 16


class PayloadWriter:
    """Of a home: what it writes lies in its spool folder."""

    def __init__(self, rows: PayloadRows, folder: Path) -> None:
        self.rows = rows
        self._folder = folder

    def hold(self, conn: Connection, names: Collection[str]) -> None:
        """In a transaction that refers to payloads: those that the database lacks are written with it, and none goes before it
        commits. Raises Unavailable where bytes are nowhere."""
        present = self.rows.lock_present(conn, sorted(set(names))) if names else set()
        for name in sorted(set(names) - present):
            self._put_rest(conn, name)

    def _put_rest(self, conn: Connection, sha256: str) -> None:
        """Write what is missing of a payload: its first part, and others where `stage` has not."""
        staged = self.rows.touch_staged(conn, sha256)
        try:
            path = location_in(self._folder, sha256)
            with path.open("rb") as file:
                parts = _number_of_parts(path)
                for part in (*(part for part in range(1, parts) if part not in staged), 0):
                    file.seek(part * PART_BYTES)
                    self.rows.put(conn, sha256, part, file.read(PART_BYTES))
        except OSError as error:
            raise Unavailable(
                f"The bytes of the payload {sha256[:12]}… are gone ({error.strerror}): send the request again."
            ) from error

    def stage(self, conn: Connection, sha256: str) -> None:
        """Write a large payload's parts but the first, a few at a time, so that the transaction that refers to it is short."""
        path = location_in(self._folder, sha256)
        parts = _number_of_parts(path)
        if parts == 1 or self.rows.lock_present(conn, [sha256]):
            return
        with path.open("rb") as file:
            for first in range(1, parts, _PARTS_A_COMMIT):
                with conn.transaction():
                    # Not durable: what refers to it is committed later, and takes all before it to the disk.
                    conn.execute(b"set local synchronous_commit = off")
                    for part in range(first, min(parts, first + _PARTS_A_COMMIT)):
                        file.seek(part * PART_BYTES)
                        self.rows.put(conn, sha256, part, file.read(PART_BYTES))


def _number_of_parts(path: Path) -> int:
    return max(1, -(-path.stat().st_size // PART_BYTES))
