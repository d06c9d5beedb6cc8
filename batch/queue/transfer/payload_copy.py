"""Payloads on their way from one database's spool to the other's, one at a time, each compared with its sha256 there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from batch.queue.postgres.payloads.shared_spool import DamagedPayload, SharedSpool
from batch.queue.spool import Spool
from batch.queue.transfer.row_copy import Report
from batch.queue.transfer.sides import CopyDiffers

_GROUP_PAYLOADS = 100
_GROUP_BYTES = 16 << 20
"""As many, or as large, are committed together."""
_MAX_NAMED = 20
_UNBOUNDED_CACHE_BYTES = 1 << 62


@dataclass
class PayloadCopy:
    """What was copied."""

    count: int = 0
    bytes: int = 0
    missing: int = 0
    """Payloads that rows refer to and that were not there, or not whole, before the move."""
    missing_names: list[str] = field(default_factory=list)
    """The first of them."""

    def miss(self, name: str) -> None:
        self.missing += 1
        self.missing_names = [*self.missing_names, name][:_MAX_NAMED]


def share_payloads(names: Iterable[str], folder: Path, url: str, place: str, report: Report) -> PayloadCopy:
    """Put payloads of the folder where those of the database lie, and read each back from there; the next durable commit there
    puts them on its disk. Raises DiskFull, StoreAway, CopyDiffers.

    `place`: as the setting `payloads` has it. The folder stays as it is: what is on its way has one of its own.
    """
    done = PayloadCopy()
    passing = folder.with_name("moving")
    source, target = Spool(folder), SharedSpool(passing, _without_flushes(url), place=place)
    with closing(target):
        group: dict[str, int] = {}
        for name in names:
            size = _keep(source.location(name), name, target)
            if size is None:
                done.miss(name)
                continue
            group[name] = size
            if len(group) >= _GROUP_PAYLOADS or sum(group.values()) >= _GROUP_BYTES:
                _share_group(group, target, done, report)
        _share_group(group, target, done, report)
    _remove_folder(passing)
    return done


def _keep(path: Path, name: str, target: SharedSpool) -> int | None:
    """Put a file into the target under its name; its size in bytes, None where it is not there or damaged."""
    try:
        with path.open("rb") as file:
            sha256, size = target.keep_file(file)
    except FileNotFoundError:
        return None
    if sha256 == name:
        return size
    target.location(sha256).unlink(missing_ok=True)
    return None


def _share_group(group: dict[str, int], target: SharedSpool, done: PayloadCopy, report: Report) -> None:
    """Commit payloads, and read each back into an empty folder, which compares it with its name."""
    target.share(group)
    for name, size in group.items():
        target.location(name).unlink(missing_ok=True)
        try:
            is_there = target.path(name).exists()
        except DamagedPayload:
            is_there = False
        if not is_there:
            raise CopyDiffers(f"The payload {name} did not arrive whole in the database.")
        target.location(name).unlink(missing_ok=True)
        done.count, done.bytes = done.count + 1, done.bytes + size
        report("payloads", done.count)
    group.clear()


def fetch_payloads(names: Iterable[str], folder: Path, url: str, report: Report) -> PayloadCopy:
    """Bring payloads of the database, or of the bucket that it names, into the folder, and flush all of them at the end. Raises
    DiskFull, StoreAway."""
    done = PayloadCopy()
    with closing(SharedSpool(folder, url, max_cache_bytes=_UNBOUNDED_CACHE_BYTES)) as source:
        for name in names:
            try:
                size = source.path(name).stat().st_size  # compared with its name, wherever it lay
            except (DamagedPayload, FileNotFoundError):
                done.miss(name)
                continue
            done.count, done.bytes = done.count + 1, done.bytes + size
            report("payloads", done.count)
    os.sync()  # one flush for all of them
    return done


def _without_flushes(url: str) -> str:
    """The address for connections whose commits wait for no disk."""
    parts = urlsplit(url)
    if "options=" in parts.query or "pooler=" in parts.query:
        return url
    option = "options=-csynchronous_commit%3Doff"
    return urlunsplit(parts._replace(query=f"{parts.query}&{option}" if parts.query else option))


def _remove_folder(folder: Path) -> None:
    """What the check used, all of which is empty by now; a lock file stays at most."""
    for root, folders, files in os.walk(folder, topdown=False):
        for name in files:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(root, name))
        for name in folders:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(root, name))
    with contextlib.suppress(OSError):
        os.rmdir(folder)
