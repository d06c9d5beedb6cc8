"""What the service writes into the database for `batch status`, which is another process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import Any

from batch.notifications.notification_store import NotificationStore
from batch.queue.hub.hub import Hub
from batch.queue.hub.model_state import ModelState
from batch.queue.store import WRITE_REFUSED, DamagedDatabase, Store

logger = logging.getLogger("batch.supervisor")

_RETRY_INTERVAL_S = 1.0
"""After so long a note that a full disk did not take is written once more."""


def write_note(store: Store, name: str, value: Any, *, log: bool = True) -> bool:
    """Write a note, for which a full disk must not bring the service down; whether it was written."""
    try:
        store.note({name: value})
    except (*WRITE_REFUSED, DamagedDatabase) as error:
        if log:
            logger.warning("`batch status` is out of date: %s", error.message)
        return False
    return True


def model_note(state: ModelState) -> dict[str, Any]:
    """What `batch status` is told of a model."""
    info = state.info
    facts = {key: getattr(info, key) for key in ("model", "path", "size", "n_ctx", "n_embd")} if info else {}
    return {
        "status": state.status,
        "progress": round(state.progress, 2),
        "error": state.error,
        "pid": state.pid,
        "facts": facts,
        "note": info.note if info else "",
    }


def _announce_failure(store: Store, queue: str) -> None:
    """A model does not answer any more: whoever wants to know is told."""
    with contextlib.suppress(*WRITE_REFUSED, DamagedDatabase):
        NotificationStore(store).add_event("service.degraded", queue)


async def record_models(store: Store, hub: Hub) -> None:
    """Keep the notes of the models current until cancelled."""
    notes: dict[str, dict[str, Any]] = {}
    is_behind = False
    while True:
        changed, was_behind, is_behind = hub.models.next_change(), is_behind, False
        for queue in hub.models.queues:
            state = hub.model(queue)
            note = model_note(state)
            if note != notes.get(queue):
                if await hub.in_thread(partial(write_note, store, f"model:{queue}", note, log=not was_behind)):
                    if note["status"] == "failed" and notes.get(queue, {}).get("status") != "failed":
                        await hub.in_thread(partial(_announce_failure, store, queue))
                    notes[queue] = note
                else:
                    is_behind = True
            hub.models.mark_recorded(queue, state)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), _RETRY_INTERVAL_S if is_behind else None)
