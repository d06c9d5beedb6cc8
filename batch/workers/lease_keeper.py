"""Keeps a worker's leases: a thread of its own renews them, and hears which jobs are lost or cancelled."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from batch.errors import BatchError
from batch.payloads.json_text import encode
from batch.queue.nodes import RENEWALS_PER_LEASE, Node
from batch.workers.job_context import JobContext

if TYPE_CHECKING:
    from batch.queue.remote.prompt_prefix import HeldPrefixes

logger = logging.getLogger("batch.worker")

_REAPING_SHARE = 0.3
"""How many of its renewals a worker follows by a look for the leases of others that ran out."""
_TRUSTED_SHARE = 2 / 3
"""Of a lease: after so long without an answer of the database a worker takes nothing new. Its leases may be another's soon."""


class LeaseKeeper:
    """One a worker. The time of a lease is counted from before its renewal was sent, as only the database's clock says more."""

    def __init__(self, context: JobContext, node: Node, stop: Callable[[frozenset[str]], None], *, attempts: int) -> None:
        """`node`: what the worker's row says at first. `stop` gets the ids of jobs that are to stop. `attempts`: how often a
        job may take its worker down."""
        self._context = context
        self._store = context.store
        self._node = node
        self._stop = stop
        self._attempts = attempts
        self.held_prefixes: Callable[[], HeldPrefixes] | None = None
        """What the engine's prompt cache holds, where services send requests to the worker that has computed most of them."""
        self._is_registered = False
        self._is_draining = False
        self._has_logged = False
        self._registering = threading.Lock()
        self._ended = threading.Event()
        self._answered_at = time.monotonic()

    def start(self) -> None:
        """Write the worker's row, and begin to renew."""
        self._register()
        threading.Thread(target=self._keep, name="leases", daemon=True).start()

    def report(self, **changes: str) -> None:
        """The worker has changed: fields of its Node."""
        self._change(**changes)
        self._register()

    def may_take(self) -> bool:
        """Whether the worker may take a job that it does not hold yet."""
        if self._is_draining:
            return False
        return not self._store.is_shared or time.monotonic() - self._answered_at < self._store.lease_s * _TRUSTED_SHARE

    def end(self) -> None:
        """The worker has put back what it held: its row goes, unless it says why the model cannot be loaded. Then the next
        process of its home replaces it."""
        self._ended.set()
        if self._node.status == "failed":
            return
        with contextlib.suppress(BatchError), self._registering:
            self._store.leave(self._node.id)

    def _change(self, **changes: str) -> None:
        with self._registering:  # the worker's thread and the one that renews both do
            self._node = replace(self._node, **changes)  # type: ignore[arg-type]

    def _register(self) -> None:
        with self._registering:
            if self._ended.is_set():
                return
            try:
                self._store.register(self._node)
                self._is_registered = True
            except BatchError as error:  # tried again with the next renewal
                self._is_registered = False
                logger.warning("the worker is not listed: %s", error.message)

    def _keep(self) -> None:
        while not self._ended.wait(self._store.lease_s / RENEWALS_PER_LEASE):
            try:
                self._renew()
                self._reap()
                self._has_logged = False
            except BatchError as error:
                if not self._has_logged:
                    logger.error("the worker's leases cannot be renewed: %s", error.message)
                self._has_logged = True
            except Exception:
                if self._ended.is_set():  # the store was closed meanwhile
                    return
                logger.exception("the worker's leases cannot be renewed")

    def _reap(self) -> None:
        """Workers look after one another as well: the services may be down."""
        if self._store.is_shared and random.random() < _REAPING_SHARE:
            for job, state in self._store.reap(self._attempts):
                logger.warning("job %s was left by a worker that is not heard of any more: %s", job, state)

    def _renew(self) -> None:
        context = self._context
        leases = {lease.token: lease.job.id for lease in list(context.leases.values())}
        sent_at = time.monotonic()
        prefixes = None
        if self.held_prefixes is not None and (text := encode(self.held_prefixes()).decode()) != self._node.prefixes:
            prefixes = text
        renewal = self._store.renew(self._node.id, [(job, token) for token, job in leases.items()], prefixes=prefixes)
        if prefixes is not None:
            self._change(prefixes=prefixes)
        self._answered_at = sent_at
        self._is_draining = renewal.is_draining
        # A job may have ended while its lease was renewed: that one is not lost.
        lost = {token for token, job in leases.items() if job in renewal.lost and token in context.leases}
        for token in lost - context.lost:
            logger.warning("job %s was given to another worker: it was not renewed in time", leases[token])
        context.lost |= lost
        if lost or renewal.cancelled:
            self._stop(renewal.lost | renewal.cancelled)
        if not self._is_registered or not renewal.is_known:
            self._register()
