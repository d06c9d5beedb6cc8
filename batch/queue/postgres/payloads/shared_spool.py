"""Payloads of homes that share a database: under their sha256 in the database or an object store, with the spool folder as a
cache."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from batch.database_address import IN_DATABASE
from batch.errors import BatchError, DiskFull, SettingsProblem
from batch.queue.postgres.liveness.watched_connection import Connection, WatchedConnection
from batch.queue.postgres.payloads import sweeper
from batch.queue.postgres.payloads.payload_rows import PayloadRows
from batch.queue.postgres.payloads.payload_writer import PayloadWriter
from batch.queue.spool import Spool, SpoolWriter
from batch.queue.store import StoreAway

if TYPE_CHECKING:
    from batch.queue.postgres.payloads.payload_bucket import PayloadBucket

T = TypeVar("T")

logger = logging.getLogger("batch.queue")

MAX_CACHE_BYTES = 4 << 30
"""What lies in the folder beyond this goes, what was used longest ago first; the database has it."""
_YOUNG_S = 600.0
"""What was used so lately is not taken from the folder: a job may be reading it, or about to be submitted."""
_UNUSED_S = 86400.0
"""What nobody here has used for so long is not kept, as its job may be gone."""
_SWEEP_EVERY_BYTES = 64 << 20
_MAX_VERIFIED = 100_000
_NAMES_A_SWEEP = 200
_FETCHES = 2
"""What arrives damaged is fetched once more."""


class DamagedPayload(BatchError):
    """Bytes that are not what their sha256 says, also when they were fetched again."""

    sentence = "A payload is damaged: send the file or request again."


class SharedSpool(Spool):
    """A Spool whose bytes get into the database with the job that refers to them, and into the folder once somebody here reads
    them. Methods may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        place: str = IN_DATABASE,
        rows: PayloadRows | None = None,
        max_cache_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        """`place`: where new payloads go, an address s3://BUCKET/PREFIX or `IN_DATABASE`; where the others lie, the database
        knows. `rows`: the statements that this process may send, where it may not send all."""
        super().__init__(folder)
        self._rows = rows or PayloadRows()
        self._parts = PayloadWriter(self._rows, folder)
        self._buckets: dict[str, PayloadBucket] = {}
        self._bucket = None if place == IN_DATABASE else self._bucket_at(place)
        self._max_cache_bytes = max_cache_bytes
        self._new_bytes = _SWEEP_EVERY_BYTES
        self._verified: dict[str, tuple[int, int]] = {}
        """Inode and size, by name, of files whose sha256 this process knows to be right."""
        self._connection = WatchedConnection(url)

    def path(self, sha256: str) -> Path:
        """Where the bytes lie, whole and verified, fetched if need be; where they would lie if nobody has them. Raises
        StoreAway, DiskFull and DamagedPayload."""
        path = self.location(sha256)
        if not self._is_usable(sha256, path):
            self._fetch(sha256, path)
        return path

    def make_durable(self, sha256: str) -> str:
        """Nothing to do: what is committed with a job is on the database's disk."""
        return sha256

    async def keep_stream(self, chunks: AsyncIterator[bytes], *, durable: bool = False) -> tuple[str, int]:
        """As `keep_chunks`, from an upload as it arrives, in bounded memory."""
        with super()._writer(durable=False) as writer:
            async for chunk in chunks:
                writer.write(chunk)
        await asyncio.to_thread(self._publish, writer.sha256, writer.size)
        return writer.sha256, writer.size

    @contextlib.contextmanager
    def _writer(self, durable: bool) -> Iterator[SpoolWriter]:
        with super()._writer(durable=False) as writer:
            yield writer
        self._publish(writer.sha256, writer.size)

    def _place(self, temporary: Path, target: Path, durable: bool) -> None:
        # What lies there may be damaged; what comes is not.
        with self._lock(fcntl.LOCK_SH):
            target.parent.mkdir(mode=0o700, exist_ok=True)
            os.replace(temporary, target)
            self._remember(target.name, target.stat())

    def _publish(self, sha256: str, size: int) -> None:
        """Write what would make the transaction that refers to the bytes a long one."""
        if self._bucket is None:
            self._with_connection(partial(self._parts.stage, sha256=sha256))
        else:
            self._put_object(sha256, self._bucket)
        self._make_room(size)

    def _put_object(self, sha256: str, bucket: PayloadBucket) -> None:
        is_there = False
        while not is_there:
            written = self._with_connection(partial(self._rows.begin_object, sha256=sha256, place=bucket.place))
            if written.is_whole and self._bucket_at(written.place).has(written.key):
                return
            self._bucket_at(written.place).put(written.key, self.location(sha256))
            is_there = self._with_connection(partial(self._rows.finish_object, sha256=sha256, written=written))

    def _bucket_at(self, place: str) -> PayloadBucket:
        """Raises SettingsProblem where the package for it is not installed."""
        if place not in self._buckets:
            from batch.queue.postgres.payloads.payload_bucket import PayloadBucket  # here, as most need it not

            self._buckets[place] = PayloadBucket(place)
        return self._buckets[place]

    def share(self, names: Collection[str]) -> None:
        """Let other machines read these though no job refers to them yet. Raises StoreAway."""

        def work(conn: Connection) -> None:
            with conn.transaction():
                self._parts.hold(conn, names)
                self._rows.touch(conn, sorted(names))

        if names:
            self._with_connection(work)

    # -- the folder

    def _is_usable(self, sha256: str, path: Path) -> bool:
        """Whether the folder has the bytes. A power cut or a disk may have damaged them, so each process looks once."""
        try:
            os.utime(path)
            status = path.stat()
            if self._verified.get(sha256) == (status.st_ino, status.st_size):
                return True
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                    self._remember(sha256, os.fstat(file.fileno()))
                    return True
            logger.warning("%s is damaged: it is fetched again", path)
            path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DiskFull(f"{path} cannot be read ({error.strerror}): look after its disk.") from error
        return False

    def _remember(self, sha256: str, status: os.stat_result) -> None:
        self._verified[sha256] = (status.st_ino, status.st_size)
        if len(self._verified) > _MAX_VERIFIED:
            with contextlib.suppress(KeyError, RuntimeError, StopIteration):  # another thread does the same
                del self._verified[next(iter(self._verified))]

    def _fetch(self, sha256: str, path: Path) -> None:
        """Bring bytes into the folder, if anybody has them. Raises DamagedPayload where they are not what their name says."""
        descriptor, name = tempfile.mkstemp(dir=self.folder / "tmp")
        try:
            for _ in range(_FETCHES):
                digest = self._copy(sha256, descriptor)
                if digest is None:
                    return  # whoever looks finds no file
                if digest == sha256:
                    self._make_room(os.fstat(descriptor).st_size)
                    self._place(Path(name), path, durable=False)
                    return
            logger.error("the payload %s is damaged where it is kept: its bytes have another sha256", sha256)
            self._mark_damaged(sha256)
            raise DamagedPayload(f"The payload {sha256[:12]}… is damaged where it is kept: send the file or request again.")
        except OSError as error:
            raise DiskFull(f"{self.folder} cannot be written ({error.strerror}): look after its disk.") from error
        finally:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def _copy(self, sha256: str, descriptor: int) -> str | None:
        """Write the bytes that are kept under a name into a file; the sha256 of what came, None where nothing is kept."""
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        digest, is_empty = hashlib.sha256(), True
        for data in self._kept_parts(sha256):
            is_empty = False
            digest.update(data)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        return None if is_empty else digest.hexdigest()

    def _kept_parts(self, sha256: str) -> Iterator[bytes]:
        """What the database has of a payload, part by part: a film need not be in memory, nor hold up other payloads."""
        for part in itertools.count():
            data = self._with_connection(partial(self._rows.read, sha256=sha256, part=part))
            if data is None:
                break
            yield data
        if part == 0 and (kept := self._with_connection(partial(self._rows.find_object, sha256=sha256))):
            yield from self._bucket_at(kept.place).read(kept.key)

    def _mark_damaged(self, sha256: str) -> None:
        self._with_connection(partial(self._rows.mark_damaged, sha256=sha256))

    def _make_room(self, size: int) -> None:
        """Count bytes that came into the folder; now and then take from it what was used longest ago, down to its bound."""
        self._new_bytes += size
        if self._new_bytes <= _SWEEP_EVERY_BYTES:
            return
        self._new_bytes = 0
        files = []
        for name in super().names():
            with contextlib.suppress(FileNotFoundError):
                status = self.location(name).stat()
                files.append((status.st_mtime, status.st_size, name))
        excess, now = sum(size for _, size, _ in files) - self._max_cache_bytes, time.time()
        for used_at, size, name in sorted(files):
            unused_s = now - used_at
            if unused_s < _YOUNG_S or (excess <= 0 and unused_s < _UNUSED_S):
                return
            super().remove(name, older_than=_YOUNG_S)
            excess -= size

    # -- the sweeper

    def remove(self, sha256: str, *, older_than: float) -> bool:
        """Delete bytes that nobody refers to, unless they were put in again within `older_than` seconds."""
        return sha256 in self.remove_unreferenced([sha256], lambda name: False, older_than=older_than)

    def remove_unreferenced(self, names: Sequence[str], is_referred: Callable[[str], bool], *, older_than: float) -> list[str]:
        """Delete those that nobody refers to, as the database says in the same transaction, unless they were put in within
        `older_than` seconds; those that are gone. None go while another process sweeps."""
        gone: list[str] = []
        for first in range(0, len(names), _NAMES_A_SWEEP):
            some = names[first : first + _NAMES_A_SWEEP]
            if not self._with_connection(partial(sweeper.sweep, names=some, age_s=older_than)):
                break
            remaining = self._with_connection(partial(sweeper.remaining_names, names=some))
            remove_file = super().remove
            gone += [name for name in some if name not in remaining and remove_file(name, older_than=older_than)]
        self._delete_garbage()
        return gone

    def _delete_garbage(self) -> None:
        """Delete objects that no row refers to any more, outside of any transaction: a bucket may take its time."""
        try:
            while objects := self._with_connection(partial(sweeper.garbage, limit=_NAMES_A_SWEEP)):
                place = objects[0].place
                keys = [one.key for one in objects if one.place == place]
                self._bucket_at(place).delete(keys)
                self._with_connection(partial(sweeper.forget_garbage, place=place, keys=keys))
        except (StoreAway, SettingsProblem) as error:  # they stay known
            logger.warning("objects that nothing refers to stay for now: %s", error.message)

    def unreferenced(self, slice: str, is_referred: Callable[[str], bool], *, older_than: float) -> Iterator[list[str]]:
        """Names in a slice of the database and the folder that nobody refers to, some hundred at a time."""
        look = partial(sweeper.unreferenced_names, prefix=slice, age_s=older_than, limit=_NAMES_A_SWEEP)
        after = ""
        while names := self._with_connection(partial(look, after=after)):
            yield names
            after = names[-1]
        yield [name for name in super().names(slice) if not is_referred(name)]

    def slices(self) -> list[str]:
        """What the names in the database and the folder may begin with: two digits."""
        return [f"{number:02x}" for number in range(256)]

    def names(self, slice: str | None = None) -> Iterator[str]:
        """Every sha256 in the database and the folder, or in one slice of them."""
        for prefix in [slice] if slice is not None else self.slices():
            kept = self._with_connection(partial(sweeper.kept_names, prefix=prefix))
            yield from {*super().names(prefix), *kept}

    # -- the database

    def _with_connection(self, work: Callable[[Connection], T]) -> T:
        return self._connection.run(work, tries=2)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
