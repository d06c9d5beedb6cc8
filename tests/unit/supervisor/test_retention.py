"""What goes when its days are over, and what never does."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from batch.folder.ledger.file_counts import count_files
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.retention import LedgerRetention
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.settings import Settings
from batch.supervisor.retention import Retention, expiry_times, forget_left_files
from folder_stage import staged
from one_worker import OneWorker
from payloads import payload

DAYS = {Origin.HTTP: 1.0, Origin.BATCH: 2.0, Origin.INBOX: 4.0, Origin.CLI: 8.0}


def settings_of(home: Path, days: dict[Origin, float]) -> Settings:
    return Settings(home=home, retention={str(origin): value for origin, value in days.items()})  # type: ignore[arg-type]


def ended(store: Store, origin: Origin, days_ago: float) -> str:
    store.submit(Draft(payload("chat"), origin, Priority.BATCH))
    job = store.take(Kind.VLM)
    assert job is not None and store.end(job.id, State.DONE, result="{}")
    at = time.time() - days_ago * 86400
    # As its id would be: it tells when the job was made, and the sweep goes by that.
    id = f"{int((at - 1) * 1000):012x}{job.id[12:]}"
    with store.transaction() as transaction:
        transaction.execute("update job set id=?, created_at=?, finished_at=? where id=?", (id, at - 1, at, job.id))
    return id


def test_each_door_s_jobs_are_kept_for_its_own_days(tmp_path: Path) -> None:
    now = time.time()
    found = expiry_times(settings_of(tmp_path, DAYS))
    assert {origin: round((now - at) / 86400, 3) for origin, at in found.items()} == DAYS
    assert Origin.INBOX not in expiry_times(settings_of(tmp_path, {**DAYS, Origin.INBOX: 0.0})), "0 is for ever"

    store = OneWorker(open_store(tmp_path / ".batch" / "batch.db"))
    kept = {ended(store, origin, days - 0.5) for origin, days in DAYS.items()}
    for origin, days in DAYS.items():
        ended(store, origin, days + 0.5)
    Retention(settings_of(tmp_path, DAYS), store, Spool(tmp_path / "spool")).delete_expired()
    assert {job.id for job in store.jobs()} == kept
    store.close()


def _known(store: Store) -> list[str]:
    return sorted(row[0].decode() for row in store.read("select path from file"))


@pytest.mark.parametrize("slice", [1, 500])
def test_a_file_that_left_the_inbox_is_forgotten_with_its_job_and_one_that_lies_there_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice: int
) -> None:
    for name in ("forget_files", "forget_contents"):
        real = getattr(LedgerRetention, name)
        monkeypatch.setattr(LedgerRetention, name, lambda self, after, before, real=real: real(self, after, before, slice))
    long_after = time.time() + 1e6

    async def play() -> None:
        async with staged(tmp_path) as stage:
            texts = {"gone.txt": "1", "stays.txt": "2", "twin.txt": "1", "empty.txt": "", "hollow.txt": ""}
            for name, text in texts.items():
                stage.drop(name, text)
            await stage.until(lambda: sum(count_files(stage.store)) == 5 and count_files(stage.store).waiting == 0)
            stage.drop("newest.txt", "3")
            await stage.until(lambda: count_files(stage.store).done == 3)
            for name in ("gone.txt", "empty.txt"):
                (stage.inbox / name).unlink()
            await stage.until(lambda: stage.store.read("select count(*) from file where gone=1") == [(2,)])
            ledger, everything = LedgerRetention(stage.store), sorted([*texts, "newest.txt"])

            assert sum(forget_left_files(ledger, time.time() - 1e6)) == 0, "their days are not over"
            assert sum(forget_left_files(ledger, long_after)) == 1, "the job of the other one is there still"
            assert _known(stage.store) == [name for name in everything if name != "empty.txt"]
            with stage.store.transaction() as transaction:
                transaction.execute("delete from job")  # their days are over as well
            assert sum(forget_left_files(ledger, long_after)) == 1
            here = [name for name in everything if name not in ("gone.txt", "empty.txt")]
            assert _known(stage.store) == here
            assert len(stage.store.read("select id from content")) == 3, "the twin's is shared no more, and needed"

            # Nothing that lies there is done again, whatever was forgotten.
            ran = len(stage.ran)
            assert not await stage.folder.scan()
            assert len(stage.ran) == ran

            (stage.inbox / "twin.txt").unlink()
            await stage.until(lambda: stage.store.read("select count(*) from file where gone=1") == [(1,)])
            assert sum(forget_left_files(ledger, long_after)) == 1 and len(stage.store.read("select id from content")) == 2
            assert dict(stage.store.read("select state, n from file_tally where n > 0")) == dict(
                stage.store.read("select state, count(*) from file group by 1")
            )
            # What comes back is taken anew.
            stage.drop("gone.txt", "1")
            await stage.until(lambda: len(stage.ran) == ran + 1)

    asyncio.run(play())


def test_the_service_forgets_files_by_the_inbox_s_days_only(tmp_path: Path) -> None:
    store = OneWorker(open_store(tmp_path / ".batch" / "batch.db"))
    Ledger(store)

    def put(count: int) -> None:
        with store.transaction() as transaction:
            for number in range(count):
                transaction.execute(
                    "insert into file (path, folder, size, mtime_ns, inode, ctime_ns, state, gone, accepted_at, finished_at) "
                    "values (?, x'', 1, 1, 1, 1, 'failed', 1, 1, ?)",
                    (f"{number}".encode(), time.time() - 3 * 86400),
                )

    def walk(days: dict[Origin, float]) -> int:
        Retention(settings_of(tmp_path, days), store, Spool(tmp_path / "spool")).walk()
        return len(_known(store))

    put(1200)
    assert (walk({**DAYS, Origin.INBOX: 0.0})) == 1200
    assert (walk(DAYS)) == 1200
    assert (walk({**DAYS, Origin.INBOX: 2.0})) == 1, "but for the newest"
    assert LedgerRetention(store).forget_files(0, time.time()) == (1200, 0)
    store.close()


def test_a_service_without_the_common_duty_still_deletes_what_crashes_left_in_its_own_home(tmp_path: Path) -> None:
    store = open_store(tmp_path / ".batch" / "batch.db")
    spool = Spool(tmp_path / ".batch" / "spool")
    temporary, growing = spool.folder / "tmp" / "left", tmp_path / ".batch" / "batches" / "batch_gone.output.jsonl"
    growing.parent.mkdir()
    for path in (temporary, growing):
        path.write_bytes(b"left")
        os.utime(path, (0, 0))
    referred = spool.keep(b"what no job of this home refers to may be another home's")
    os.utime(spool.location(referred), (0, 0))
    Retention(settings_of(tmp_path, DAYS), store, spool).tidy_home()
    assert not temporary.exists() and not growing.exists() and spool.location(referred).exists()
    store.close()
