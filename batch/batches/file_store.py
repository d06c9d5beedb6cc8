"""Files and uploads in the database; their bytes lie in the spool, held there by a row of `blob` under the file's id."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from batch.batches.rows import NamedFile, Purpose, StoredFile, UploadPart, UploadSession, UploadStatus, new_public_id
from batch.errors import BadRequest, NotFound
from batch.queue.reading.expiring_rows import ExpiringRows
from batch.queue.store import Store, Transaction

UPLOAD_LIFETIME_S = 3600
"""How long an upload may take."""
ENDED_UPLOAD_LIFETIME_S = 86_400
"""How long it is known what became of an upload, after the time that it had."""

_FILE = ", ".join(StoredFile.__struct_fields__)
_FILES = ExpiringRows("stored_file", _FILE, "File object")
_UPLOAD = ", ".join(UploadSession.__struct_fields__)


def insert_file(transaction: Transaction, file: StoredFile) -> None:
    """Write a file's row and hold its bytes in the spool."""
    transaction.execute(f"insert into stored_file ({_FILE}) values (?,?,?,?,?,?,?)", msgspec.structs.astuple(file))
    transaction.hold(file.id, [file.sha256], "file")


class FileStore:
    """Named queries on files, uploads and parts. Blocking; methods may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- files

    def create_file(self, purpose: Purpose, filename: str, size: int, sha256: str, lifetime_s: int | None) -> StoredFile:
        """Keep an uploaded file; durable when it returns."""
        now = int(time.time())
        file = StoredFile(
            id=new_public_id("file-"),
            purpose=purpose,
            filename=filename,
            bytes=size,
            sha256=sha256,
            created_at=now,
            expires_at=None if lifetime_s is None else now + lifetime_s,
        )
        with self._store.transaction(durable=True) as transaction:
            insert_file(transaction, file)
        return file

    def file(self, id: str) -> StoredFile:
        """One file that has not expired. Raises NotFound."""
        rows = self._store.read(f"select {_FILE} from stored_file where id=?", (id,))
        file = _file(rows[0]) if rows else None
        if file is None or _is_over(file.expires_at):
            raise NotFound(f"No such File object: {id}", param="id")
        return file

    def named_file(self, id: str, batch: int | None = None) -> NamedFile:
        """A file that a request names: one that is there, or, for a line of a batch, one that the batch holds. Raises NotFound.

        `batch`: the sequence of the batch whose line names it.
        """
        try:
            file = self.file(id)
        except NotFound:
            rows = self._store.read("select filename, bytes, sha256 from batch_file where batch=? and file=?", (batch, id))
            if not rows:
                raise
            return NamedFile(filename=rows[0][0], bytes=rows[0][1], sha256=rows[0][2])
        return NamedFile(filename=file.filename, bytes=file.bytes, sha256=file.sha256)

    def files(self, *, purpose: str | None, after: str | None, limit: int, ascending: bool) -> tuple[list[StoredFile], bool]:
        """A page of files, newest first unless `ascending`, and whether more follow. Raises BadRequest naming `after`."""
        conditions, parameters = (["purpose=?"], [purpose]) if purpose is not None else ([], [])
        rows, has_more = _FILES.page(self._store, conditions, parameters, after=after, limit=limit, ascending=ascending)
        return [_file(row) for row in rows], has_more

    def delete_file(self, id: str) -> None:
        """Remove a file; its bytes go once nothing else holds them. Raises NotFound."""
        with self._store.transaction(durable=True) as transaction:
            if not transaction.execute("delete from stored_file where id=?", (id,)).rowcount:
                raise NotFound(f"No such File object: {id}", param="id")

    def total_bytes(self) -> int:
        """Bytes of all files and of parts that are not yet one, shared content counted once, and of what live batches were made
        of that is no file."""
        rows = self._store.read(
            "select n + (select coalesce(sum(input_bytes), 0) from batch where input_file is null and status in "
            "('validating', 'in_progress', 'finalizing', 'cancelling')) from file_bytes"
        )
        return int(rows[0][0])

    def delete_expired(self, limit: int = 200) -> int:
        """Remove files past their time, uploads that nobody completed, and what is known of old ones; returns how many."""
        now = int(time.time())
        with self._store.transaction() as transaction:
            gone = transaction.execute(
                "delete from stored_file where id in (select id from stored_file where expires_at <= ? limit ?)", (now, limit)
            ).rowcount
            late = transaction.execute(
                "select id from upload where status='pending' and expires_at <= ? limit ?", (now, limit)
            ).fetchall()
            for (id,) in late:
                _end_upload(transaction, id, UploadStatus.EXPIRED)
            forgotten = transaction.execute(
                "delete from upload where id in (select id from upload where status<>'pending' and expires_at <= ? limit ?)",
                (now - ENDED_UPLOAD_LIFETIME_S, limit),
            ).rowcount
        return int(gone) + len(late) + int(forgotten)

    # -- uploads

    def create_upload(
        self, filename: str, size: int, purpose: Purpose, mime_type: str, file_lifetime_s: int | None
    ) -> UploadSession:
        """Begin a file in parts."""
        now = int(time.time())
        upload = UploadSession(
            id=new_public_id("upload_"),
            filename=filename,
            bytes=size,
            purpose=purpose,
            mime_type=mime_type,
            status=UploadStatus.PENDING,
            created_at=now,
            expires_at=now + UPLOAD_LIFETIME_S,
            file_lifetime_s=file_lifetime_s,
        )
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                f"insert into upload ({_UPLOAD}) values (?,?,?,?,?,?,?,?,?,?)",
                msgspec.structs.astuple(upload),
            )
        return upload

    def upload(self, id: str) -> UploadSession:
        """One upload. Raises NotFound."""
        rows = self._store.read(f"select {_UPLOAD} from upload where id=?", (id,))
        if not rows:
            raise NotFound(f"No such Upload object: {id}", param="id")
        return _upload(rows[0])

    def add_part(self, upload: str, sha256: str, size: int) -> UploadPart:
        """Keep a part whose bytes are in the spool. Raises BadRequest when the upload has ended."""
        part = UploadPart(id=new_public_id("part_"), upload=upload, sha256=sha256, bytes=size, created_at=int(time.time()))
        with self._store.transaction(durable=True) as transaction:
            _check_pending(transaction, upload)
            transaction.execute("insert into upload_part values (?,?,?,?,?)", (part.id, upload, sha256, size, part.created_at))
            transaction.hold(part.id, [sha256], "part")
        return part

    def parts(self, upload: str, ids: Sequence[str]) -> list[UploadPart]:
        """The parts of an upload in the order of their ids. Raises BadRequest for an id that is not one of its parts."""
        rows = self._store.read("select id, upload, sha256, bytes, created_at from upload_part where upload=?", (upload,))
        parts_by_id = {
            row[0]: UploadPart(id=row[0], upload=row[1], sha256=row[2], bytes=row[3], created_at=row[4]) for row in rows
        }
        for at, id in enumerate(ids):
            if id not in parts_by_id:
                raise BadRequest(f"'part_ids[{at}]': this upload has no part {id[:80]!r}", param=f"part_ids[{at}]")
        if len(set(ids)) < len(ids):
            raise BadRequest("'part_ids' names a part twice", param="part_ids")
        return [parts_by_id[id] for id in ids]

    def size_of_parts(self, upload: str) -> tuple[int, int]:
        """How many parts an upload has so far, and their bytes together."""
        rows = self._store.read("select part_count, part_bytes from upload where id=?", (upload,))
        return (int(rows[0][0]), int(rows[0][1])) if rows else (0, 0)

    def complete_upload(self, upload: UploadSession, sha256: str) -> StoredFile:
        """Turn an upload into a file whose whole bytes are in the spool. Raises BadRequest when it has ended meanwhile."""
        now = int(time.time())
        file = StoredFile(
            id=new_public_id("file-"),
            purpose=upload.purpose,
            filename=upload.filename,
            bytes=upload.bytes,
            sha256=sha256,
            created_at=now,
            expires_at=None if upload.file_lifetime_s is None else now + upload.file_lifetime_s,
        )
        with self._store.transaction(durable=True) as transaction:
            _check_pending(transaction, upload.id)
            insert_file(transaction, file)
            _end_upload(transaction, upload.id, UploadStatus.COMPLETED, file.id)
        return file

    def cancel_upload(self, id: str) -> UploadSession:
        """End an upload without a file. Raises NotFound, and BadRequest when it has ended."""
        self.upload(id)
        with self._store.transaction(durable=True) as transaction:
            _check_pending(transaction, id)
            _end_upload(transaction, id, UploadStatus.CANCELLED)
        return self.upload(id)


def _check_pending(transaction: Transaction, upload: str) -> None:
    row = transaction.execute("select status, expires_at from upload where id=?", (upload,)).fetchone()
    if row is None:
        raise NotFound(f"No such Upload object: {upload}", param="id")
    status = UploadStatus.EXPIRED if row[0] == UploadStatus.PENDING and _is_over(row[1]) else row[0]
    if status != UploadStatus.PENDING:
        raise BadRequest(f"The upload {upload} is {status}: begin a new one.", param="upload_id")


def _end_upload(transaction: Transaction, upload: str, status: UploadStatus, file: str | None = None) -> None:
    transaction.execute("update upload set status=?, file=? where id=?", (status, file, upload))
    transaction.execute("delete from upload_part where upload=?", (upload,))


def _is_over(expires_at: int | None) -> bool:
    return expires_at is not None and expires_at <= time.time()


def _file(row: Sequence[Any]) -> StoredFile:
    values = dict(zip(StoredFile.__struct_fields__, row, strict=True))
    return StoredFile(**values | {"purpose": Purpose(values["purpose"])})


def _upload(row: Sequence[Any]) -> UploadSession:
    values = dict(zip(UploadSession.__struct_fields__, row, strict=True))
    return UploadSession(**values | {"purpose": Purpose(values["purpose"]), "status": UploadStatus(values["status"])})
