"""Payloads on their way from one database's spool to the other's, one at a time, each compared with its sha256 there."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from batch.queue.postgres.payloads.shared_spool import SharedSpool
from batch.queue.spool import Spool
from batch.queue.transfer.row_copy import Report
from batch.queue.transfer.sides import CopyDiffers

_CHUNK_BYTES = 1 << 20
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


def share_payloads(names: Iterable[str], folder: Path, url: str, report: Report) -> PayloadCopy:
    """Put payloads of the folder into the database, and read each back from there; the next durable commit there puts them on
    its disk. Raises DiskFull, StoreAway, CopyDiffers."""
    done = PayloadCopy()
    checked = folder.with_name("moving")
    url = _without_flushes(url)
    source, target, check = Spool(folder), SharedSpool(folder, url), SharedSpool(checked, url)
    with contextlib.closing(target), contextlib.closing(check):
        for name in names:
            path = source.location(name)
            if _sha256_of(path) != name:
                done.miss(name)
                continue
            with path.open("rb") as file:
                _, size = target.keep_file(file)
            target.share([name])  # the row that refers to it is copied by itself
            arrived = check.path(name)  # fetched, and compared with its name
            if not arrived.exists():
                raise CopyDiffers(f"The payload {name} did not arrive whole in the database: nothing was moved.")
            arrived.unlink()
            done.count, done.bytes = done.count + 1, done.bytes + size
            report("payloads", done.count)
    _remove_folder(checked)
    return done


def fetch_payloads(names: Iterable[str], folder: Path, url: str, report: Report) -> PayloadCopy:
    """Bring payloads of the database into the folder, where the last step of this flushes them. Raises DiskFull, StoreAway."""
    done = PayloadCopy()
    source = SharedSpool(folder, url, max_cache_bytes=_UNBOUNDED_CACHE_BYTES)
    with contextlib.closing(source):
        for name in names:
            path = source.path(name)
            if _sha256_of(path) != name:  # what lies in the cache was not looked at when it was read there
                path.unlink(missing_ok=True)
                if _sha256_of(path := source.path(name)) != name:
                    done.miss(name)
                    continue
            done.count, done.bytes = done.count + 1, done.bytes + path.stat().st_size
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


def _sha256_of(path: Path) -> str:
    """The content's hash; empty where there is no such file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


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
