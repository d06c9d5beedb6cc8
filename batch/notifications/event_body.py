"""An event as receivers read it: thin, they fetch the object themselves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from batch.batches.batch_store import BatchStore
from batch.batches.file_store import FileStore
from batch.errors import NotFound
from batch.notifications.rows import EventDelivery
from batch.payloads.json_text import encode
from batch.queue.spool import Spool
from batch.queue.store import Store

FILE_OBJECT = "file:"
"""What the object of an inbox file's event begins with; its number in the ledger follows."""


class EventData(msgspec.Struct, frozen=True, kw_only=True):
    """What the event is about."""

    id: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's event."""

    id: str
    object: str = "event"
    created_at: int
    type: str
    data: EventData


def object_id(store: Store, delivery: EventDelivery) -> str:
    """What clients know the object by: an id, a file's path below the inbox, a model's kind."""
    if not delivery.object.startswith(FILE_OBJECT):
        return delivery.object
    path = _inbox_path(store, delivery, "")
    return delivery.object if path is None else os.fsencode(path).decode("utf-8", "backslashreplace")


def _inbox_path(store: Store, delivery: EventDelivery, own: str) -> str | None:
    """The path below the inbox of the file that an event is about, as the system names it; None once it is forgotten.

    `own`: a condition for the inboxes in which it may lie.
    """
    rows = store.read(f"select path from file where {own}id=?", (int(delivery.object.removeprefix(FILE_OBJECT)),))
    return os.fsdecode(rows[0][0]) if rows else None


def event_body(store: Store, delivery: EventDelivery) -> bytes:
    """The event's JSON, the same bytes at every attempt."""
    data = EventData(id=object_id(store, delivery))
    return encode(Event(id=delivery.event, created_at=delivery.created_at, type=delivery.type, data=data))


def output_path(store: Store, spool: Spool, outbox: Path, delivery: EventDelivery, result_stem: Callable[[str], str]) -> str:
    """Where the results lie, for the command hook: a batch's output file, a file's JSON in the outbox; else empty.

    `result_stem` says where a source's results lie below the outbox, without their endings.
    """
    if delivery.type.startswith("batch."):
        try:
            output = BatchStore(store).batch(delivery.object).output_file
            return "" if output is None else str(spool.path(FileStore(store).file(output).sha256))
        except NotFound:
            return ""
    if delivery.type.startswith("file."):
        ending = ".json" if delivery.type == "file.completed" else ".error.json"
        path = _inbox_path(store, delivery, store.inbox_scope.own())  # where another home's outbox is, is not known here
        return "" if path is None else str(outbox / (result_stem(path) + ending))
    return ""
