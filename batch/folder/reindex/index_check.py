"""The search index held against the outbox: what is missing in it, and what is too much."""

from __future__ import annotations

import os

import msgspec

from batch.errors import BatchError
from batch.folder.file_names import readable
from batch.folder.outbox.outbox_folders import has_result
from batch.folder.reindex.outbox_walk import read_result, result_paths
from batch.folder.reindex.stored_result import UnreadableResult, parse_result
from batch.queue.store import DamagedDatabase, Store

MAX_NAMED = 20
_SLICE_ROWS = 500


class IndexCheck(msgspec.Struct, kw_only=True):
    """What the comparison found; of each kind of file the first names are listed."""

    files: int = 0
    """Results in the outbox that can be read."""
    missing: int = 0
    """That the index does not have as they are."""
    missing_files: list[str] = msgspec.field(default_factory=list)
    left_over: int = 0
    """Files in the index that have their outcome and no JSON in the outbox."""
    left_over_files: list[str] = msgspec.field(default_factory=list)
    other_model: int = 0
    """Files whose vectors are not of the model that was loaded last, or that have none."""
    unreadable: int = 0
    """Files of the outbox that hold no result."""
    is_damaged: bool = False
    """The full-text index contradicts itself."""

    @property
    def is_whole(self) -> bool:
        """Whether a search finds all that lies in the outbox, and nothing else. Vectors of another model do not count."""
        return not (self.missing or self.left_over or self.is_damaged)


def check_index(store: Store, outbox: str, loaded_model: str) -> IndexCheck:
    """Look at every result of the outbox and every file of the index. Blocking."""
    check = IndexCheck()
    for path in result_paths(outbox):
        _check_result(store, outbox, path, loaded_model, check)
    _check_sources(store, outbox, check)
    check.is_damaged = _is_damaged(store)
    return check


def _check_result(store: Store, outbox: str, path: str, loaded_model: str, check: IndexCheck) -> None:
    try:
        data = read_result(outbox, path)
        if data is None:
            raise UnreadableResult("it is too large")
        result = parse_result(data)
    except FileNotFoundError:
        return
    except (OSError, BatchError):
        check.unreadable += 1
        return
    check.files += 1
    rows = store.read(
        "select e.content, (select v.model from passage p join vector v on v.passage = p.id where p.entry = e.id limit 1) "
        f"from entry_source s join entry e on e.id = s.entry where {store.inbox_scope.own('s')}s.path=?",
        (result.path,),
    )
    is_there = bool(rows) and rows[0][0] == result.content
    if is_there != bool(result.text.strip()):
        check.missing += 1
        _name(check.missing_files, os.fsdecode(result.path))
    elif is_there and result.embedding is not None and loaded_model not in ("", rows[0][1]):
        check.other_model += 1


def _check_sources(store: Store, outbox: str, check: IndexCheck) -> None:
    after, inbox = b"", store.inbox_scope
    while rows := store.read(
        f"select s.path, f.state from entry_source s left join file f on {inbox.same('f', 's')}f.path = s.path "
        f"where {inbox.own('s')}s.path > ? order by s.path limit {_SLICE_ROWS}",
        (after,),
    ):
        after = rows[-1][0]
        for path, state in rows:
            if state not in ("waiting", "writing") and not has_result(outbox, os.fsdecode(path)):
                check.left_over += 1
                _name(check.left_over_files, os.fsdecode(path))


def _is_damaged(store: Store) -> bool:
    try:
        with store.transaction() as transaction:
            store.search_tables.check(transaction, "passage_fts")
    except DamagedDatabase:
        return True
    return False


def _name(names: list[str], path: str) -> None:
    if len(names) < MAX_NAMED:
        names.append(readable(path))
