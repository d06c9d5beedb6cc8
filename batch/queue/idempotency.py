"""What an Idempotency-Key stands for: the jobs of the first request that was sent under it."""

from __future__ import annotations

from collections.abc import Sequence

from batch.errors import Unprocessable
from batch.queue.jobs import Draft, State
from batch.queue.store import Held, Key, Transaction


def submit_under_key(transaction: Transaction, key: Key, drafts: Sequence[Draft]) -> list[Held]:
    """Accept the drafts under a key, as a part of a transaction that no other under the same key runs beside; the earlier
    jobs instead when the key is taken.

    A job that was cancelled, or is about to be, has no result to give again, so its key is free. Raises Unprocessable when
    the key is taken by another request.
    """
    rows = transaction.execute(
        "select i.fingerprint, i.job, j.state, j.cancel from idempotency i left join job j on j.id = i.job "
        "where i.kind=? and i.key=? order by i.place",
        (key.kind, key.name),
    ).fetchall()
    is_free = any(
        state is None or state == State.CANCELLED or (cancel and not State(state).ended) for _, _, state, cancel in rows
    )
    if rows and not is_free:
        if rows[0][0] != key.fingerprint:
            raise Unprocessable(
                f"The Idempotency-Key {key.name[:80]!r} was used for another request: send each request under a key of its own."
            )
        if len(rows) == len(drafts):
            # This request's payloads were put in the spool again, and nothing else would ever take them out.
            for name in sorted({blob for draft in drafts for blob in draft.blobs}):
                transaction.execute("insert into orphan values (?) on conflict do nothing", (name,))
            return [Held(job, State(state)) for _, job, state, _ in rows]
    transaction.execute("delete from idempotency where kind=? and key=?", (key.kind, key.name))
    for place, draft in enumerate(drafts):
        transaction.submit(draft)
        transaction.execute(
            "insert into idempotency values (?,?,?,?,?)", (key.kind, key.name, place, key.fingerprint, draft.id)
        )
    return []
