"""Makes deliveries: huey's schedule says when, rows say what, so that nothing pending is lost with the process."""

from __future__ import annotations

import asyncio
import http.client
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from batch.errors import BatchError, NotFound
from batch.notifications.address import read_url, resolve
from batch.notifications.command_hook import run_command
from batch.notifications.event_body import event_body, object_id, output_path
from batch.notifications.notification_store import NotificationStore
from batch.notifications.receiver_lines import ReceiverLines
from batch.notifications.rows import COMMAND_TARGET, DeliveryState, EventDelivery, Target
from batch.notifications.shared_secrets import open_secrets
from batch.notifications.webhook_sender import send_webhook
from batch.queue.hub.hub import Hub
from batch.queue.periodic import PeriodicTasks
from batch.settings import Settings

logger = logging.getLogger("batch.notifications")

RETRY_DELAYS_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Between the attempts of a webhook: about three days."""
COMMAND_DELAYS_S = (5.0, 300.0)
JITTER = 0.1
LOOK_INTERVAL_S = 1.0
"""Between two looks for new deliveries, where anybody is to be told."""
AHEAD_S = 60.0
"""What is due within so long is handed to huey's schedule."""
HOLD_S = 300.0
"""Between two tries of a delivery whose attempt could not be written down, as on a full disk: the receiver may have it."""
GONE_STATUS = 410
SENDERS = 4
"""Webhooks that are sent at a time, each to another receiver."""
SLOW_SENDERS = 2
"""Those that are sent at a time to receivers which were slow to answer before: a dead one holds one of them for 15 seconds."""


