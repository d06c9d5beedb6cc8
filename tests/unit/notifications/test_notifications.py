"""Webhooks and the command hook, in this process, with receivers and commands that are real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch.batches.batch_store import BatchStore
from batch.batches.rows import BatchDraft, BatchStatus
from batch.errors import BadRequest, DiskFull
from batch.notifications import service as service_module
from batch.notifications import webhook_sender
from batch.notifications.address import RefusedAddress, read_url, resolve
from batch.notifications.notification_store import NotificationStore
from batch.notifications.rows import COMMAND_TARGET, DeliveryState, Target
from batch.notifications.service import NotificationService
from batch.notifications.shared_secrets import SharedSecrets
from batch.notifications.signing import SecretFiles, new_secret
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Priority
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.settings import Settings
from event_receiver import EventReceiver, receiving
from payloads import keep_in
from running_service import alive

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_database")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    settings = Settings(home=tmp_path)
    settings.state_dir.mkdir()
    opened = open_store(settings.database_address, home=settings.home)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "LOOK_INTERVAL_S", 0.05)


@pytest.fixture
def receiver() -> Iterator[EventReceiver]:
    with receiving() as running:
        yield running


@contextlib.asynccontextmanager
async def notifying(home: Path, store: Store, retries: int = 3, **settings: Any) -> AsyncIterator[NotificationService]:
    """A service whose retries come at once."""
    effective = Settings(home=home, **settings)
    hub = Hub(store, Spool(effective.state_dir / "spool"), effective.state_dir)
    delays_s = (0.0,) * retries
    service = NotificationService(effective, hub, retry_delays_s=delays_s, command_delays_s=delays_s[:2])
    task = asyncio.create_task(service.run())
    try:
        await until(lambda: len(service.store.targets()) == len(effective.notifications.urls) + bool(effective.on_event))
        yield service
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        service.stop()
        await hub.close()


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)


def end_batch(store: Store, status: BatchStatus = BatchStatus.COMPLETED) -> str:
    """A batch that has ended; its id."""
    batches = BatchStore(store)
    sha256 = keep_in(store.home, b"a line")
    batch = batches.create(BatchDraft(endpoint="/v1/embeddings", input_sha256=sha256, input_bytes=6, priority=Priority.BATCH))
    batches.end(batch, status, None, None)
    return batch.id


async def test_the_end_of_a_batch_is_told_with_a_signature_that_openais_client_accepts(
    tmp_path: Path, store: Store, receiver: EventReceiver
) -> None:
    import openai  # here: every test process would pay for it

    async with notifying(tmp_path, store, notifications={"urls": [receiver.url]}) as service:
        id = end_batch(store)
        await until(lambda: receiver.received)
        (target,) = service.store.targets()
        secret = service.secrets.read(target.id)
    assert secret is not None
    client = openai.OpenAI(api_key="none", webhook_secret=secret.current)
    headers, body = receiver.received[0]
    event = client.webhooks.unwrap(body, headers)
    assert (event.type, event.data.id, event.object) == ("batch.completed", id, "event")
    assert headers["webhook-id"] == event.id == json.loads(body)["id"]
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body + b" ", headers)
    files = list((tmp_path / ".batch" / "webhooks").glob("*"))
    assert store.is_shared or len(files) == 1, "services that share a database have the secrets there"
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


async def test_an_event_is_sent_again_under_its_id_until_it_is_taken(
    tmp_path: Path, store: Store, receiver: EventReceiver
) -> None:
    receiver.statuses = [500, 302, 429]
    async with notifying(tmp_path, store, notifications={"urls": [receiver.url]}) as service:
        end_batch(store)
        await until(lambda: service.store.newest(1) and service.store.newest(1)[0].state is DeliveryState.DELIVERED)
        (delivery,) = service.store.newest(10)
    assert len(receiver.received) == 4 == delivery.attempts, "a redirect is not followed"
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1
    assert len({body for _, body in receiver.received}) == 1


async def test_a_disk_that_is_full_at_the_start_does_not_end_the_service(
    tmp_path: Path, store: Store, receiver: EventReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task's end would be the whole service's."""
    kind = SharedSecrets if store.is_shared else SecretFiles
    ensure, refusals = kind.ensure, 2

    def refuse_at_first(self: SecretFiles, target: str) -> Any:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise DiskFull()
        return ensure(self, target)

    monkeypatch.setattr(kind, "ensure", refuse_at_first)
    async with notifying(tmp_path, store, notifications={"urls": [receiver.url]}):
        end_batch(store)
        await until(lambda: receiver.received)
    assert refusals < 0


