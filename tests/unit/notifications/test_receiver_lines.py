"""Receivers do not wait for one another, however many events one of them is still to be told of."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch.notifications import receiver_lines
from batch.notifications import service as service_module
from batch.notifications.notification_store import NotificationStore
from batch.notifications.receiver_lines import ReceiverLines
from batch.notifications.rows import DeliveryState, Target
from batch.notifications.service import SENDERS, NotificationService
from batch.queue.hub.hub import Hub
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.settings import Settings
from event_receiver import receiving

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    settings = Settings(home=tmp_path)
    settings.state_dir.mkdir()
    opened = open_store(settings.database_address, home=settings.home)
    yield opened
    opened.close()


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.01)


def put_target(store: Store, id: str, url: str) -> None:
    NotificationStore(store).put_target(Target(id=id, name=id, url=url, event_types=[], created_at=1, updated_at=1))


async def test_a_slow_receiver_with_a_long_backlog_delays_no_other(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events took all senders, and all of what was looked up at a time: others' came when it was told everything."""
    monkeypatch.setattr(service_module, "LOOK_INTERVAL_S", 0.05)
    monkeypatch.setattr(receiver_lines, "SLOW_S", 0.1)
    events = NotificationStore(store)
    hub = Hub(store, Spool(tmp_path / ".batch" / "spool"), tmp_path / ".batch")
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(receiving()) for _ in range(SENDERS + 1)]
        quick = stack.enter_context(receiving())
        for number, receiver in enumerate(slow):
            receiver.delay_s = 0.4
            put_target(store, f"we_slow{number}", receiver.url)
        for _ in range(120):  # more than is looked up at a time
            events.add_event("service.degraded", "vlm")
        service = NotificationService(Settings(home=tmp_path), hub)
        task = asyncio.create_task(service.run())
        try:
            await until(lambda: all(receiver.received for receiver in slow))
            put_target(store, "we_quick", quick.url)
            for _ in range(40):
                events.add_event("service.degraded", "stt")
            await until(lambda: len(quick.received) == 40)
            assert sum(len(receiver.received) for receiver in slow) < 100, "they wait still"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            service.stop()
            await hub.close()


async def test_every_event_of_a_backlog_is_told_once(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "LOOK_INTERVAL_S", 0.05)
    hub = Hub(store, Spool(tmp_path / ".batch" / "spool"), tmp_path / ".batch")
    events = NotificationStore(store)
    with receiving() as receiver:
        put_target(store, "we_1", receiver.url)
        for _ in range(250):
            events.add_event("service.degraded", "vlm")
        service = NotificationService(Settings(home=tmp_path), hub)
        task = asyncio.create_task(service.run())
        try:
            await until(lambda: all(one.state is DeliveryState.DELIVERED for one in events.newest(250)))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            service.stop()
            await hub.close()
        ids = [event.headers["webhook-id"] for event in receiver.received]
        assert len(ids) == len(set(ids)) == 250


def test_a_receivers_deliveries_take_turns_and_a_slow_one_goes_to_the_senders_of_slow_ones() -> None:
    fast, slow = list[str](), list[str]()
    lines = ReceiverLines(lambda one, _: fast.append(one), lambda one, _: slow.append(one))
    lines.schedule("a", "a1", 0.0)
    assert lines.enter("a", "a1", is_slow_sender=False)
    assert not lines.enter("a", "a2", is_slow_sender=False) and not lines.enter("a", "a3", is_slow_sender=False)
    assert lines.enter("b", "b1", is_slow_sender=False), "another receiver does not wait"
    lines.leave("a", 0.01)
    assert fast == ["a1", "a2"] and not lines.enter("a", "a4", is_slow_sender=False), "a2 is before it"
    assert lines.enter("a", "a2", is_slow_sender=False)
    lines.leave("a", receiver_lines.SLOW_S + 1)
    assert slow == ["a3"]
    assert lines.enter("a", "a3", is_slow_sender=True)
    lines.leave("a", 0.01)
    assert fast == ["a1", "a2", "a4"], "it is quick again"
    assert lines.enter("a", "a4", is_slow_sender=False)
    lines.leave("a", receiver_lines.SLOW_S + 1)
    assert not lines.enter("a", "a5", is_slow_sender=False) and slow == ["a3", "a5"]
    lines.leave("b", 0.01)
    assert lines.enter("a", "a5", is_slow_sender=True)
