"""Targets and deliveries in the database. Events are written by triggers, in the transaction in which a thing ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from batch.batches.rows import new_public_id
from batch.errors import NotFound
from batch.notifications.rows import DeliveryState, EventDelivery, Target
from batch.payloads.json_text import encode
from batch.queue.store import Store

MAX_ERROR_CHARS = 500

_TARGET = ", ".join(Target.__struct_fields__)
_DELIVERY = (
    "d.sequence, d.event, e.type, e.object, e.created_at, d.target, d.state, d.attempts, d.next_attempt_at, d.last_status, "
    "d.last_error"
)
_FROM = "from notification_delivery d join notification_event e on e.id=d.event"


class NotificationStore:
    """Named queries. Blocking; methods may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- targets

    def put_target(self, target: Target) -> None:
        """Write a target, new or changed; durable."""
        values = (*msgspec.structs.astuple(target)[:3], encode(target.event_types).decode(), *_tail(target))
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                f"insert into notification_target ({_TARGET}) values (?,?,?,?,?,?,?,?) on conflict (id) do update set "
                "name=excluded.name, url=excluded.url, event_types=excluded.event_types, updated_at=excluded.updated_at, "
                "is_enabled=excluded.is_enabled",
                values,
            )

    def change_target(self, target: Target) -> None:
        """Write what has changed of a target; durable. Raises NotFound for one that was deleted meanwhile."""
        with self._store.transaction(durable=True) as transaction:
            changed = transaction.execute(
                "update notification_target set name=?, url=?, event_types=?, updated_at=?, is_enabled=? where id=?",
                (
                    target.name,
                    target.url,
                    encode(target.event_types).decode(),
                    target.updated_at,
                    target.is_enabled,
                    target.id,
                ),
            ).rowcount
        if not changed:
            raise NotFound(f"No such webhook endpoint: {target.id}", param="id")

    def targets(self) -> list[Target]:
        """All of them, the newest first."""
        rows = self._store.read(f"select {_TARGET} from notification_target order by created_at desc, id")
        return [_target(row) for row in rows]

    def target(self, id: str) -> Target:
        """One target. Raises NotFound."""
        rows = self._store.read(f"select {_TARGET} from notification_target where id=?", (id,))
        if not rows:
            raise NotFound(f"No such webhook endpoint: {id}", param="id")
        return _target(rows[0])

    def delete_target(self, id: str) -> None:
        """Remove a target with its deliveries. Raises NotFound."""
        with self._store.transaction(durable=True) as transaction:
            if not transaction.execute("delete from notification_target where id=?", (id,)).rowcount:
                raise NotFound(f"No such webhook endpoint: {id}", param="id")

    def disable_target(self, id: str) -> None:
        """A receiver is gone for good: it is told nothing any more."""
        with self._store.transaction(durable=True) as transaction:
            transaction.execute("update notification_target set is_enabled=0 where id=?", (id,))
            transaction.execute(
                "update notification_delivery set state='failed', last_error='its endpoint was switched off', ended_at=? "
                "where target=? and state='pending'",
                (int(time.time()), id),
            )

    # -- events

    def add_event(self, type: str, object: str) -> None:
        """An event that no row of another table stands for."""
        with self._store.transaction() as transaction:
            transaction.execute(
                "insert into notification_event select ?, ?, ?, ? where exists (select 1 from notification_target)",
                (new_public_id("evt_"), type, object, int(time.time())),
            )

    # -- deliveries

    def due(self, before: float, limit: int = 100) -> list[EventDelivery]:
        """Pending deliveries whose next attempt comes before a time: of each target the earliest ones, `limit` at most."""
        rows: list[Any] = []
        for target in self.targets():
            rows += self._store.read(
                f"select {_DELIVERY} {_FROM} where d.target=? and d.state='pending' and d.next_attempt_at < ? "
                "order by d.next_attempt_at limit ?",
                (target.id, before, limit),
            )
        return [_delivery(row) for row in rows]

    def delivery(self, sequence: int) -> EventDelivery:
        """One delivery. Raises NotFound."""
        rows = self._store.read(f"select {_DELIVERY} {_FROM} where d.sequence=?", (sequence,))
        if not rows:
            raise NotFound(f"No such notification: {sequence}")
        return _delivery(rows[0])

    def newest(self, limit: int) -> list[EventDelivery]:
        """The newest deliveries."""
        rows = self._store.read(f"select {_DELIVERY} {_FROM} order by d.sequence desc limit ?", (limit,))
        return [_delivery(row) for row in rows]

    def record_attempt(
        self,
        sequence: int,
        state: DeliveryState,
        *,
        status: int | None = None,
        error: str | None = None,
        next_attempt_at: float | None = None,
    ) -> None:
        """Write down how an attempt went; `next_attempt_at`: when the next one comes, of a pending one."""
        now = time.time()
        with self._store.transaction() as transaction:
            transaction.execute(
                "update notification_delivery set state=?, attempts=attempts+1, last_status=?, last_error=?, "
                "next_attempt_at=coalesce(?, next_attempt_at), ended_at=? where sequence=? and state='pending'",
                (
                    state,
                    status,
                    None if error is None else error[:MAX_ERROR_CHARS],
                    next_attempt_at,
                    None if state is DeliveryState.PENDING else int(now),
                    sequence,
                ),
            )

    def send_again(self, sequence: int) -> EventDelivery:
        """Have a delivery made once more, whatever became of it. Raises NotFound."""
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                "update notification_delivery set state='pending', attempts=0, next_attempt_at=?, ended_at=null "
                "where sequence=?",
                (time.time(), sequence),
            )
        return self.delivery(sequence)

    def delete_ended(self, before: int, limit: int = 500) -> int:
        """Remove deliveries that ended before a time; returns how many."""
        with self._store.transaction() as transaction:
            return transaction.execute(
                "delete from notification_delivery where sequence in (select sequence from notification_delivery "
                "where ended_at is not null and ended_at < ? limit ?)",
                (before, limit),
            ).rowcount


def _tail(target: Target) -> tuple[Any, ...]:
    return (target.created_at, target.updated_at, target.is_from_settings, target.is_enabled)


def _target(row: Sequence[Any]) -> Target:
    values = dict(zip(Target.__struct_fields__, row, strict=True))
    return Target(
        **values
        | {
            "event_types": msgspec.json.decode(values["event_types"], type=list[str]),
            "is_from_settings": bool(values["is_from_settings"]),
            "is_enabled": bool(values["is_enabled"]),
        }
    )


def _delivery(row: Sequence[Any]) -> EventDelivery:
    values = dict(zip(EventDelivery.__struct_fields__, row, strict=True))
    return EventDelivery(**values | {"state": DeliveryState(values["state"])})
