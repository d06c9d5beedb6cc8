"""The hub: what it counts, what it promises to callers it turns away, and what other processes tell it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

from batch.errors import DiskFull, Unavailable
from batch.payloads.chat import MessageDelta
from batch.payloads.embedding import EmbeddingResult
from batch.payloads.events import Delta, Started
from batch.payloads.json_text import encode
from batch.payloads.model_info import ChatModelInfo
from batch.payloads.questions import Detokenize, Detokenized
from batch.payloads.speech import TranscriptionResult
from batch.queue.channel import socket_path
from batch.queue.frames import Answered, DiskWaiting, End, Hello, JobEnded, Ready, WorkerFrame
from batch.queue.hub.hub import Hub
from batch.queue.hub.retry_after import ServiceTimeEstimate
from batch.queue.jobs import Draft, Job, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.store import Ending, Key
from batch.workers.fake_engine import WeightlessEngine
from payloads import payload
from scripted_work import ScriptedWork


def test_refused_callers_are_called_back_one_job_after_another_and_within_two_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = ServiceTimeEstimate()
    for _ in range(50):
        now += 3
        pace.job_ended(3.0)
    assert [pace.refuse() for _ in range(4)] == [3, 6, 9, 12]
    now += 3
    pace.job_ended(3.0)
    assert pace.refuse() == 12, "a place became free, so one promise is kept"
    assert pace.refuse(1000) == 120


def test_before_anything_is_measured_refused_callers_come_back_within_seconds() -> None:
    pace = ServiceTimeEstimate()
    assert {pace.refuse(100) for _ in range(200)} == {1, 2, 3, 4, 5}


def test_a_pack_of_jobs_that_ran_together_counts_its_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = ServiceTimeEstimate()
    for _ in range(5):
        now += 10
        for _ in range(10):
            pace.job_ended(10.0)
    assert [pace.refuse() for _ in range(3)] == [1, 2, 3]


def test_an_idle_spell_does_not_count_as_service_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = ServiceTimeEstimate()
    for _ in range(10):
        now += 600
        pace.job_ended(2.0)
    assert pace.refuse() == 2


def test_the_weightless_engine_reads_large_embedding_calls_from_the_spool(tmp_path: Path) -> None:
    work = ScriptedWork(tmp_path, Kind.EMBEDDING, "embed", {"inputs": ["one", "two words"]})
    sha256 = work.keep_result(b'["one", "two words"]')
    spooled = ScriptedWork(tmp_path, Kind.EMBEDDING, "embed", {"blob": sha256})
    engine = WeightlessEngine(Kind.EMBEDDING)
    assert engine.run(work) == engine.run(spooled)


@contextlib.asynccontextmanager
async def open_hub(folder: Path) -> AsyncIterator[Hub]:
    store = open_store(folder / "batch.db")
    hub = Hub(store, Spool(folder / "spool"), folder)
    await hub.start()
    try:
        yield hub
    finally:
        await hub.close()
        store.close()


class PlayedWorker:
    """A worker's end of the stream: its model is in, and it answers what it is told to."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self._folder, self._kind = folder, kind

    async def __aenter__(self) -> PlayedWorker:
        self._reader, self._writer = await asyncio.open_unix_connection(str(socket_path(self._folder, "events")))
        self._say(Hello(queue=self._kind, pid=1, worker=str(self._kind)), Ready(info=ChatModelInfo(model="played")))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    def _say(self, *frames: WorkerFrame) -> None:
        for frame in frames:
            self._writer.write(encode(frame) + b"\n")

    async def asked(self) -> int:
        """The number of the next question."""
        return int(json.loads(await asyncio.wait_for(self._reader.readline(), 20))["number"])

    def answer(self, number: int) -> None:
        self._say(Answered(number=number, answer=msgspec.Raw(encode(Detokenized(self._kind)))))


def test_a_worker_that_goes_takes_no_other_workers_answers_with_it(tmp_path: Path) -> None:
    async def both() -> None:
        async with open_hub(tmp_path) as hub, PlayedWorker(tmp_path, Kind.VLM) as vlm:
            lost = asyncio.create_task(hub.ask(Kind.EMBEDDING, Detokenize(tokens=[])))
            kept = asyncio.create_task(hub.ask(Kind.VLM, Detokenize(tokens=[])))
            number = await vlm.asked()
            async with PlayedWorker(tmp_path, Kind.EMBEDDING) as embedding:
                await embedding.asked()
            with pytest.raises(Unavailable, match="stopped before it answered"):
                await lost
            vlm.answer(number)
            assert await kept == Detokenized("vlm")

    asyncio.run(both())