async def test_an_event_that_nobody_takes_is_failed_and_sent_again_on_request(
    tmp_path: Path, store: Store, receiver: EventReceiver
) -> None:
    receiver.statuses = [500, 500]
    async with notifying(tmp_path, store, retries=1, notifications={"urls": [receiver.url]}) as service:
        end_batch(store)
        await until(lambda: service.store.newest(1) and service.store.newest(1)[0].state is DeliveryState.FAILED)
        (delivery,) = service.store.newest(1)
        assert (delivery.attempts, delivery.last_status) == (2, 500)
        service.store.send_again(delivery.sequence)
        await until(lambda: service.store.newest(1)[0].state is DeliveryState.DELIVERED)


async def test_a_receiver_that_is_gone_is_switched_off(tmp_path: Path, store: Store, receiver: EventReceiver) -> None:
    receiver.statuses = [410]
    async with notifying(tmp_path, store, notifications={"urls": [receiver.url]}) as service:
        end_batch(store)
        await until(lambda: not service.store.targets()[0].is_enabled)
        end_batch(store)
        assert [one.state for one in service.store.newest(10)] == [DeliveryState.FAILED]
    assert len(receiver.received) == 1
    async with notifying(tmp_path, store, notifications={"urls": [receiver.url]}) as service:
        await until(lambda: service.store.targets()[0].is_enabled)
        end_batch(store)  # what the settings name is told again from the next start on
        await until(lambda: len(receiver.received) == 2)


def test_without_anybody_to_tell_nothing_is_written(store: Store) -> None:
    end_batch(store)
    assert store.read("select count(*) from notification_event") == [(0,)]


async def test_only_the_types_that_an_endpoint_asks_for_are_told_to_it(store: Store) -> None:
    target = Target(id="we_1", name="n", url="http://127.0.0.1", event_types=["batch.failed"], created_at=1, updated_at=1)
    NotificationStore(store).put_target(target)
    end_batch(store)
    end_batch(store, BatchStatus.CANCELLED)
    assert store.read("select count(*) from notification_event") == [(0,)]
    NotificationStore(store).put_target(Target(id="we_2", name="n", url="", event_types=[], created_at=1, updated_at=1))
    end_batch(store, BatchStatus.EXPIRED)
    assert [(one.target, one.type) for one in NotificationStore(store).newest(9)] == [("we_2", "batch.expired")]


async def test_what_was_not_told_before_a_kill_is_told_by_the_next_service(
    tmp_path: Path, store: Store, receiver: EventReceiver
) -> None:
    async with notifying(tmp_path, store, notifications={"urls": [receiver.url]}):
        pass
    id = end_batch(store)  # the service is gone by now; the row came with the batch's own
    async with notifying(tmp_path, store, notifications={"urls": [receiver.url]}):
        await until(lambda: receiver.received)
    assert json.loads(receiver.received[0].body)["data"]["id"] == id


async def test_a_receiver_that_does_not_answer_holds_up_no_other(
    tmp_path: Path, store: Store, receiver: EventReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        async with notifying(tmp_path, store, retries=0, notifications={"urls": [dead, receiver.url]}) as service:
            end_batch(store)
            await until(lambda: receiver.received)
            await until(lambda: all(one.state is not DeliveryState.PENDING for one in service.store.newest(9)))
            states = {one.state for one in service.store.newest(9)}
    assert states == {DeliveryState.DELIVERED, DeliveryState.FAILED}


async def test_a_rotated_secret_signs_beside_the_new_one_for_a_day(
    tmp_path: Path, store: Store, receiver: EventReceiver
) -> None:
    import openai  # here: every test process would pay for it

    async with notifying(tmp_path, store, notifications={"urls": [receiver.url]}) as service:
        (target,) = service.store.targets()
        before = service.secrets.ensure(target.id).current
        after = service.secrets.rotate(target.id, keep_old=True).current
        end_batch(store)
        await until(lambda: receiver.received)
    headers, body = receiver.received[0]
    assert before != after and len(headers["webhook-signature"].split(" ")) == 2
    for secret in (before, after):
        openai.OpenAI(api_key="none", webhook_secret=secret).webhooks.unwrap(body, headers)
    secrets = SecretFiles(tmp_path / "other")
    secrets.ensure("we_1")
    assert len(secrets.rotate("we_1", keep_old=False).valid(time.time())) == 1
    assert len(new_secret().removeprefix("whsec_")) % 4 == 0, "padded"


@pytest.mark.parametrize("ip", ["93.184.216.34", "169.254.169.254", "10.0.0.7", "0.0.0.0", "::ffff:8.8.8.8"])
def test_nothing_is_sent_beyond_this_machine_unless_the_owner_names_it(monkeypatch: pytest.MonkeyPatch, ip: str) -> None:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(family, socket.SOCK_STREAM, 6, "", (ip, 80))])
    with pytest.raises(RefusedAddress):
        resolve(read_url("http://elsewhere.test/hook"), ())
    assert resolve(read_url("http://elsewhere.test/hook"), ("*.test",)).ip == ip, "and dials what was looked up"
    assert resolve(read_url("http://elsewhere.test/hook"), (ip,)).ip == ip


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test"])
def test_a_host_that_can_be_no_name_is_refused_as_such(host: str) -> None:
    with pytest.raises(BadRequest, match="'url' names a host"):
        resolve(read_url(f"http://{host}/hook"), ("*",))


