"""A store whose writes to the tables of a duty are refused once another service has the duty."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

from batch.queue.store import Store, StoreAway, Transaction


class DutyLost(StoreAway):
    """Another service has taken over what this one was about to write; it stops that work as soon as it is told."""

    sentence = "Another service on this database does this now, as this one was not heard of for long."


class GuardedStore:
    """A store each of whose transactions begins with a look whether this front may still do that."""

    def __init__(self, store: Store, confirm: Callable[[Transaction], None]) -> None:
        """`confirm` raises DutyLost."""
        self._store = store
        self._confirm = confirm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[Transaction]:
        """As the store's own. Raises DutyLost, and nothing of it is kept then."""
        with self._store.transaction(durable=durable) as transaction:
            self._confirm(transaction)
            yield transaction


def guarded(store: Store, duty: str) -> Store:
    """The store for the work of a duty; the store itself where a home has its database to itself."""
    if not store.is_shared:
        return store
    return cast(Store, GuardedStore(store, lambda transaction: store.confirm(transaction, duty)))


def guarded_by_job(store: Store, job: str) -> Store:
    """The store for what this front writes because it accepted a job, until another front follows the job in its place; the
    store itself where a home has its database to itself."""

    def confirm(transaction: Transaction) -> None:
        if transaction.execute("select 1 from job where id=? and front<>?", (job, store.front)).fetchone() is not None:
            raise DutyLost()

    return cast(Store, GuardedStore(store, confirm)) if store.is_shared else store