def test_a_question_waits_for_a_model_that_loads_however_long_that_takes(tmp_path: Path) -> None:
    async def load() -> None:
        async with open_hub(tmp_path) as hub:
            hasty = asyncio.create_task(hub.ask(Kind.VLM, Detokenize(tokens=[]), timeout=0.01))
            assert not (await asyncio.wait({hasty}, timeout=0.3))[0], "it gave up while the model loads"
            hub.models.update(Kind.VLM, status="failed", error="The file is broken.")
            with pytest.raises(Unavailable, match="The file is broken"):
                await hasty
            with pytest.raises(Unavailable, match="The file is broken"):
                await hub.ask(Kind.VLM, Detokenize(tokens=[]))
            async with PlayedWorker(tmp_path, Kind.VLM) as worker:  # it was started once more
                hub.models.update(Kind.VLM, status="loading")
                patient = asyncio.create_task(hub.ask(Kind.VLM, Detokenize(tokens=[])))
                worker.answer(await worker.asked())
                assert await patient == Detokenized("vlm")
                silent = asyncio.create_task(hub.ask(Kind.VLM, Detokenize(tokens=[]), timeout=0.01))
                with pytest.raises(Unavailable, match="did not answer"):
                    await silent

    asyncio.run(load())


def test_a_question_that_waits_for_a_model_ends_with_the_service(tmp_path: Path) -> None:
    async def close() -> None:
        async with open_hub(tmp_path) as hub:
            waiting = asyncio.create_task(hub.ask(Kind.VLM, Detokenize(tokens=[])))
            await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="shutting down"):
            await asyncio.wait_for(waiting, 20)

    asyncio.run(close())


def test_callers_that_wait_when_their_model_fails_are_told_so(tmp_path: Path) -> None:
    def draft() -> Draft:
        return Draft(payload("transcribe"), Origin.HTTP, Priority.INTERACTIVE, waited=True)

    async def play() -> None:
        store = open_store(tmp_path / "state.db")
        hub = Hub(store, Spool(tmp_path / "spool"), tmp_path)
        await hub.start()
        try:
            key = Key(Kind.STT, "key", "what was asked")
            first = await hub.submit(draft())
            (again,), _ = await hub.submit_once(key, [draft()])
            other = await hub.submit(replace(draft(), payload=payload("chat")))
            hub.models.update(Kind.STT, status="failed", error="a.bin is cut short.")
            await hub.turn_away(Kind.STT)
            for ticket in (first, again):
                with pytest.raises(Unavailable, match="cut short"):
                    await ticket.result(TranscriptionResult)
                row = store.job(ticket.id)
                assert row is not None and row.state is State.CANCELLED
            with pytest.raises(Unavailable, match="cut short"):
                await hub.submit(draft())
            with pytest.raises(Unavailable, match="cut short"):
                await hub.submit_once(key, [draft()])
            assert (hub.waiting_clients(Kind.STT), hub.waiting_clients(Kind.VLM), other.ended) == (0, 1, False)
            assert store.ahead(other.id) == 0
            await hub.submit(replace(draft(), waited=False))  # nobody waits: it may take its time
            hub.models.update(Kind.STT, status="loading")
            _, replayed = await hub.submit_once(key, [draft()])
            assert not replayed, "a request that was turned away can be sent again under its key"
        finally:
            await hub.close()
            store.close()

    asyncio.run(play())


def test_clients_whose_worker_waits_for_the_disk_are_told_so_and_bulk_jobs_wait(tmp_path: Path) -> None:
    async def play() -> None:
        async with open_hub(tmp_path) as hub:
            draft = Draft(payload("transcribe"), Origin.HTTP, Priority.INTERACTIVE, waited=True)
            client = await hub.submit(draft)
            other = await hub.submit(Draft(payload("chat"), Origin.HTTP, Priority.INTERACTIVE, waited=True))
            bulk = Draft(payload("transcribe"), Origin.BATCH, Priority.BATCH)
            await hub.in_thread(lambda: hub.store.submit(bulk))
            background = await hub.follow(bulk.id, Kind.STT)
            hub.reports.receive(Kind.STT, DiskWaiting(error=Raw(encode(DiskFull("The disk is full.").record()))))
            with pytest.raises(DiskFull, match="disk is full"):
                await client.result(TranscriptionResult)
            row = await hub.in_thread(lambda: hub.store.job(client.id))
            assert row is not None and row.state is State.CANCELLED, "it does not run for nobody"
            assert not other.ended and not background.ended
            assert (hub.waiting_clients(Kind.STT), hub.waiting_clients(Kind.VLM)) == (0, 1)

    asyncio.run(play())


