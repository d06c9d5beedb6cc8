"""Several workers of one kind at one hub."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec import Raw

from batch.errors import DiskFull
from batch.payloads.chat import ChatResult, MessageDelta
from batch.payloads.events import Delta, Started
from batch.payloads.json_text import encode
from batch.payloads.model_info import ChatModelInfo
from batch.queue.frames import Broken, DiskWaiting, End, Hello, Loading, Ready
from batch.queue.hub.hub import Hub
from batch.queue.hub.ticket import Ticket
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from hub_stage import opened_hub
from payloads import payload

READY = Ready(info=ChatModelInfo(model="m"))


async def ticket_of(hub: Hub) -> Ticket:
    return await hub.submit(Draft(payload("chat"), Origin.HTTP, Priority.INTERACTIVE, waited=True))


async def connect(hub: Hub, *workers: str) -> None:
    for worker in workers:
        await hub.reports.worker_connected(Hello(queue=Kind.VLM, pid=1, worker=worker))
        hub.reports.receive(Kind.VLM, READY, worker)


def test_a_kind_is_ready_while_one_of_its_workers_is_and_failed_when_all_are(tmp_path: Path) -> None:
    async def play() -> None:
        async with opened_hub(tmp_path) as hub:
            hub.models.succeed(Kind.VLM, "", "a")
            await connect(hub, "a", "b")
            hub.reports.receive(Kind.VLM, Broken(message="a is cut short"), "a")
            assert hub.model(Kind.VLM).status == "ready" and hub.models.ready_workers(Kind.VLM) == ["b"]
            hub.reports.receive(Kind.VLM, Loading(progress=0.5), "b")
            assert (hub.model(Kind.VLM).status, hub.model(Kind.VLM).progress) == ("loading", 0.5)
            hub.reports.receive(Kind.VLM, Broken(message="b is cut short"), "b")
            assert hub.model(Kind.VLM).status == "failed"
            hub.reports.worker_left(Kind.VLM, "a")
            hub.reports.worker_left(Kind.VLM, "b")
            assert hub.model(Kind.VLM).status == "loading", "one may come"

    asyncio.run(play())


def test_the_death_of_a_worker_touches_its_own_jobs_alone(tmp_path: Path) -> None:
    async def play() -> None:
        async with opened_hub(tmp_path) as hub:
            await connect(hub, "a", "b")
            one, other = await ticket_of(hub), await ticket_of(hub)
            hub.reports.receive(Kind.VLM, Started(job=one.id), "a")
            hub.reports.receive(Kind.VLM, Started(job=other.id), "b")
            assert hub.worker_counts(Kind.VLM) == (2, 2)
            assert hub.models.of(Kind.VLM, "a").busy == one.id and hub.models.of(Kind.VLM, "b").busy == other.id
            hub.reports.worker_gone(Kind.VLM, "a")
            assert hub.model(Kind.VLM).status == "ready" and hub.models.of(Kind.VLM, "b").busy == other.id
            hub.reports.receive(Kind.VLM, End(job=other.id, state=State.CANCELLED), "b")
            assert other.ended and not one.ended
            hub.reports.receive(Kind.VLM, Started(job=one.id), "b")
            hub.reports.receive(Kind.VLM, End(job=one.id, state=State.CANCELLED), "b")
            assert one.ended

    asyncio.run(play())


def test_a_worker_is_idle_once_it_has_told_of_its_job_and_may_write_that_down_beside_the_next(tmp_path: Path) -> None:
    async def play() -> None:
        async with opened_hub(tmp_path) as hub:
            await connect(hub, "a")
            first, second = await ticket_of(hub), await ticket_of(hub)
            hub.reports.receive(Kind.VLM, Started(job=first.id), "a")
            assert hub.reports.idle_worker(Kind.VLM) == ("", ())
            hub.reports.receive(Kind.VLM, End(job=first.id, state=State.DONE, is_written=False), "a")
            assert hub.reports.idle_worker(Kind.VLM) == ("a", {first.id})
            hub.reports.receive(Kind.VLM, Started(job=second.id), "a")
            hub.reports.receive(Kind.VLM, End(job=first.id, state=State.DONE, resumes=second.id), "a")
            assert hub.models.of(Kind.VLM, "a").busy == second.id
            hub.reports.receive(Kind.VLM, End(job=second.id, state=State.DONE, is_written=False), "a")
            assert hub.reports.idle_worker(Kind.VLM) == ("a", {second.id})
            hub.reports.worker_gone(Kind.VLM, "a")
            await connect(hub, "a")
            assert hub.reports.idle_worker(Kind.VLM) == ("a", ()), "what it had told is done again"

    asyncio.run(play())


def test_of_queues_that_other_machines_name_nothing_stays_behind_their_last_worker(tmp_path: Path) -> None:
    async def play() -> None:
        async with opened_hub(tmp_path) as hub:
            await connect(hub, "a")
            for number in range(20):
                queue, ticket = f"vlm:model-{number}", await ticket_of(hub)
                hub.reports.receive(queue, READY, "far")
                for job in (ticket.id, "another"):
                    hub.reports.receive(queue, Started(job=job), "far")
                hub.reports.receive(queue, End(job=ticket.id, state=State.DONE, seconds=1.0), "far")
                assert hub.reports.worker_left(queue, "far") == {"another"}
            reports = hub.reports
            assert not [queue for kept in (reports.service_times, reports._unreported) for queue in kept if ":" in queue]
            assert not reports._runner and not reports._started_jobs

    asyncio.run(play())


def test_what_a_worker_says_of_a_job_that_is_anothers_by_now_reaches_nobody(tmp_path: Path) -> None:
    async def play() -> None:
        async with opened_hub(tmp_path) as hub:
            await connect(hub, "a", "b")
            ticket = await ticket_of(hub)

            def say(worker: str, text: str) -> None:
                hub.reports.receive(Kind.VLM, Delta(job=ticket.id, delta=MessageDelta(content=text)), worker)

            hub.reports.receive(Kind.VLM, Started(job=ticket.id, token=1, front="f"), "a")
            say("a", "one ")
            hub.reports.receive(Kind.VLM, Started(job=ticket.id, token=2, front="f"), "b")
            say("a", "late ")
            hub.reports.receive(Kind.VLM, Started(job=ticket.id, token=1, front="f"), "a")
            hub.reports.receive(Kind.VLM, End(job=ticket.id, state=State.FAILED), "a")
            say("b", "two")
            hub.reports.receive(Kind.VLM, End(job=ticket.id, state=State.DONE), "b")
            events = [event async for event in ticket.events()]
            texts = [event.delta.content for event in events if isinstance(event, Delta)]
            assert texts == ["one ", "two"]
            assert [event for event in events if isinstance(event, End)] == [End(job=ticket.id, state=State.DONE)]

    asyncio.run(play())


def test_a_client_is_not_refused_for_one_workers_full_disk_while_another_works(tmp_path: Path) -> None:
    async def play() -> None:
        async with opened_hub(tmp_path) as hub:
            await connect(hub, "a", "b")
            ticket = await ticket_of(hub)
            waiting = DiskWaiting(error=Raw(encode(DiskFull().record())))
            hub.reports.receive(Kind.VLM, waiting, "a")
            assert not ticket.ended
            hub.reports.worker_left(Kind.VLM, "b")
            hub.reports.receive(Kind.VLM, waiting, "a")
            assert ticket.ended
            with pytest.raises(DiskFull):
                await ticket.result(ChatResult)

    asyncio.run(play())
