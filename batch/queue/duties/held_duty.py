"""A duty that a command holds while it works."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from batch.errors import AlreadyRunning
from batch.queue.duties.guarded_store import guarded
from batch.queue.nodes import RENEWALS_PER_LEASE
from batch.queue.store import WRITE_REFUSED, Store

REINDEX_DUTY = "reindex"
"""Making the search index anew."""


@contextlib.contextmanager
def held_duty(store: Store, duty: str, refusal: str) -> Iterator[Store]:
    """The store for the work of a duty, which is held until the block is left. Raises AlreadyRunning with the sentence
    `refusal` while another front has it."""
    if duty not in store.hold([duty]):
        raise AlreadyRunning(refusal)
    if not store.is_shared:
        yield store
        return
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(store.lease_s / RENEWALS_PER_LEASE):
            with contextlib.suppress(*WRITE_REFUSED):  # should another have it by then, what is written is refused
                store.hold([duty])

    thread = threading.Thread(target=renew, name="duty", daemon=True)
    thread.start()
    try:
        yield guarded(store, duty)
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(*WRITE_REFUSED):
            store.release([duty])