def test_a_job_that_is_followed_while_it_starts_has_started_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with open_hub(tmp_path) as hub:
            draft = Draft(payload("chat"), Origin.BATCH, Priority.BATCH)
            await hub.in_thread(lambda: hub.store.submit(draft))
            await hub.in_thread(lambda: hub.store.take(Kind.VLM, "worker"))
            loop, read = asyncio.get_running_loop(), hub.store.job

            def read_after_the_first_words(job: str) -> Job | None:
                words = Delta(job=job, delta=MessageDelta(content="one "))
                for event in (Started(job=job), words):
                    asyncio.run_coroutine_threadsafe(receive(event), loop).result(10)
                return read(job)

            async def receive(event: WorkerFrame) -> None:
                hub.reports.receive(Kind.VLM, event)

            monkeypatch.setattr(hub.store, "job", read_after_the_first_words)
            ticket = await hub.follow(draft.id, Kind.VLM)
            hub.reports.receive(Kind.VLM, End(job=draft.id, state=State.DONE))
            events = [type(event) for event in [event async for event in ticket.events()]]
            assert events == [Started, Delta, End], "a second start would mean that the worker died"

    asyncio.run(play())


def test_whatever_is_sent_while_the_service_ends_is_refused_with_the_same_sentence(tmp_path: Path) -> None:
    def draft() -> Draft:
        return Draft(payload("transcribe"), Origin.HTTP, Priority.INTERACTIVE, waited=True)

    async def close() -> None:
        store = open_store(tmp_path / "state.db")
        hub = Hub(store, Spool(tmp_path / "spool"), tmp_path)
        await hub.start()
        waiting = asyncio.create_task((await hub.submit(draft())).result(TranscriptionResult))
        await asyncio.sleep(0)
        await hub.close()
        late = (
            waiting,
            hub.submit(draft()),
            hub.submit_once(Key(Kind.STT, "key", "f"), [draft()]),
            hub.ask(Kind.VLM, Detokenize(tokens=[])),
            hub.keep(b"bytes"),
            hub.cancel("any"),
            hub.in_thread(lambda: store.job("any")),
        )
        for call in late:
            with pytest.raises(Unavailable, match="shutting down"):
                await call
        store.close()

    asyncio.run(close())


def test_a_client_has_its_result_before_its_job_has_ended_and_who_asks_again_meanwhile_has_it_too(tmp_path: Path) -> None:
    def draft() -> Draft:
        return Draft(payload("embed", {"inputs": ["a"]}), Origin.HTTP, Priority.INTERACTIVE, waited=True)

    async def ask() -> None:
        async with open_hub(tmp_path) as hub:
            key = Key(Kind.EMBEDDING, "again", "same")
            (first,), _ = await hub.submit_once(key, [draft()])
            (lease,) = hub.store.take(Kind.EMBEDDING, "w1")
            result = EmbeddingResult(count=1, dimensions=1, vectors="AACAPw==", tokens=[3], ms=1.0)
            ended: list[JobEnded] = []
            hub.listen(ended.append)
            told = End(job=first.id, state=State.DONE, result=msgspec.Raw(encode(result)), is_written=False)
            hub.reports.receive(Kind.EMBEDDING, told)
            assert await first.result(EmbeddingResult) == result and first.ended
            (second,), is_replayed = await hub.submit_once(key, [draft()])
            assert is_replayed and second.id == first.id and not second.ended and not ended
            hub.store.end([Ending(lease, State.DONE, encode(result).decode())])
            hub.reports.receive(Kind.EMBEDDING, End(job=first.id, state=State.DONE))
            async with asyncio.timeout(20):
                assert await second.result(EmbeddingResult) == result
            assert [end.job for end in ended] == [first.id] and hub.waiting_clients(Kind.EMBEDDING) == 0

    asyncio.run(ask())
