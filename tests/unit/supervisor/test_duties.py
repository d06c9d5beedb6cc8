"""Duties come and go with the services that share a database, without a restart of anybody."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast

import pytest

from batch.queue.duties.duty_store import presence_of
from batch.queue.hub.hub import Hub
from batch.queue.open_store import open_store
from batch.queue.store import Store, StoreAway
from batch.supervisor.duties.keeper import Duty, DutyKeeper
from postgres_server import PostgresServer

pytestmark = pytest.mark.postgres
T = TypeVar("T")


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url + "&lease=2"
    postgres_server.empty_database(url)


class Front:
    """A service of which nothing is there but its duty, and a hub that is reached by a thread."""

    def __init__(self, url: str, name: str) -> None:
        self.store = open_store(url, front=name)
        self.is_frozen = False
        self.is_failing = False
        self.is_frozen_by_failure = False
        """Whether the database goes away in the same moment."""
        self.told: list[bool] = []
        self.is_at_work = False
        duty = Duty(name="duty", begin=self._begin, end=self._end, refusal="Another has it.")
        self.keeper = DutyKeeper(self.store, cast(Hub, self), [duty], presence_of(name))

    async def in_thread(self, work: Callable[[], T]) -> T:
        if self.is_frozen:
            raise StoreAway()
        return await asyncio.to_thread(work)

    async def _begin(self, is_continued: bool) -> Sequence[asyncio.Task[None]]:
        if self.is_failing:
            self.is_frozen = self.is_frozen_by_failure
            raise OSError("no room")
        self.told.append(is_continued)
        self.is_at_work = True
        return [asyncio.create_task(asyncio.sleep(3600))]

    async def _end(self) -> None:
        self.is_at_work = False


@contextlib.contextmanager
def two_fronts(url: str) -> Iterator[tuple[Front, Front]]:
    one, other = Front(url, "f1"), Front(url, "f2")
    try:
        yield one, other
    finally:
        one.store.close()
        other.store.close()


async def until(what: Callable[[], bool], seconds: float = 15.0) -> float:
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < seconds
        await asyncio.sleep(0.05)
    return time.monotonic() - started


def has_run_for_a_lease(store: Store) -> bool:
    return bool(store.read("select 1 where clock_timestamp() > pg_postmaster_start_time() + interval '2 s'"))


def test_a_duty_is_taken_over_when_its_holder_falls_silent_and_given_up_when_that_one_comes_back(url: str) -> None:
    async def scene(one: Front, other: Front) -> None:
        await until(lambda: has_run_for_a_lease(one.store))
        await one.keeper.start()
        await other.keeper.start()
        running = [asyncio.create_task(front.keeper.run()) for front in (one, other)]
        assert one.is_at_work and not other.is_at_work and one.told == [False]
        one.is_frozen = True
        assert await until(lambda: other.is_at_work) < 2 + 3, "within a lease and three seconds"
        assert other.told == [False] and other.keeper.has("duty")
        one.is_frozen = False
        await until(lambda: not one.is_at_work)
        assert not one.keeper.has("duty") and not any(task.done() for task in running), "it goes on without it"
        other.keeper.release()  # as it is stopped
        running.pop().cancel()
        await until(lambda: one.is_at_work)
        assert one.told == [False, False], "another had it meanwhile"
        for task in running:
            task.cancel()
        await one.keeper.stop()
        assert not one.is_at_work

    with two_fronts(url) as (one, other):
        asyncio.run(scene(one, other))


def test_what_is_past_its_time_is_deleted_by_one_service_at_a_time(url: str) -> None:
    deleted: list[str] = []

    async def scene(one: Front, other: Front) -> None:
        await one.keeper.start()
        await other.keeper.start()
        works = [front.keeper.of_one("duty", lambda name=front.store.front: deleted.append(name)) for front in (one, other)]  # type: ignore[misc]
        for work in works:
            work()
        assert deleted == ["f1"]
        assert other.keeper.of_one("duty", lambda: "of all", otherwise=lambda: "of its home")() == "of its home"
        await one.keeper.stop()
        one.keeper.release()
        await other.keeper.start()
        for work in works:
            work()
        assert deleted == ["f1", "f2"]

    with two_fronts(url) as (one, other):
        asyncio.run(scene(one, other))


def test_a_service_that_cannot_take_a_duty_up_leaves_it_to_another(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(one: Front, other: Front) -> None:
        await one.keeper.start()
        await other.keeper.start()
        other.is_failing = True
        other_runs = asyncio.create_task(other.keeper.run())
        one.keeper.release()  # and asks for it no more for now
        await until(lambda: "cannot be taken up" in caplog.text)
        assert not other.keeper.has("duty") and not other_runs.done()
        other_runs.cancel()
        await until(lambda: "duty" in one.store.hold(["duty"]))

    with two_fronts(url) as (one, other):
        asyncio.run(scene(one, other))


def test_a_database_that_goes_away_while_a_duty_is_taken_up_does_not_end_the_service(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(one: Front, other: Front) -> None:
        await one.keeper.start()
        await other.keeper.start()
        other.is_failing = other.is_frozen_by_failure = True
        other_runs = asyncio.create_task(other.keeper.run())
        one.keeper.release()
        await until(lambda: "cannot be taken up" in caplog.text)
        other.is_failing = other.is_frozen_by_failure = other.is_frozen = False
        await until(lambda: other.is_at_work or other_runs.done())
        assert not other_runs.done() and other.told == [False]
        other_runs.cancel()
        await other.keeper.stop()

    with two_fronts(url) as (one, other):
        asyncio.run(scene(one, other))


def test_a_duty_whose_work_breaks_down_ends_the_service_as_before(url: str) -> None:
    async def scene(one: Front) -> None:
        async def broken() -> None:
            raise ValueError("broken")

        async def begin(is_continued: bool) -> Sequence[asyncio.Task[None]]:
            return [asyncio.create_task(broken())]

        duty = Duty(name="other duty", begin=begin, end=one._end, refusal="Another has it.")
        keeper = DutyKeeper(one.store, cast(Hub, one), [duty], presence_of("f1"))
        await keeper.start()
        with pytest.raises(ValueError, match="broken"):
            await keeper.run()

    with two_fronts(url) as (one, _):
        asyncio.run(scene(one))
