"""What one of several services does, and who: in both databases, where a file is its home's alone."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batch.payloads.embedding import EmbeddingPayload
from batch.queue.duties.duty_store import COMMON_DUTY, inbox_duty, presence_of
from batch.queue.duties.guarded_store import DutyLost, guarded
from batch.queue.jobs import Draft, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.remote.inbox_id import MARK_NAME, REMEMBERED_NAME, inbox_id, recognise_inbox
from batch.queue.store import Store
from postgres_server import PostgresServer


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url + "&lease=2"
    postgres_server.empty_database(url)


@pytest.fixture
def fronts(url: str) -> Iterator[tuple[Store, Store]]:
    with contextlib.closing(open_store(url, front="f1")) as one, contextlib.closing(open_store(url, front="f2")) as other:
        yield one, other


def let_run_out(store: Store, duty: str) -> None:
    """As if its holder had not been heard of for long, in a database that has run for longer."""
    deadline = time.monotonic() + 30
    while not store.read("select 1 where clock_timestamp() > pg_postmaster_start_time() + interval '2 s'"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with store.transaction() as transaction:
        transaction.execute(
            "update service set value = json_build_object('front', value::json ->> 'front', 'until', 1)::text where name = ?",
            (duty,),
        )


def test_a_home_that_has_its_database_to_itself_has_every_duty(tmp_path: Path) -> None:
    with contextlib.closing(open_store(tmp_path / ".batch" / "batch.db")) as store:
        assert store.hold([COMMON_DUTY, inbox_duty("")]) == {COMMON_DUTY: True, inbox_duty(""): True}
        assert guarded(store, COMMON_DUTY) is store, "nothing is looked up there"


@pytest.mark.postgres
def test_a_duty_is_one_fronts_until_it_is_gone_and_the_next_one_is_told_that_it_was_anothers(
    fronts: tuple[Store, Store],
) -> None:
    one, other = fronts
    assert [one.hold([COMMON_DUTY])[COMMON_DUTY] for _ in range(3)] == [False, False, True]
    assert other.hold([COMMON_DUTY]) == {}
    one.release([COMMON_DUTY])
    assert one.hold([COMMON_DUTY]) == {COMMON_DUTY: True}, "nobody had it meanwhile"
    one.release([COMMON_DUTY])
    assert other.hold([COMMON_DUTY]) == {COMMON_DUTY: False} and one.hold([COMMON_DUTY]) == {}
    let_run_out(one, COMMON_DUTY)
    assert one.hold([COMMON_DUTY]) == {COMMON_DUTY: False}


@pytest.mark.postgres
def test_a_front_that_never_renewed_a_duty_is_not_told_that_it_had_it_as_it_may_have_done_nothing(
    fronts: tuple[Store, Store],
) -> None:
    one, other = fronts
    other.hold([COMMON_DUTY])
    let_run_out(other, COMMON_DUTY)
    assert one.hold([COMMON_DUTY]) == {COMMON_DUTY: False}
    for _ in range(2):
        one.release([COMMON_DUTY])  # as what it had to do first failed
        assert one.hold([COMMON_DUTY]) == {COMMON_DUTY: False}
    assert one.hold([COMMON_DUTY]) == {COMMON_DUTY: False}, "as after a crash"
    assert one.hold([COMMON_DUTY]) == {COMMON_DUTY: True}


@pytest.mark.postgres
def test_each_inbox_is_a_duty_of_its_own(fronts: tuple[Store, Store]) -> None:
    one, other = fronts
    assert set(one.hold([COMMON_DUTY, inbox_duty("aa")])) == {COMMON_DUTY, inbox_duty("aa")}
    assert set(other.hold([COMMON_DUTY, inbox_duty("bb")])) == {inbox_duty("bb")}
    assert other.hold([inbox_duty("aa")]) == {}


@pytest.mark.postgres
def test_what_a_front_writes_that_was_taken_for_dead_is_refused(fronts: tuple[Store, Store]) -> None:
    one, other = fronts
    one.hold([COMMON_DUTY])
    with guarded(one, COMMON_DUTY).transaction() as transaction:
        transaction.execute("insert into pause values ('vlm', 0)")
    let_run_out(one, COMMON_DUTY)
    with guarded(one, COMMON_DUTY).transaction() as transaction:
        transaction.execute("insert into pause values ('vlm', 5)")  # nobody has taken it over yet
    assert other.hold([COMMON_DUTY])
    with pytest.raises(DutyLost), guarded(one, COMMON_DUTY).transaction() as transaction:
        transaction.execute("insert into pause values ('vlm', 10)")
    assert one.read("select count(*) from pause") == [(2,)]


@pytest.mark.postgres
def test_a_front_that_is_not_heard_of_is_known_to_the_others_until_it_comes_back(fronts: tuple[Store, Store]) -> None:
    one, other = fronts
    one.hold([presence_of("f1")])
    other.hold([presence_of("f2")])
    assert other.silent_fronts() == []
    let_run_out(other, presence_of("f1"))
    assert other.silent_fronts() == ["f1"] and one.silent_fronts() == []
    one.hold([presence_of("f1")])
    other.forget_fronts(["f1"])
    assert other.silent_fronts() == [] and one.read("select count(*) from service where name = 'front f1'") == [(1,)]
    one.release([presence_of("f1")])
    assert other.silent_fronts(600) == ["f1"], "that was stopped"
    other.forget_fronts(["f1"])
    assert other.silent_fronts() == []


@pytest.mark.postgres
def test_what_a_front_accepts_that_came_back_is_not_cancelled_as_what_it_left(fronts: tuple[Store, Store]) -> None:
    one, other = fronts
    one.hold([presence_of("f1")])
    let_run_out(other, presence_of("f1"))
    assert other.silent_fronts() == ["f1"]
    one.hold([presence_of("f1")])
    job = Draft(EmbeddingPayload(inputs=("word",)), Origin.HTTP, Priority.INTERACTIVE, waited=True)
    one.submit(job)
    assert other.abandon_waited("f1") == 0 and one.job(job.id).state is State.QUEUED  # type: ignore[union-attr]
    one.release([presence_of("f1")])
    assert other.abandon_waited("f1") == 1 and one.job(job.id).state is State.CANCELLED  # type: ignore[union-attr]


def test_homes_that_see_a_folder_for_the_first_time_at_once_know_it_by_one_id(tmp_path: Path) -> None:
    homes = [f"{number:016x}" for number in range(16)]
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for home in homes:
        (tmp_path / home).mkdir()
    together = threading.Barrier(len(homes))

    def recognise(home: str) -> str:
        together.wait()
        return recognise_inbox(inbox, tmp_path / home, home)

    with ThreadPoolExecutor(len(homes)) as threads:
        known = set(threads.map(recognise, homes))
    assert known == {(inbox / MARK_NAME).read_text()} and os.listdir(inbox) == [MARK_NAME]


def test_two_homes_know_the_folder_that_both_see_by_one_id_and_others_by_their_own(tmp_path: Path) -> None:
    inbox, one, other = (tmp_path / name for name in ("inbox", "one", "other"))
    for folder in (inbox, one, other):
        folder.mkdir()
    first, second = "a" * 16, "b" * 16
    assert recognise_inbox(inbox, one, first) == first and (inbox / MARK_NAME).read_text() == first
    assert recognise_inbox(inbox, other, second) == first and inbox_id(other) == first and inbox_id(one) == ""
    assert recognise_inbox(tmp_path / "elsewhere", one, first) == first, "a folder that cannot be marked"
    (inbox / MARK_NAME).write_text("no id\n" * 1000)
    assert recognise_inbox(inbox, other, second) == first, "as it was known before"
    (inbox / MARK_NAME).unlink()
    assert recognise_inbox(inbox, other, second) == first
    (inbox / MARK_NAME).unlink()
    (other / REMEMBERED_NAME).unlink()
    assert recognise_inbox(inbox, other, second) == second, "a copy, as a home comes to know one for its own"
