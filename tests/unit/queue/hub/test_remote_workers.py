"""Workers of other homes, as a service's hub sees them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from batch.errors import BatchError
from batch.payloads.chat import ChatResult, MessageDelta, Usage
from batch.payloads.events import Delta, Started
from batch.payloads.json_text import encode
from batch.payloads.model_info import ChatModelInfo
from batch.payloads.questions import Answer, Detokenize, Detokenized, Question
from batch.queue.frames import End
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.nodes import Node
from batch.queue.open_store import open_store
from batch.queue.remote.packet import ForWorker, Packet
from batch.queue.remote.relay import Relay
from batch.queue.spool import Spool
from batch.queue.store import Ending, Key, Lease, Store, StoreAway
from payloads import payload
from played_channel import PlayedNetwork

ANSWER = ChatResult(choices=[], usage=Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2))
RESULT = encode(ANSWER).decode()


class PlayedMachine:
    """A GPU machine without a GPU: a worker's row and its lease are real, what it reports is played."""

    def __init__(self, network: PlayedNetwork, path: Path, worker: str) -> None:
        self.store: Store = open_store(path)
        self.worker = worker
        self.network = network
        self.channel = network.channel("machine")
        self.relay = Relay(self.channel, "machine", self.ask)

    def join(self) -> None:
        info = encode(ChatModelInfo(model="far")).decode()
        self.store.register(Node(self.worker, Kind.VLM, Kind.VLM, "ready", model="far", info=info, home="machine"))

    async def ask(self, worker: str, question: Question, timeout_s: float) -> Answer:
        if worker != self.worker:
            raise BatchError("no such worker")
        return Detokenized("from afar")

    def take(self) -> Lease:
        (lease,) = self.store.take(Kind.VLM, self.worker)
        self.say(Started(job=lease.job.id, token=lease.token, front="front"))
        return lease

    def say(self, frame: Started | Delta | End) -> None:
        assert self.relay.forward(Kind.VLM, frame, self.worker)

    def end(self, lease: Lease) -> None:
        assert self.store.end([Ending(lease, State.DONE, RESULT)]) == [True]


@contextlib.asynccontextmanager
async def front_and_machine(folder: Path) -> AsyncIterator[tuple[Hub, PlayedMachine]]:
    network, path = PlayedNetwork(), folder / "batch.db"
    store = open_store(path)
    hub = Hub(store, Spool(folder / "spool"), folder, channel=network.channel("front"), home="front")
    await hub.start()
    machine = PlayedMachine(network, path, "w1")
    try:
        yield hub, machine
    finally:
        await hub.close()
        store.close()
        machine.store.close()


