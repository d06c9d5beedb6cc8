"""Idempotency keys: a caller's name for a request, under which its jobs are found again, also after a restart.

A key stands as long as its jobs' rows. A job that was cancelled, or is about to be, has no result to give again, so its
key is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batch.errors import Unprocessable
from batch.queue.jobs import Draft, Kind, State
from batch.queue.store import Store


@dataclass(frozen=True, slots=True)
class Key:
    """What a caller sent; keys of the three ports are apart."""

    kind: Kind
    name: str
    fingerprint: str
    """Digest of everything that was asked: the same key with another one is refused."""


@dataclass(frozen=True, slots=True)
class Held:
    """A job that an earlier request with the same key made."""

    job: str
    state: State


def submit_once(store: Store, key: Key, drafts: Sequence[Draft]) -> list[Held]:
    """Accept the drafts under a key, in one transaction; the earlier jobs instead when the key is taken.

    Raises Unprocessable when it is taken by another request.
    """
    with store.transaction() as transaction:
        rows = transaction.execute(
            "select i.fingerprint, i.job, j.state, j.cancel from idempotency i left join job j on j.id = i.job "
            "where i.kind=? and i.key=? order by i.place",
            (key.kind, key.name),
        ).fetchall()
        gone = any(
            state is None or state == State.CANCELLED or (cancel and not State(state).ended) for _, _, state, cancel in rows
        )
        if rows and not gone:
            if rows[0][0] != key.fingerprint:
                raise Unprocessable(
                    f"The Idempotency-Key {key.name[:80]!r} was used for another request: send each request under a "
                    "key of its own."
                )
            if len(rows) == len(drafts):
                # This request's payloads were put in the spool again, and nothing else would ever take them out.
                for sha256 in {blob for draft in drafts for blob in draft.blobs}:
                    transaction.execute("insert or ignore into orphan values (?)", (sha256,))
                return [Held(job, State(state)) for _, job, state, _ in rows]
        transaction.execute("delete from idempotency where kind=? and key=?", (key.kind, key.name))
        for place, draft in enumerate(drafts):
            transaction.submit(draft)
            transaction.execute(
                "insert into idempotency values (?,?,?,?,?)", (key.kind, key.name, place, key.fingerprint, draft.id)
            )
    return []
