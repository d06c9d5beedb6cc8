"""Stored responses, their item lists and the event logs of background streams, in the database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from batch.conversations.item_store import insert_items
from batch.conversations.rows import ENDED, Item, ResponseStatus, StoredResponse
from batch.errors import NotFound
from batch.queue.jobs import Draft
from batch.queue.store import Store, Transaction

UNKEPT_LIFETIME_S = 600
"""How long a background response that is not to be stored can be fetched after its end."""

_SUBMIT_TIMEOUT_S = 60
"""A response's row may be this much older than its job's."""
_COLUMNS = ", ".join(StoredResponse.__struct_fields__)
_JOB = "select 1 from job j where j.id=response.job"


class ResponseStore:
    """Named queries on responses. Blocking; methods may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(
        self,
        *,
        id: str,
        status: ResponseStatus,
        data: bytes,
        request: bytes,
        items: Sequence[Item],
        created_at: int,
        is_kept: bool,
        background: bool,
        streamed: bool,
        conversation: str | None,
        job: str | None,
        draft: Draft | None = None,
        lifetime_s: int | None = None,
    ) -> bool:
        """Write a response that begins, with the items of its input; with a `draft`, its job in the same transaction.

        False when the conversation is locked by another response that runs. A response that is there already, as under an
        Idempotency-Key, stays as it is.
        """
        now = int(time.time())
        with self._store.transaction(durable=draft is not None) as transaction:
            if (
                conversation is not None
                and transaction.execute(
                    "select 1 from response where conversation=? and status in ('queued', 'in_progress') and id<>?",
                    (conversation, id),
                ).fetchone()
            ):
                return False
            added = transaction.execute(
                "insert into response (id, status, data, request, created_at, used_at, expires_at, kept, background, "
                "streamed, conversation, job) values (?,?,?,?,?,?,?,?,?,?,?,?) on conflict do nothing",
                (
                    id,
                    status,
                    data.decode(),
                    request.decode(),
                    created_at,
                    now,
                    None if lifetime_s is None else now + lifetime_s,
                    is_kept,
                    background,
                    streamed,
                    conversation,
                    job,
                ),
            ).rowcount
            if added:
                insert_items(transaction, items)
                _append_items(transaction, id, items, is_output=False)
                if draft is not None:
                    transaction.submit(draft)
        return True

    def response(self, id: str) -> StoredResponse:
        """One response that has not expired. Raises NotFound."""
        rows = self._store.read(f"select {_COLUMNS} from response where id=?", (id,))
        response = _response(rows[0]) if rows else None
        if response is None or (response.expires_at is not None and response.expires_at <= time.time()):
            raise NotFound(f"Response with id '{id}' not found.")
        return response

    def running(self, front: str | None = None) -> list[StoredResponse]:
        """Background responses that have not ended and whose jobs a front accepted, this one unless another is named."""
        own, params = self._of_front(front)
        rows = self._store.read(
            f"select {_COLUMNS} from response where background=1 and status in ('queued', 'in_progress'){own} "
            "order by sequence",
            params,
        )
        return [_response(row) for row in rows]

    def adopt(self, front: str) -> list[StoredResponse]:
        """The background responses that a front, which is gone, has not ended; this front follows their jobs from now on."""
        responses = self.running(front)
        if responses:
            with self._store.transaction(durable=True) as transaction:
                for response in responses:
                    moved = (self._store.front, response.job, front)
                    transaction.execute("update job set front=? where id=? and front=?", moved)
        return responses

    def abandon_foreground(self, front: str | None = None) -> int:
        """At a service's start: responses whose clients went down with its predecessor are cancelled; how many those were.
        `front`: those of another service, which is gone."""
        own, params = self._of_front(front)
        if own:  # also of one that died between a response's row and its job's
            own = f" and (({own.removeprefix(' and ')}) or (created_at < ? and not exists ({_JOB})))"
            params = (*params, int(time.time()) - _SUBMIT_TIMEOUT_S)
        with self._store.transaction() as transaction:
            return transaction.execute(
                f"update response set status='cancelled' where background=0 and status in ('queued', 'in_progress'){own}",
                params,
            ).rowcount

    def _of_front(self, front: str | None) -> tuple[str, tuple[str | int, ...]]:
        """A condition for responses of a front, empty where there is only one."""
        if not self._store.is_shared:
            return "", ()
        return f" and exists ({_JOB} and j.front=?)", (self._store.front if front is None else front,)

    def touch(self, id: str, lifetime_s: int | None) -> None:
        """Note that a response was used now: it is kept this much longer."""
        now = int(time.time())
        expires = None if lifetime_s is None else now + lifetime_s
        with self._store.transaction() as transaction:
            transaction.execute("update response set used_at=?, expires_at=? where id=? and kept=1", (now, expires, id))

    def begin(self, id: str, data: bytes) -> None:
        """A queued response runs now."""
        with self._store.transaction() as transaction:
            transaction.execute(
                "update response set status='in_progress', data=? where id=? and status='queued'", (data.decode(), id)
            )

    def end(
        self,
        id: str,
        status: ResponseStatus,
        data: bytes,
        output: Sequence[Item],
        *,
        events: Sequence[tuple[int, bytes]] = (),
        durable: bool = True,
    ) -> bool:
        """Write a response's final state, its output items and the last events; False when it had ended before.

        A completed response of a conversation adds its items to that. What was not to be stored goes soon.
        """
        with self._store.transaction(durable=durable) as transaction:
            changed = transaction.execute(
                "update response set status=?, data=?, expires_at=case kept when 1 then expires_at else ? end "
                f"where id=? and status not in ({_marks(ENDED)})",
                (status, data.decode(), int(time.time()) + UNKEPT_LIFETIME_S, id, *ENDED),
            ).rowcount
            if not changed:
                return False
            insert_items(transaction, output)
            _append_items(transaction, id, output, is_output=True)
            _log_events(transaction, id, events)
            if status == "completed":
                _extend_conversation(transaction, id)
        return True

    def delete(self, id: str) -> None:
        """Remove a response; items that others name stay. Raises NotFound."""
        with self._store.transaction(durable=True) as transaction:
            if not transaction.execute("delete from response where id=?", (id,)).rowcount:
                raise NotFound(f"Response with id '{id}' not found.")

    def delete_expired(self, limit: int = 100) -> int:
        """Remove responses past their time; returns how many."""
        now = int(time.time())
        with self._store.transaction() as transaction:
            count = transaction.execute(
                "delete from response where sequence in (select sequence from response where expires_at <= ? and status not in "
                "('queued', 'in_progress') limit ?)",
                (now, limit),
            ).rowcount
        return int(count)

    # -- items

    def item_ids(self, id: str, *, output: bool | None = None) -> list[str]:
        """Ids of a response's items in order: its whole context and input, its output, or both (None)."""
        only = "" if output is None else f" and i.is_output={int(output)}"
        rows = self._store.read(
            f"select i.item from response_item i join response r on r.sequence=i.response where r.id=?{only} order by i.place",
            (id,),
        )
        return [row[0] for row in rows]

    # -- events

    def log_events(self, id: str, events: Sequence[tuple[int, bytes]]) -> None:
        """Append numbered events to a response's log, before they are sent."""
        with self._store.transaction() as transaction:
            _log_events(transaction, id, events)

    def events(self, id: str, above: int, limit: int = 1000) -> list[tuple[int, bytes]]:
        """Logged events with numbers above one, in order."""
        rows = self._store.read(
            "select e.number, e.data from response_event e join response r on r.sequence=e.response "
            "where r.id=? and e.number>? order by e.number limit ?",
            (id, above, limit),
        )
        return [(int(number), data.encode()) for number, data in rows]