async def until(is_so: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


def chat() -> Draft:
    return Draft(payload("chat"), Origin.HTTP, Priority.INTERACTIVE, waited=True)


def delta(lease: Lease, text: str) -> Delta:
    return Delta(job=lease.job.id, delta=MessageDelta(content=text))


def test_a_worker_of_another_machine_makes_the_model_ready_answers_questions_and_is_missed_when_it_leaves(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with front_and_machine(tmp_path) as (hub, machine):
            assert hub.model(Kind.VLM).status == "loading"
            asked = asyncio.create_task(hub.ask(Kind.VLM, Detokenize(tokens=[])))
            receive = machine.relay.answer

            def packet(arrived: Packet) -> None:
                for item in arrived.items:
                    assert isinstance(item, ForWorker)
                    loop.call_soon_threadsafe(lambda item=item: tasks.append(asyncio.ensure_future(receive(item, 1.0))))

            loop, tasks = asyncio.get_running_loop(), list[asyncio.Future[None]]()
            machine.channel.receiver = type("Ears", (), {"packet": staticmethod(packet)})()  # type: ignore[assignment]
            machine.join()
            await until(lambda: hub.model(Kind.VLM).status == "ready", "seen")
            assert hub.model(Kind.VLM).name == "far"
            assert await asked == Detokenized("from afar")
            machine.store.leave("w1")
            await until(lambda: hub.model(Kind.VLM).status == "loading", "missed")

    asyncio.run(play())


def test_words_and_the_end_of_a_job_come_from_afar_and_the_end_is_believed_from_the_row(tmp_path: Path) -> None:
    async def play() -> None:
        async with front_and_machine(tmp_path) as (hub, machine):
            machine.join()
            ticket = await hub.submit(chat())
            assert machine.network.channels["front"].woken[-1] == {Kind.VLM}
            lease = machine.take()
            machine.say(delta(lease, "one "))
            machine.say(End(job=ticket.id, state=State.DONE))
            machine.say(Started(job=ticket.id, token=lease.token, front="front"))
            await asyncio.sleep(0.1)
            assert not ticket.ended, "its row says that it runs"
            machine.end(lease)
            machine.say(End(job=ticket.id, state=State.DONE))
            assert await asyncio.wait_for(ticket.result(ChatResult), 20) == ANSWER

    asyncio.run(play())


def test_an_end_that_nobody_reported_is_seen_and_told_once(tmp_path: Path) -> None:
    async def play() -> None:
        async with front_and_machine(tmp_path) as (hub, machine):
            ends: list[str] = []
            hub.listen(lambda ended: ends.append(ended.job))
            machine.join()
            ticket = await hub.submit(chat())
            lease = machine.take()
            machine.end(lease)
            assert await asyncio.wait_for(ticket.result(ChatResult), 20) == ANSWER
            machine.say(End(job=ticket.id, state=State.DONE))
            await asyncio.sleep(0.1)
            assert ends == [ticket.id]

    asyncio.run(play())


def test_an_end_of_a_worker_that_has_gone_is_seen_and_what_it_had_begun_is_not_remembered(tmp_path: Path) -> None:
    async def play() -> None:
        async with front_and_machine(tmp_path) as (hub, machine):
            ends: list[str] = []
            hub.listen(lambda ended: ends.append(ended.job))
            machine.join()
            ended, begun = [await hub.submit(chat()) for _ in range(2)]
            lease = machine.take()
            machine.take()
            await until(lambda: len(hub.reports.jobs_of("w1")) == 2, "heard of")
            for ticket in (ended, begun):
                hub.tickets.remove(ticket.id)  # as of files and batch lines, for which no client waits
            machine.end(lease)
            machine.store.leave("w1")
            await until(lambda: ends == [ended.id], "seen")
            await until(lambda: not hub.reports.jobs_of("w1"), "gone")
            assert not any(hub.reports._unreported.values())

    asyncio.run(play())


def test_a_job_that_ended_is_answered_though_the_database_is_away_when_its_result_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with front_and_machine(tmp_path) as (hub, machine):
            ticket = await hub.submit(chat())
            machine.end(machine.take())
            row, tries = hub.store.job(ticket.id), itertools.count()

            def job(id: str) -> object:
                if next(tries) < 2:
                    raise StoreAway()
                return row

            monkeypatch.setattr(hub.store, "job", job)
            ended = End(job=ticket.id, state=State.DONE)
            assert await asyncio.wait_for(hub.outcome(ticket.id, ChatResult, ended), 20) == ANSWER

    asyncio.run(play())


def test_a_client_that_hangs_up_while_the_database_is_away_has_its_job_cancelled_once_that_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with front_and_machine(tmp_path) as (hub, machine):
            ticket = await hub.submit(chat())

            def cancel(id: str) -> State:
                raise StoreAway()

            with monkeypatch.context() as patch:
                patch.setattr(hub.store, "cancel", cancel)
                await ticket.cancel()
            await until(lambda: machine.store.states([ticket.id])[ticket.id] is State.CANCELLED, "cancelled")
            assert ticket.ended

    asyncio.run(play())


@pytest.mark.parametrize("way", ["waited", "durable", "under a key"])
def test_a_job_that_the_database_lost_is_submitted_again_under_its_id(tmp_path: Path, way: str) -> None:
    async def play() -> None:
        async with front_and_machine(tmp_path) as (hub, machine):
            if way == "under a key":
                (ticket,), _ = await hub.submit_once(Key(Kind.VLM, "key", "fingerprint"), [chat()])
            else:
                ticket = await hub.submit(chat(), durable=way == "durable")
            with machine.store.transaction() as transaction:
                transaction.execute("delete from task")
                transaction.execute("delete from job")
            await until(lambda: machine.store.states([ticket.id]), "submitted again")
            lease = machine.take()
            assert lease.job.id == ticket.id
            machine.end(lease)
            await asyncio.wait_for(ticket.result(ChatResult), 20)

    asyncio.run(play())


def test_a_worker_that_is_not_heard_of_loses_its_jobs_to_another_and_its_late_words_reach_nobody(tmp_path: Path) -> None:
    async def play() -> None:
        async with front_and_machine(tmp_path) as (hub, machine):
            machine.join()
            ticket = await hub.submit(chat())
            lost = machine.take()
            machine.say(delta(lost, "one "))
            with machine.store.transaction() as transaction:
                transaction.execute("update claim set until = until - 1000")
            await until(lambda: machine.store.states([ticket.id])[ticket.id] is State.QUEUED, "reaped")
            machine.worker = "w2"
            machine.join()
            second = machine.take()
            machine.worker = "w1"
            machine.say(delta(lost, "late "))
            machine.worker = "w2"
            machine.say(delta(second, "one two"))
            machine.end(second)
            machine.say(End(job=ticket.id, state=State.DONE))
            texts = [event.delta.content async for event in ticket.events() if isinstance(event, Delta)]
            assert texts == ["one ", "one two"]
            assert second.job.attempts == 2

    asyncio.run(play())


@pytest.mark.parametrize("loses", [False, True])
def test_words_that_come_twice_are_dropped_and_after_a_lost_packet_the_rest_is_left_to_the_result(
    tmp_path: Path, loses: bool
) -> None:
    async def play() -> None:
        async with front_and_machine(tmp_path) as (hub, machine):
            machine.join()
            ticket = await hub.submit(chat())
            lease = machine.take()
            machine.say(delta(lease, "one "))
            front = machine.network.channels["front"]
            front.is_losing, machine.channel.is_repeating = loses, not loses
            machine.say(delta(lease, "two "))
            front.is_losing = False
            machine.say(delta(lease, "three"))
            machine.end(lease)
            machine.say(End(job=ticket.id, state=State.DONE))
            texts = [event.delta.content async for event in ticket.events() if isinstance(event, Delta)]
            assert texts == (["one "] if loses else ["one ", "two ", "three"])

    asyncio.run(play())


def test_words_go_on_after_the_database_was_away_when_none_of_their_job_was_lost(tmp_path: Path) -> None:
    async def play() -> None:
        async with front_and_machine(tmp_path) as (hub, machine):
            machine.join()
            tickets = [await hub.submit(chat()) for _ in range(2)]
            whole, gapped = [machine.take() for _ in tickets]
            front = machine.network.channels["front"]
            for lease in (whole, gapped):
                machine.say(delta(lease, "one "))
            front.is_losing = True
            machine.say(delta(gapped, "two "))
            front.is_losing = False
            assert front.receiver is not None
            front.receiver.reconnected()
            for lease in (whole, gapped):
                machine.say(delta(lease, "three"))
                machine.end(lease)
                machine.say(End(job=lease.job.id, state=State.DONE))
            texts = [[event.delta.content async for event in t.events() if isinstance(event, Delta)] for t in tickets]
            assert texts == [["one ", "three"], ["one "]]

    asyncio.run(play())
