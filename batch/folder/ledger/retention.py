"""Forgetting what the ledger need not know any more."""

from __future__ import annotations

from batch.queue.store import Store


class LedgerRetention:
    """Deletes rows of the ledger slice by slice, so that the store is never held for long."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def forget_files(self, after: int, before: float, limit: int = 500) -> tuple[int | None, int]:
        """Of one slice of all files, by id: forget those that left the inbox, had their outcome before a Unix time, and
        whose job is gone. Returns the next slice's start, None behind the last, and how many went.

        A file that lies in the inbox is recorded for as long as it does, or it would be done again.
        """
        # The newest stays: an id that is used twice would make a file the owner of another one's content.
        return self._forget(
            "file",
            after,
            before,
            limit,
            "id < (select max(id) from file) and gone=1 and "
            "state in ('done', 'linked', 'failed') and not exists "
            "(select 1 from content c join job j on j.id = c.job where c.id = file.content)",
        )

    def forget_contents(self, after: int, before: float, limit: int = 500) -> tuple[int | None, int]:
        """Of one slice of all contents, by id: forget those that ended before a Unix time and that no file and no job has
        any more. Returns the next slice's start, None behind the last, and how many went."""
        return self._forget(
            "content",
            after,
            before,
            limit,
            "state in ('done', 'failed', 'dropped') and "
            "not exists (select 1 from file where file.content = content.id) and "
            "not exists (select 1 from job where job.id = content.job)",
        )

    def _forget(self, table: str, after: int, before: float, limit: int, which: str) -> tuple[int | None, int]:
        (last,) = self._store.read(
            f"select max(id) from (select id from {table} where id > ? order by id limit ?) as slice", (after, limit)
        )[0]
        if last is None:
            return None, 0
        with self._store.transaction() as transaction:
            count = transaction.execute(
                f"delete from {table} where id > ? and id <= ? and finished_at < ? and {which}", (after, last, before)
            ).rowcount
        return int(last), count
