"""Files of which the ledger was lost, taken up again from their results in the outbox."""

from __future__ import annotations

import hashlib
import os
import stat
from itertools import islice

import msgspec

from batch.folder.ledger.rows import FileState
from batch.folder.pipeline import content_key
from batch.folder.reindex.outbox_walk import read_result, result_paths
from batch.folder.reindex.stored_result import StoredResult, UnreadableResult, parse_result
from batch.folder.safe_open import FileStamp, open_below
from batch.queue.selection.inbox_scope import InboxScope
from batch.queue.store import Store, Transaction
from batch.settings import Settings

_FILES_AT_ONCE = 200
_READ_BYTES = 1 << 20
_NO_STAMP = FileStamp(0, 0, 0, 0)
"""Of a source that has left the inbox: whatever is dropped in its place is another file."""


def rebuild_ledger(store: Store, settings: Settings) -> int:
    """Record every result of the outbox whose file is not in the ledger, and return how many those are.

    A source that still lies in the inbox, byte for byte, is not done again. What in the outbox is no result is passed over.
    Raises DiskFull.
    """
    outbox, recorded = os.fspath(settings.outbox_dir), 0
    paths = result_paths(outbox)
    while some := list(islice(paths, _FILES_AT_ONCE)):
        with store.transaction(durable=True) as transaction:
            for path in some:
                result = _result(outbox, path)
                if result is not None and result.path + b".json" == os.fsencode(path):
                    recorded += _record(transaction, result, settings, store.inbox_scope)
    return recorded


def _result(outbox: str, path: str) -> StoredResult | None:
    try:
        data = read_result(outbox, path)
        return None if data is None else parse_result(data)
    except (OSError, UnreadableResult):
        return None


def _record(transaction: Transaction, result: StoredResult, settings: Settings, inbox: InboxScope) -> bool:
    path, own = result.path, inbox.own()
    if not result.jobs or transaction.execute(f"select 1 from file where {own}path=?", (path,)).fetchone() is not None:
        return False
    stamp = _stamp_in_inbox(os.fspath(settings.inbox_dir), result)
    step = list(result.jobs)[-1]
    key = content_key(result.sha256, result.kind, result.requested_parameters, settings)
    created, finished = result.created_at, result.finished_at
    transaction.execute(
        f"insert into content ({inbox.columns}key, sha256, size, kind, parameters, state, step, job, jobs, models, created_at, "
        f"finished_at) values ({inbox.values}?,?,?,?,?,'done',?,?,?,?,?,?) on conflict ({inbox.columns}key) do nothing",
        (
            key,
            result.sha256,
            result.size,
            result.kind,
            msgspec.json.encode(result.requested_parameters).decode(),
            step,
            result.jobs[step],
            msgspec.json.encode(result.jobs).decode(),
            msgspec.json.encode({next(iter(result.jobs)): result.model} if result.model else {}).decode(),
            created,
            finished,
        ),
    )
    content = transaction.execute(f"select id from content where {own}key=?", (key,)).fetchone()[0]
    file_stamp, state = stamp or _NO_STAMP, FileState.LINKED if result.linked else FileState.DONE
    row = transaction.execute(
        f"insert into file ({inbox.columns}path, folder, size, mtime_ns, inode, ctime_ns, state, content, gone, accepted_at, "
        f"finished_at) values ({inbox.values}?,?,?,?,?,?,?,?,?,?,?) returning id",
        (
            path,
            path.rpartition(b"/")[0],
            file_stamp.size,
            file_stamp.mtime_ns,
            file_stamp.inode,
            file_stamp.ctime_ns,
            state,
            content,
            stamp is None,
            created,
            finished,
        ),
    ).fetchone()
    transaction.execute("update content set owner=? where id=? and owner is null", (row[0], content))
    return True


def _stamp_in_inbox(inbox: str, result: StoredResult) -> FileStamp | None:
    """Of the source, where it lies in the inbox as it was read."""
    try:
        descriptor = open_below(inbox, os.fsdecode(result.path))
    except OSError:
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != result.size:  # a folder by now, say
        os.close(descriptor)
        return None
    with open(descriptor, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return FileStamp.of(status) if digest.hexdigest() == result.sha256 else None
