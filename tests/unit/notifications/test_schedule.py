"""When a delivery is attempted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from batch.notifications.notification_store import NotificationStore
from batch.notifications.rows import DeliveryState, Target
from batch.notifications.service import NotificationService
from batch.queue.hub.hub import Hub
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.settings import Settings
from event_receiver import receiving

pytestmark = pytest.mark.anyio


async def test_an_attempt_that_failed_while_it_was_looked_up_is_not_made_again_before_its_time(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    settings.state_dir.mkdir()
    store = open_store(settings.database_address, home=settings.home)
    hub = Hub(store, Spool(settings.state_dir / "spool"), settings.state_dir)
    notifications = NotificationStore(store)
    with receiving() as receiver:
        target = Target(id="we_1", name="n", url=receiver.url, event_types=[], created_at=1, updated_at=1)
        notifications.put_target(target)
        notifications.add_event("service.degraded", "vlm")
        (delivery,) = notifications.due(time.time() + 1)
        service = NotificationService(settings, hub)
        notifications.record_attempt(delivery.sequence, DeliveryState.PENDING, next_attempt_at=time.time() + 300)
        service._deliver(str(delivery.sequence))
        assert not receiver.received
        notifications.send_again(delivery.sequence)
        service._deliver(str(delivery.sequence))
        assert len(receiver.received) == 1
        assert notifications.delivery(delivery.sequence).state is DeliveryState.DELIVERED
    await hub.close()
    store.close()