def test_who_is_refused_an_address_hears_where_others_are_named() -> None:
    with pytest.raises(RefusedAddress, match=r"notifications\.hosts"):
        resolve(read_url("http://10.0.0.7/hook"), ())


async def test_an_attempt_that_cannot_be_written_down_is_not_made_again_at_once(
    tmp_path: Path, store: Store, receiver: EventReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full when the receiver has answered: it was sent the event again every second."""
    refusals: list[int] = []

    def refuse(self: NotificationStore, sequence: int, *_: Any, **__: Any) -> None:
        refusals.append(sequence)
        raise DiskFull()

    monkeypatch.setattr(NotificationStore, "record_attempt", refuse)
    async with notifying(tmp_path, store, notifications={"urls": [receiver.url]}) as service:
        end_batch(store)
        await until(lambda: refusals)
        for _ in range(20):  # looks, each of which would have sent it again
            await asyncio.sleep(service_module.LOOK_INTERVAL_S)
        assert len(receiver.received) == 1
        monkeypatch.undo()
        service._held_until.clear()  # its time is over
        await until(lambda: service.store.newest(1)[0].state is DeliveryState.DELIVERED)


def test_a_receiver_is_given_up_when_connecting_alone_took_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer might come a byte at a time, for ever: nobody would end it."""
    monkeypatch.setattr(webhook_sender, "TIMEOUT_S", 0.2)
    create = socket.create_connection

    def create_slowly(*arguments: Any) -> socket.socket:
        time.sleep(0.5)
        return create(*arguments)

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setattr(socket, "create_connection", create_slowly)
        with pytest.raises(TimeoutError):
            webhook_sender.send_webhook(resolve(read_url(url), ()), "evt_1", b"{}", [new_secret()])
        server.settimeout(10)
        with server.accept()[0] as connection:
            assert connection.recv(1) == b"", "nothing was sent"


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://", "http://u:p@127.0.0.1/", "http://127.0.0.1:99999/", "x" * 3000])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        read_url(url)


COMMAND = (
    "import json, os, sys; event = json.load(sys.stdin); "
    "open('told', 'a').write(json.dumps([event['type'], *(os.environ[k] for k in "
    "('BATCH_EVENT', 'BATCH_ID', 'BATCH_STATUS', 'BATCH_OUTPUT_PATH'))]) + chr(10)); print('no luck', file=sys.stderr); "
    "sys.exit(0 if os.path.exists('ok') else 3)"
)


async def test_the_owners_command_is_run_for_every_event_and_tried_three_times(tmp_path: Path, store: Store) -> None:
    told = tmp_path / "told"
    async with notifying(tmp_path, store, on_event=[sys.executable, "-c", COMMAND]) as service:
        id = end_batch(store)
        await until(lambda: service.store.newest(1) and service.store.newest(1)[0].state is DeliveryState.FAILED)
        (delivery,) = service.store.newest(1)
        assert (delivery.target, delivery.attempts, delivery.last_status) == (COMMAND_TARGET, 3, 3)
        assert delivery.last_error == "no luck"
        lines = [json.loads(line) for line in told.read_text().splitlines()]
        assert lines == [["batch.completed", "batch.completed", id, "completed", ""]] * 3
        (tmp_path / "ok").touch()
        end_batch(store, BatchStatus.CANCELLED)
        await until(lambda: service.store.newest(1)[0].state is DeliveryState.DELIVERED)
    async with notifying(tmp_path, store):
        assert service.store.targets() == [], "what the settings no longer name is told nothing"


async def test_a_command_that_does_not_end_is_ended_with_all_that_it_started(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch.notifications import command_hook

    monkeypatch.setattr(command_hook, "TIMEOUT_S", 1.0)
    script = "import os, time; pid = os.fork(); pid and open('pid', 'w').write(str(pid)); time.sleep(600)"
    end = command_hook.run_command([sys.executable, "-c", script], b"{}", {}, tmp_path)
    assert end.status is None and "ran past" in end.error
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not alive(pid))