def _append_items(transaction: Transaction, id: str, items: Sequence[Item], *, is_output: bool) -> None:
    sequence, place = transaction.execute(
        "select r.sequence, coalesce(max(i.place) + 1, 0) from response r left join response_item i on i.response=r.sequence "
        "where r.id=? group by r.sequence",
        (id,),
    ).fetchone()
    for at, item in enumerate(items):
        transaction.execute(
            "insert into response_item values (?,?,?,?)", (sequence, place + at, str(item["id"]), int(is_output))
        )


def _log_events(transaction: Transaction, id: str, events: Sequence[tuple[int, bytes]]) -> None:
    for number, data in events:
        transaction.execute(
            "insert into response_event select sequence, ?, ? from response where id=? on conflict do nothing",
            (number, data.decode(), id),
        )


def _extend_conversation(transaction: Transaction, id: str) -> None:
    transaction.execute(
        "insert into conversation_item (conversation, item) select r.conversation, i.item "
        "from response r join response_item i on i.response=r.sequence join conversation c on c.id=r.conversation "
        "where r.id=? order by i.place on conflict do nothing",
        (id,),
    )


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


def _response(row: Sequence[Any]) -> StoredResponse:
    values = dict(zip(StoredResponse.__struct_fields__, row, strict=True))
    return StoredResponse(
        **values
        | {
            "data": values["data"].encode(),
            "request": values["request"].encode(),
            "kept": bool(values["kept"]),
            "background": bool(values["background"]),
            "streamed": bool(values["streamed"]),
        }
    )
