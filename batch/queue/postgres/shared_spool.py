"""Payloads in Postgres, for homes that share nothing else: in parts, under their sha256, with the spool folder as a cache."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from batch.errors import DiskFull
from batch.queue.postgres.connection_info import connect
from batch.queue.postgres.error_mapping import is_connection_lost, to_batch_error
from batch.queue.spool import Spool, SpoolWriter

T = TypeVar("T")

PART_BYTES = 1 << 20
MAX_CACHE_BYTES = 4 << 30
"""What lies in the folder beyond this goes, what was used longest ago first; the database has it."""
_YOUNG_S = 600.0
"""What was used so lately is not taken from the folder: a job may be reading it."""
_SWEEP_EVERY_BYTES = 256 << 20


class SharedSpool(Spool):
    """A Spool whose bytes are in the database before the job that refers to them is, and in the folder once somebody here
    reads them. Methods may be called from any thread."""

    def __init__(self, folder: Path, url: str, *, max_cache_bytes: int = MAX_CACHE_BYTES) -> None:
        super().__init__(folder)
        self._url = url
        self._max_cache_bytes = max_cache_bytes
        self._fetched_bytes = _SWEEP_EVERY_BYTES
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._lock_of_connection = threading.Lock()

    def path(self, sha256: str) -> Path:
        """Where the bytes lie, fetched from the database if need be; where they would lie if that has none. Raises StoreAway,
        DiskFull."""
        path = self.location(sha256)
        try:
            os.utime(path)
        except FileNotFoundError:
            self._fetch(sha256, path)
        return path

    def make_durable(self, sha256: str) -> str:
        """Nothing to do: what the database holds is on its disk."""
        return sha256

    async def keep_stream(self, chunks: AsyncIterator[bytes], *, durable: bool = False) -> tuple[str, int]:
        """As `keep_chunks`, from an upload as it arrives, in bounded memory."""
        with super()._writer(durable=False) as writer:
            async for chunk in chunks:
                writer.write(chunk)
        await asyncio.to_thread(self._upload, writer.sha256)
        return writer.sha256, writer.size

    @contextlib.contextmanager
    def _writer(self, durable: bool) -> Iterator[SpoolWriter]:
        with super()._writer(durable=False) as writer:
            yield writer
        self._upload(writer.sha256)

    def _upload(self, sha256: str) -> None:
        """Bytes of the folder go to the database, unless it has them: then they are as if put in now."""

        def work(conn: psycopg.Connection[tuple[Any, ...]]) -> None:
            with conn.transaction(), self.location(sha256).open("rb") as file:
                if self._touch(conn, sha256):
                    return
                for part, data in enumerate(iter(lambda: file.read(PART_BYTES), b"")):
                    self._write_part(conn, sha256, part, data)
                if file.tell() == 0:
                    self._write_part(conn, sha256, 0, b"")

        self._with_connection(work)

    def _fetch(self, sha256: str, path: Path) -> None:
        """Bring bytes into the folder, if the database has them and they are what their name says."""
        descriptor, name = tempfile.mkstemp(dir=self.folder / "tmp")

        def work(conn: psycopg.Connection[tuple[Any, ...]]) -> str | None:
            digest, part = hashlib.sha256(), 0
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            # Part by part: a film need not be in memory.
            while (data := self._read_part(conn, sha256, part)) is not None:
                digest.update(data)
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                part += 1
            return digest.hexdigest() if part else None

        try:
            found = self._with_connection(work)
            if found != sha256:
                return  # nothing, or not whole: whoever looks finds no file
            self._fetched_bytes += os.fstat(descriptor).st_size
            if self._fetched_bytes > _SWEEP_EVERY_BYTES:
                self._fetched_bytes = 0
                self._shrink()
            self._place(Path(name), path, durable=False)
        except OSError as error:
            raise DiskFull(f"{self.folder} cannot be written ({error.strerror}): look after its disk.") from error
        finally:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    # -- statements, which a worker may not send as they are

    def _touch(self, conn: psycopg.Connection[tuple[Any, ...]], sha256: str) -> bool:
        """As if put in now; False where the database has no such bytes."""
        return bool(conn.execute("update payload set created_at = now() where sha256 = %s", (sha256,)).rowcount)

    def _write_part(self, conn: psycopg.Connection[tuple[Any, ...]], sha256: str, part: int, data: bytes) -> None:
        conn.execute(
            "insert into payload (sha256, part, data, created_at) values (%s, %s, %s, now()) "
            "on conflict (sha256, part) do update set created_at = now()",
            (sha256, part, data),
        )

    def _read_part(self, conn: psycopg.Connection[tuple[Any, ...]], sha256: str, part: int) -> bytes | None:
        row = conn.execute("select data from payload where sha256 = %s and part = %s", (sha256, part)).fetchone()
        return None if row is None else row[0]

    def _shrink(self) -> None:
        """Take from the folder what was used longest ago, down to its bound."""
        files = []
        for slice in super().slices():
            for name in super().names(slice):
                with contextlib.suppress(FileNotFoundError):
                    status = self.location(name).stat()
                    files.append((status.st_mtime, status.st_size, name))
        excess = sum(size for _, size, _ in files) - self._max_cache_bytes
        for used_at, size, name in sorted(files):
            if excess <= 0 or time.time() - used_at < _YOUNG_S:
                return
            super().remove(name, older_than=_YOUNG_S)
            excess -= size

    def remove(self, sha256: str, *, older_than: float) -> bool:
        """Delete bytes that nobody refers to, unless they were put in again within `older_than` seconds."""

        def work(conn: psycopg.Connection[tuple[Any, ...]]) -> bool:
            # All parts have one time, so that they go together or not at all.
            conn.execute(
                "delete from payload where sha256 = %s and created_at <= now() - make_interval(secs => %s)",
                (sha256, older_than),
            )
            return not conn.execute("select 1 from payload where sha256 = %s limit 1", (sha256,)).fetchall()

        if not self._with_connection(work):
            return False
        with contextlib.suppress(FileNotFoundError):
            super().remove(sha256, older_than=0.0)
        return True

    def slices(self) -> list[str]:
        """What the names in the database and the folder begin with: two digits, 256 slices at most."""
        rows = self._with_connection(lambda conn: conn.execute("select distinct left(sha256::text, 2) from payload").fetchall())
        return sorted({*super().slices(), *(str(row[0]) for row in rows)})

    def names(self, slice: str | None = None) -> Iterator[str]:
        """Every sha256 in the database and the folder, or in one slice of them."""
        for prefix in [slice] if slice is not None else self.slices():
            rows = self._with_connection(
                lambda conn, prefix=prefix: conn.execute(  # type: ignore[misc]
                    "select sha256 from payload where part = 0 and sha256 >= %s and sha256 < %s", (prefix, prefix + "g")
                ).fetchall()
            )
            yield from {*super().names(prefix), *(str(row[0]) for row in rows)}

    def _with_connection(self, work: Callable[[psycopg.Connection[tuple[Any, ...]]], T]) -> T:
        with self._lock_of_connection:
            for is_last in (False, True):
                try:
                    if self._connection is None or self._connection.closed:
                        self._connection = connect(self._url)
                    return work(self._connection)
                except psycopg.Error as error:
                    if is_last or not is_connection_lost(error):
                        raise to_batch_error(error) from error
                    if self._connection is not None:
                        self._connection.close()
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Hang up."""
        with self._lock_of_connection:
            if self._connection is not None:
                self._connection.close()
