"""The spool: payload bytes under their sha256, shared by identical content, gone when no job refers to them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from batch.durable_folder import make_durable_folder, put_on_disk
from batch.errors import DiskFull

_NAME = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


def is_spool_name(name: str) -> bool:
    """Whether a file of the spool may have that name."""
    return _NAME.fullmatch(name) is not None


def location_in(folder: Path, sha256: str) -> Path:
    """Where the bytes of a name lie in a spool folder. Raises ValueError for a name that is no sha256, as it could leave the
    folder."""
    if not is_spool_name(sha256):
        raise ValueError(f"not a sha256: {sha256[:80]!r}")
    return folder / sha256[:2] / sha256


class Spool:
    """A folder of files named by sha256, two levels deep. Safe for several processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            make_durable_folder(folder, 0o700)
            (folder / "tmp").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DiskFull(
                f"{folder} cannot be a folder ({error.strerror}): move away what is there, and start again."
            ) from error

    def path(self, sha256: str) -> Path:
        """Where the bytes lie. A name that is no sha256 is refused, as it could leave the folder."""
        return self.location(sha256)

    def location(self, sha256: str) -> Path:
        """Where the bytes lie in the folder if they do; `path` may bring them there."""
        return location_in(self.folder, sha256)

    def share(self, names: Collection[str]) -> None:
        """Let workers read these though no job refers to them yet; nothing to do where all have the same folder."""

    def read(self, sha256: str) -> bytes:
        return self.path(sha256).read_bytes()

    def keep(self, data: bytes, *, durable: bool = False) -> str:
        """Put bytes in; returns their sha256. `durable` makes them survive a power cut. Raises DiskFull."""
        return self.keep_chunks((data,), durable=durable)[0]

    def keep_file(self, source: BinaryIO, *, durable: bool = True) -> tuple[str, int]:
        """Copy an open file in; returns sha256 and size in bytes."""
        return self.keep_chunks(iter(lambda: source.read(_CHUNK_BYTES), b""), durable=durable)

    def keep_chunks(self, chunks: Iterable[bytes], *, durable: bool = False) -> tuple[str, int]:
        with self._writer(durable) as writer:
            for chunk in chunks:
                writer.write(chunk)
        return writer.sha256, writer.size

    async def keep_stream(self, chunks: AsyncIterator[bytes], *, durable: bool = False) -> tuple[str, int]:
        """As `keep_chunks`, from an upload as it arrives, in bounded memory."""
        with self._writer(durable) as writer:
            async for chunk in chunks:
                writer.write(chunk)
        return writer.sha256, writer.size

    def make_durable(self, sha256: str) -> str:
        """Flush bytes that are in the spool already to the disk; returns their name. Raises DiskFull."""
        path = self.location(sha256)
        with _disk_trouble(self.folder):
            for name in (path, path.parent, self.folder):
                put_on_disk(name)
        return sha256

    @contextlib.contextmanager
    def _writer(self, durable: bool) -> Iterator[SpoolWriter]:
        with _disk_trouble(self.folder):
            descriptor, name = tempfile.mkstemp(dir=self.folder / "tmp")
        writer = SpoolWriter(descriptor, self.folder)
        try:
            with open(descriptor, "wb", buffering=0):
                yield writer
                if durable:
                    with _disk_trouble(self.folder):
                        os.fsync(descriptor)
            writer.sha256 = writer.hash.hexdigest()
            with _disk_trouble(self.folder):
                self._place(Path(name), self.location(writer.sha256), durable)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise

    def _place(self, temporary: Path, target: Path, durable: bool) -> None:
        # Shared lock: `remove` holds it exclusively, so a file seen here is not taken away before its time is renewed.
        with self._lock(fcntl.LOCK_SH):
            try:
                os.utime(target)
                if not durable:
                    temporary.unlink()
                    return
            except FileNotFoundError:
                target.parent.mkdir(mode=0o700, exist_ok=True)
            os.replace(temporary, target)
        if durable:
            for folder in (target.parent, self.folder):
                put_on_disk(folder)

    def remove(self, sha256: str, *, older_than: float) -> bool:
        """Delete a file that nobody refers to, unless it was put in again within `older_than` seconds."""
        path = self.location(sha256)
        with self._lock(fcntl.LOCK_EX):
            try:
                if time.time() - path.stat().st_mtime < older_than:
                    return False
                path.unlink()
            except FileNotFoundError:
                pass
        return True

    def remove_unreferenced(self, names: Sequence[str], is_referred: Callable[[str], bool], *, older_than: float) -> list[str]:
        """Delete those of the files that nobody refers to, unless they were put in again within `older_than` seconds; those
        that are gone."""
        return [name for name in names if not is_referred(name) and self.remove(name, older_than=older_than)]

    def unreferenced(self, slice: str, is_referred: Callable[[str], bool], *, older_than: float) -> Iterator[list[str]]:
        """Names in a slice of the spool that nobody refers to, some at a time; they may be younger than `older_than`."""
        yield [name for name in self.names(slice) if not is_referred(name)]

    def slices(self) -> list[str]:
        """What the names in the spool begin with: two digits, 256 slices at most."""
        return sorted(folder.name for folder in self.folder.iterdir() if len(folder.name) == 2 and folder.is_dir())

    def names(self, slice: str | None = None) -> Iterator[str]:
        """Every sha256 in the spool, or in one slice of it."""
        for folder in (self.folder / name for name in (self.slices() if slice is None else [slice])):
            with contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(folder):
                    if _NAME.fullmatch(entry.name):
                        yield entry.name

    def delete_temporary(self, *, older_than: float) -> None:
        """Remove what a killed process left half-written."""
        for entry in os.scandir(self.folder / "tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - entry.stat().st_mtime >= older_than:
                    os.unlink(entry.path)

    def close(self) -> None:
        """Let go of what it holds: nothing."""

    @contextlib.contextmanager
    def _lock(self, mode: int) -> Iterator[None]:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, mode)
            yield
        finally:
            os.close(descriptor)


class SpoolWriter:
    """An open file on its way into the spool; `sha256` is known once it is there."""

    sha256 = ""

    def __init__(self, descriptor: int, folder: Path) -> None:
        self.descriptor = descriptor
        self.folder = folder
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        self.hash.update(chunk)
        self.size += len(chunk)
        view = memoryview(chunk)
        with _disk_trouble(self.folder):
            while view:
                view = view[os.write(self.descriptor, view) :]


@contextlib.contextmanager
def _disk_trouble(folder: Path) -> Iterator[None]:
    """What the disk refuses is a DiskFull; what the chunks' own source raises is not."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull() from error
        raise DiskFull(f"{folder} cannot be written ({error.strerror}): look after its disk.") from error
