"""A move that is killed anywhere, or whose database or disk goes, leaves a home that works, and is made by running it again."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from batch import fail_points
from batch.database_address import FILE, address_of
from batch.errors import BatchError, DiskFull
from batch.fail_points import MOVE_POINTS
from batch.queue.jobs import Draft, Origin, Priority
from batch.queue.open_store import open_store
from batch.queue.store import StoreAway
from full_home import fill, move_to, payloads_of, rows_of
from payloads import payload
from postgres_server import PostgresServer, running_server

pytestmark = pytest.mark.postgres
ROUNDS = int(os.environ.get("DRILL_MOVES", "3"))
SWITCHED = MOVE_POINTS[MOVE_POINTS.index("move-switched") :]


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)
    postgres_server.drop_schemas(url, "batch_moved_%")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with rows in every table."""
    monkeypatch.delenv("BATCH_DATABASE", raising=False)
    fill(tmp_path)
    return tmp_path


def in_a_process_of_its_own(work: Callable[[], object], *, kill_after_s: float | None = None) -> int:
    """Run it in a process that may be killed; its exit status, negative for a signal's number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which here hold nothing
        pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except DiskFull:
            os._exit(3)
        except BaseException:
            os._exit(1)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(point: str, home: Path, target: str) -> None:
    def work() -> None:
        fail_points.arm(point, home / ".batch")
        move_to(home, target)

    assert in_a_process_of_its_own(work) == -signal.SIGKILL


def jobs(home: Path) -> int:
    """How many jobs there are where the home works."""
    with contextlib.closing(open_store(address_of(home), home=home)) as store:
        return int(store.read("select count(*) from job")[0][0])


def submit(home: Path) -> None:
    """One more job, where the home works."""
    with contextlib.closing(open_store(address_of(home), home=home)) as store:
        store.submit(Draft(payload("chat"), Origin.INBOX, Priority.INBOX), durable=True)


@pytest.mark.parametrize("point", MOVE_POINTS)
def test_a_move_that_is_killed_between_two_steps_is_made_by_running_it_again(home: Path, url: str, point: str) -> None:
    file, spool = home / ".batch" / "batch.db", home / ".batch" / "spool"
    before, payloads = rows_of(file), payloads_of(spool)

    killed_at(point, home, url)
    assert address_of(home) == (url if point in SWITCHED else file) and jobs(home) == 4, "the home works, on one side"
    if point == "move-aside":
        move_to(home, url)
    elif point == "move-switched":
        assert rows_of(file) == before, "nothing of the old side has gone"
        move_to(home, url)
    else:
        assert rows_of(file) == before and payloads_of(spool) == payloads
        move_to(home, url)
    assert address_of(home) == url and not file.exists() and jobs(home) == 4

    (home / ".batch" / f"failed-at-{point}").unlink()
    killed_at(point, home, FILE)
    assert address_of(home) == (file if point in SWITCHED else url) and jobs(home) == 4
    move_to(home, FILE)
    assert address_of(home) == file and rows_of(file) == before and payloads_of(spool) == payloads
    assert not list((home / ".batch").glob("*.moving*"))
    with psycopg.connect(url) as conn:
        assert conn.execute("select count(*) from pg_tables where schemaname = 'public'").fetchone() == (0,)


@pytest.mark.parametrize("point", ["move-rows", "move-committed"])
def test_work_that_went_on_between_a_broken_move_and_the_next_comes_along(home: Path, url: str, point: str) -> None:
    killed_at(point, home, url)
    submit(home)
    assert jobs(home) == 5
    move_to(home, url)
    assert jobs(home) == 5

    (home / ".batch" / f"failed-at-{point}").unlink()
    killed_at(point, home, FILE)
    submit(home)
    assert address_of(home) == url and jobs(home) == 6
    move_to(home, FILE)
    assert address_of(home) == home / ".batch" / "batch.db" and jobs(home) == 6


def test_work_on_both_sides_of_a_broken_move_is_never_written_over(home: Path, url: str) -> None:
    killed_at("move-committed", home, url)
    submit(home)
    with contextlib.closing(open_store(url, home=home)) as store:
        store.submit(Draft(payload("chat"), Origin.INBOX, Priority.INBOX))
    with pytest.raises(BatchError, match=r"work on both sides.*Nothing was moved"):
        move_to(home, url)
    assert jobs(home) == 5
    with contextlib.closing(open_store(url, home=home)) as store:
        assert store.read("select count(*) from job") == [(5,)]


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_move_that_is_killed_at_any_moment_is_made_by_running_it_again(home: Path, url: str, seed: int) -> None:
    chance = random.Random(seed)
    file, spool = home / ".batch" / "batch.db", home / ".batch" / "spool"
    before, payloads = rows_of(file), payloads_of(spool)
    for target in (url, FILE):
        while True:
            status = in_a_process_of_its_own(
                lambda target=target: move_to(home, target), kill_after_s=chance.uniform(0.02, 0.9)
            )
            assert status in (0, -signal.SIGKILL, 1) and jobs(home) == 4
            if chance.random() < 0.5:
                break
        with contextlib.suppress(BatchError):  # it was killed behind its last step
            move_to(home, target)
        assert address_of(home) == (file if target == FILE else url) and jobs(home) == 4
    assert rows_of(file) == before and payloads_of(spool) == payloads


def test_a_database_that_goes_in_the_middle_leaves_the_home_on_its_old_side(home: Path) -> None:
    file = home / ".batch" / "batch.db"
    before = rows_of(file)
    with running_server() as server:
        url = server.new_database()
        killed: list[str] = []

        def kill_server(label: str, count: int) -> None:
            if label == moment and label not in killed:
                killed.append(label)
                server.kill()

        for moment in ("payloads", "batch_line"):
            with pytest.raises(StoreAway, match="Nothing was moved: the home works as before"):
                move_to(home, url, kill_server)
            assert moment in killed and address_of(home) == file and rows_of(file) == before
            server.start()
        move_to(home, url)
        moment = "response, read back"
        with pytest.raises(StoreAway, match="Nothing was moved: the home works as before"):
            move_to(home, FILE, kill_server)
        assert moment in killed and address_of(home) == url
        server.start()
        move_to(home, FILE)
        assert rows_of(file) == before


def test_a_disk_that_is_full_on_the_way_back_leaves_the_home_in_the_database(home: Path, url: str) -> None:
    before = rows_of(home / ".batch" / "batch.db")
    move_to(home, url)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        move_to(home, FILE)

    assert in_a_process_of_its_own(work) == 3
    assert address_of(home) == url and jobs(home) == 4
    move_to(home, FILE)
    assert rows_of(home / ".batch" / "batch.db") == before