class NotificationService:
    """One a home. Blocking work runs in huey's threads."""

    def __init__(
        self,
        settings: Settings,
        hub: Hub,
        *,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
        command_delays_s: Sequence[float] = COMMAND_DELAYS_S,
        result_stem: Callable[[str], str] = lambda path: path,
    ) -> None:
        """`result_stem` says where the results of a file of the inbox lie below the outbox, without their endings."""
        self._settings, self._hub = settings, hub
        self._result_stem = result_stem
        self._retry_delays_s, self._command_delays_s = retry_delays_s, command_delays_s
        self.store = NotificationStore(hub.store)
        self.secrets = open_secrets(hub.store, secrets_folder(settings))
        self._webhooks, self._slow_webhooks, self._commands = (
            PeriodicTasks(SENDERS),
            PeriodicTasks(SLOW_SENDERS),
            PeriodicTasks(),
        )
        self._lines = ReceiverLines(
            self._webhooks.add_delayed("webhook", self._deliver),
            self._slow_webhooks.add_delayed("slow webhook", partial(self._deliver, is_slow_sender=True)),
        )
        self._schedule_command = self._commands.add_delayed("command", self._deliver)
        self._held_until: dict[int, float] = {}
        """When a delivery may be scheduled (again), by its number; one that is scheduled: never."""
        self._lock = threading.Lock()

    def configure(self) -> None:
        """Bring the targets that the settings name to what they say now. Blocking."""
        now, urls = int(time.time()), dict.fromkeys(self._settings.notifications.urls)
        urls_by_id = {settings_target_id(url): url for url in urls}
        if self._settings.on_event:
            urls_by_id[COMMAND_TARGET] = ""
        existing = {target.id: target for target in self.store.targets() if target.is_from_settings}
        for id in existing.keys() - urls_by_id.keys():
            self.store.delete_target(id)
            self.secrets.remove(id)
        for target in existing.values():
            if target.id in urls_by_id and not target.is_enabled:  # nobody else can switch it on again
                self.store.put_target(msgspec.structs.replace(target, is_enabled=True, updated_at=now))
        for id in urls_by_id.keys() - existing.keys():
            if id != COMMAND_TARGET:
                self.secrets.ensure(id)
            self.store.put_target(
                Target(
                    id=id,
                    name="on_event" if id == COMMAND_TARGET else "notifications.urls",
                    url=urls_by_id[id],
                    event_types=[],
                    created_at=now,
                    updated_at=now,
                    is_from_settings=True,
                )
            )

    async def run(self) -> None:
        """Hand what is due to the schedule until cancelled."""
        for tasks in (self._webhooks, self._slow_webhooks, self._commands):
            tasks.start()
        is_configured, complaint = False, ""
        while True:
            try:
                if not is_configured:
                    await asyncio.to_thread(self.configure)
                    is_configured = True
                await self._hub.in_thread(self._look)
                complaint = ""
            except (BatchError, OSError) as error:  # a full disk, it may be, on which the service goes on
                if str(error) != complaint:
                    logger.warning("notifications wait: %s", error)
                complaint = str(error)
            await asyncio.sleep(LOOK_INTERVAL_S)

    def stop(self) -> None:
        """Begin no more; what is unsent goes on at the next start."""
        for tasks in (self._webhooks, self._slow_webhooks, self._commands):
            tasks.stop(0.0)

    def _look(self) -> None:
        now = time.time()
        for delivery in self.store.due(now + AHEAD_S):
            with self._lock:
                if self._held_until.get(delivery.sequence, 0.0) > time.monotonic():
                    continue
                self._held_until[delivery.sequence] = math.inf
            sequence, delay_s = str(delivery.sequence), max(0.0, delivery.next_attempt_at - now)
            if delivery.target == COMMAND_TARGET:
                self._schedule_command(sequence, delay_s)
            else:
                self._lines.schedule(delivery.target, f"{delivery.target}/{sequence}", delay_s)

    def _deliver(self, delivery: str, *, is_slow_sender: bool = False) -> None:
        """One attempt, in a thread of huey's: of the command, or of a receiver, whose id stands before a slash, at its turn."""
        receiver, _, sequence = delivery.rpartition("/")
        if not receiver:
            self._attempt(sequence)
        elif self._lines.enter(receiver, delivery, is_slow_sender=is_slow_sender):
            started = time.monotonic()
            try:
                self._attempt(sequence)
            finally:
                self._lines.leave(receiver, time.monotonic() - started)

    def _attempt(self, sequence: str) -> None:
        held_until: float | None = time.monotonic() + HOLD_S
        try:
            delivery = self.store.delivery(int(sequence))
            # It may have been looked up just before an attempt failed: then it is not due yet.
            if delivery.state is DeliveryState.PENDING and delivery.next_attempt_at <= time.time() + LOOK_INTERVAL_S:
                if delivery.target == COMMAND_TARGET:
                    self._run_command(delivery)
                else:
                    self._post(delivery, self.store.target(delivery.target))
            held_until = None
        except NotFound:
            held_until = None  # deleted meanwhile
        finally:
            with self._lock:
                if held_until is None:
                    self._held_until.pop(int(sequence), None)
                else:
                    self._held_until[int(sequence)] = held_until

    # -- webhooks

    def _post(self, delivery: EventDelivery, target: Target) -> None:
        body = event_body(self._hub.store, delivery)
        retry_after_s, status, error = 0.0, None, None
        try:
            address = resolve(read_url(target.url), self._settings.notifications.hosts)
            keys = self.secrets.ensure(target.id).valid(time.time())
            answer = send_webhook(address, delivery.event, body, keys)
            status, retry_after_s = answer.status, answer.retry_after_s
        except (OSError, http.client.HTTPException, ValueError) as problem:
            error = f"{type(problem).__name__}: {problem}"
        except BatchError as problem:
            error = problem.message
        if status is not None and 200 <= status < 300:
            self.store.record_attempt(delivery.sequence, DeliveryState.DELIVERED, status=status)
        elif status == GONE_STATUS:
            logger.warning("the webhook endpoint %s answered 410: it is switched off", target.id)
            self.store.record_attempt(delivery.sequence, DeliveryState.FAILED, status=status, error="gone (410)")
            self.store.disable_target(target.id)
        else:
            self._retry(delivery, self._retry_delays_s, status, error or f"it answered {status}", retry_after_s)

    def _retry(
        self,
        delivery: EventDelivery,
        delays_s: Sequence[float],
        status: int | None,
        error: str,
        retry_after_s: float = 0.0,
    ) -> None:
        if delivery.attempts >= len(delays_s):
            logger.error("%s was not told to %s: %s", delivery.type, delivery.target, error)
            self.store.record_attempt(delivery.sequence, DeliveryState.FAILED, status=status, error=error)
            return
        delay_s = max(retry_after_s, delays_s[delivery.attempts]) * (1 + JITTER * random.random())
        next_attempt_at = time.time() + delay_s
        self.store.record_attempt(
            delivery.sequence, DeliveryState.PENDING, status=status, error=error, next_attempt_at=next_attempt_at
        )

    # -- the command

    def _run_command(self, delivery: EventDelivery) -> None:
        store, settings = self._hub.store, self._settings
        variables = {
            "BATCH_EVENT": delivery.type,
            "BATCH_ID": object_id(store, delivery).replace("\0", ""),
            "BATCH_STATUS": delivery.type.partition(".")[2],
            "BATCH_OUTPUT_PATH": output_path(store, self._hub.spool, settings.outbox_dir, delivery, self._result_stem),
        }
        end = run_command(settings.on_event, event_body(store, delivery), variables, settings.home)
        if end.status == 0:
            self.store.record_attempt(delivery.sequence, DeliveryState.DELIVERED, status=0)
            return
        if self._commands.is_stopping:  # it was ended together with the service: the next one makes this attempt
            return
        logger.warning("the command of on_event ended with status %s: %s", end.status, end.error[-500:])
        self._retry(delivery, self._command_delays_s, end.status, end.error or f"exit status {end.status}")


def secrets_folder(settings: Settings) -> Path:
    """Where the endpoints' secrets lie."""
    return settings.state_dir / "webhooks"


def settings_target_id(url: str) -> str:
    """The id of an endpoint that the settings name: the same at every start."""
    import hashlib

    return "we_settings_" + hashlib.sha256(os.fsencode(url)).hexdigest()[:16]
