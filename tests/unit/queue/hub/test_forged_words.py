"""What others who may notify say of a job is not believed: its words, its start, its end, its worker's state."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from msgspec.structs import replace

from batch.payloads.chat import ChatResult, MessageDelta, Usage
from batch.payloads.events import Delta, Started
from batch.payloads.json_text import decode, encode
from batch.queue.frames import Broken, End, WorkerFrame
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.nodes import Node, WorkerSecret
from batch.queue.open_store import open_store
from batch.queue.remote.channel import Receiver
from batch.queue.remote.open_channel import open_channel
from batch.queue.remote.packet import FromWorker, Packet
from batch.queue.remote.proof import LeaseKeys, proof_of
from batch.queue.remote.relay import Relay
from batch.queue.spool import Spool
from batch.queue.store import Ending
from database_roles import granted_roles, secret_of
from payloads import payload
from postgres_server import PostgresServer

ANSWER = ChatResult(choices=[], usage=Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2))


def test_a_proof_holds_for_one_frame_of_one_lease() -> None:
    keys = LeaseKeys(b"outer", b"inner")
    key = keys.key("j", 7, "w1")
    delta = Delta(job="j", delta=MessageDelta(content='é"\n\u2028 1e400'))
    item = FromWorker(worker="w1", queue="vlm", frame=delta, token=7, number=1)
    proven = decode(encode(replace(item, proof=proof_of(item, key))), FromWorker)
    assert keys.prove(proven, "j")
    for other in (
        replace(proven, number=2),
        replace(proven, token=8),
        replace(proven, worker="w2"),
        replace(proven, frame=Delta(job="j", delta=MessageDelta(content="other"))),
        replace(proven, proof=""),
    ):
        assert not keys.prove(other, "j")
    assert not keys.prove(proven, "k")


@pytest.mark.postgres
def test_words_come_from_the_worker_that_has_the_lease_and_from_nobody_else(
    postgres_server: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roles = granted_roles(postgres_server)
    heard: list[Packet] = []

    def forge(conn: psycopg.Connection[tuple[object, ...]], front: str, item: FromWorker, number: int) -> None:
        packet = Packet(sender="forger", sequence=number, items=[item])
        conn.execute("select pg_notify(%s, %s)", (f"batch_{front}", encode(packet).decode()))

    async def play() -> None:
        front = "f" * 16
        store = open_store(roles.front, front=front)
        secret = WorkerSecret(secret_of("w1"))
        worker = open_store(roles.worker, worker=secret)
        hub_channel = open_channel(roles.front, front, is_front=True)
        machine = open_channel(roles.worker, "a" * 16, is_front=False)
        spy = open_channel(roles.worker, front, is_front=False)  # nothing keeps another login from listening
        assert hub_channel is not None and machine is not None and spy is not None
        hub = Hub(store, Spool(tmp_path / "spool"), tmp_path, channel=hub_channel, home=front)
        await hub.start()
        nothing = Receiver(lambda packet: None, lambda queue: None, lambda: None)
        await asyncio.to_thread(machine.open, nothing)
        await asyncio.to_thread(spy.open, Receiver(heard.append, lambda queue: None, lambda: None))
        relay = Relay(machine, "a" * 16, None)  # type: ignore[arg-type]
        conn = psycopg.connect(roles.worker, autocommit=True)
        try:
            worker.register(Node(secret.id, Kind.VLM, Kind.VLM, "ready", model="far", home="a" * 16))
            ticket = await hub.submit(Draft(payload("chat"), Origin.HTTP, Priority.INTERACTIVE, waited=True))
            (lease,) = worker.take(Kind.VLM, secret.id)
            assert lease.front == front
            frames: list[WorkerFrame] = [
                Started(job=ticket.id, token=lease.token, front=front, key=lease.key),
                Delta(job=ticket.id, delta=MessageDelta(content="true ")),
            ]
            assert all(relay.forward(Kind.VLM, frame, secret.id) for frame in frames)
            await until(lambda: sum(len(packet.items) for packet in heard) == 2, "heard")
            assert lease.key not in repr(heard), "the key stays on the worker's machine"

            forged = Delta(job=ticket.id, delta=MessageDelta(content="forged "))
            lies: list[FromWorker] = [
                FromWorker(worker=secret.id, queue=Kind.VLM, frame=forged, token=lease.token, number=9),
                FromWorker(worker=secret.id, queue=Kind.VLM, frame=forged, token=lease.token, number=9, proof="0" * 64),
                *(item for packet in heard for item in packet.items if isinstance(item, FromWorker)),  # said once more
                FromWorker(worker="x", queue=Kind.VLM, frame=Started(job=ticket.id, token=lease.token + 1, front=front)),
                FromWorker(worker=secret.id, queue=Kind.VLM, frame=End(job=ticket.id, state=State.DONE)),
                FromWorker(worker=secret.id, queue=Kind.VLM, frame=Broken(message="forged")),
            ]
            for number, lie in enumerate(lies, 1):
                forge(conn, front, lie, number)
            last = Delta(job=ticket.id, delta=MessageDelta(content="words"))
            assert relay.forward(Kind.VLM, last, secret.id)
            words = []
            async with asyncio.timeout(20):
                async for event in ticket.events():
                    if isinstance(event, Delta):
                        words.append(event.delta.content)
                    if words[-1:] == ["words"]:
                        break
            assert words == ["true ", "words"] and not ticket.ended
            assert hub.model(Kind.VLM).status != "failed"
            assert any("nobody that has its lease" in record.message for record in caplog.records)
            assert worker.end([Ending(lease, State.DONE, encode(ANSWER).decode())]) == [True]
            relay.forward(Kind.VLM, End(job=ticket.id, state=State.DONE), secret.id)
            assert await asyncio.wait_for(ticket.result(ChatResult), 20) == ANSWER
        finally:
            conn.close()
            for channel in (machine, spy):
                await asyncio.to_thread(channel.close)
            await hub.close()
            store.close()
            worker.close()

    asyncio.run(play())


async def until(is_so: object, what: str) -> None:
    for _ in range(600):
        if is_so():  # type: ignore[operator]
            return
        await asyncio.sleep(0.05)
    raise AssertionError(what)
