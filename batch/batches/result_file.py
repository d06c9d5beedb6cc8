"""A result file that grows line by line: what is accounted for in the database stands on the disk, the rest is cut off."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from batch.batches.batch_store import BatchStore
from batch.durable_folder import make_durable_folder, put_on_disk
from batch.errors import DiskFull
from batch.queue.store import Store

ENDINGS = (".output.jsonl", ".errors.jsonl")


class ResultFile:
    """One growing file. Blocking; one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, lines: Sequence[bytes], accounted_bytes: int) -> int:
        """Write lines behind the first `accounted_bytes`, flush them to the disk; returns the file's new size in bytes.

        What stood behind those bytes was written by a process that died before it could account for it. Raises DiskFull.
        """
        if not lines:
            return accounted_bytes
        try:
            make_durable_folder(self.path.parent, 0o700)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.ftruncate(descriptor, accounted_bytes)
                data = memoryview(b"".join(lines))
                at = accounted_bytes
                while data:
                    size = os.pwrite(descriptor, data, at)
                    data, at = data[size:], at + size
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if accounted_bytes == 0:
                put_on_disk(self.path.parent)
        except OSError as error:
            raise DiskFull(f"{self.path} cannot be written ({error.strerror}): free some space on its disk.") from error
        return at

    def has(self, accounted_bytes: int) -> bool:
        """Whether the accounted bytes stand in the file."""
        try:
            return self.path.stat().st_size >= accounted_bytes
        except FileNotFoundError:
            return accounted_bytes == 0

    def cut(self, accounted_bytes: int) -> None:
        """Drop what stands behind the accounted bytes. Raises DiskFull."""
        try:
            if self.path.exists() and self.path.stat().st_size > accounted_bytes:
                os.truncate(self.path, accounted_bytes)
        except OSError as error:
            raise DiskFull(f"{self.path} cannot be written ({error.strerror}): look after its disk.") from error

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)


def remove_all(folder: Path) -> None:
    """Delete every growing file."""
    for ending in ENDINGS:
        for path in folder.glob(f"*{ending}"):
            ResultFile(path).remove()


def remove_left_over(folder: Path, store: Store) -> int:
    """Delete growing files of batches that have ended: a service died between a batch's end and that. Returns how many."""
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        return 0
    # After the folder was listed: whose file lay there then and is not live by now has ended.
    live = {batch.id for batch in BatchStore(store).live()}
    left_over = [name for name in names if name.endswith(ENDINGS) and name.partition(".")[0] not in live]
    for name in left_over:
        ResultFile(folder / name).remove()
    return len(left_over)
