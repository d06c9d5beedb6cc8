"""The bytes of a file that was dropped, as they were when it was worked on: from the spool, or from where it still lies."""

from __future__ import annotations

import os
import stat
import weakref

from batch.errors import NotFound
from batch.folder.safe_open import FileStamp, open_below
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.settings import Settings


class SourceBytes:
    """An open file; `close` it. One that nobody reads, as the client has gone, closes by itself."""

    def __init__(self, descriptor: int, name: str, tag: str) -> None:
        self.descriptor = descriptor
        self.name = name
        """Of the file, for people."""
        self.tag = tag
        """Equal for the same bytes."""
        self.size = os.fstat(descriptor).st_size
        self.close = weakref.finalize(self, os.close, descriptor)

    def read(self, length: int, at: int) -> bytes:
        """At most `length` bytes from a place on."""
        return os.pread(self.descriptor, length, at)


def open_source(store: Store, spool: Spool, settings: Settings, id: int) -> SourceBytes:
    """Open the bytes of a file of the ledger. Raises NotFound where they are gone, or are others by now."""
    rows = store.read(
        "select f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, c.sha256 from file f left join content c on c.id = f.content "
        f"where {store.inbox_scope.own('f')}f.id = ?",
        (id,),
    )
    if not rows:
        raise NotFound(f"There is no file {id} any more.")
    path, sha256 = os.fsdecode(rows[0][0]), rows[0][5]
    name = path.rpartition("/")[2]
    if sha256 is not None:
        try:
            return SourceBytes(os.open(spool.path(sha256), os.O_RDONLY | os.O_CLOEXEC), name, sha256)
        except OSError:
            pass  # texts, and what no job needs any more, do not lie there
    try:
        descriptor = open_below(os.fspath(settings.inbox_dir), path)
    except OSError:
        raise NotFound(f"{name!r} is not in the inbox any more, and no copy of it is kept.") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or not FileStamp.of(status).has_same_content(FileStamp(*rows[0][1:5])):
        os.close(descriptor)
        raise NotFound(f"{name!r} is another file by now than the one that was worked on.")
    return SourceBytes(descriptor, name, sha256 or f"{status.st_ino}-{status.st_mtime_ns}")
