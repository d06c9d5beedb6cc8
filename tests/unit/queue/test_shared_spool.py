"""Payloads of homes that share a database: committed with their job, verified, cached, swept by one at a time."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batch.errors import BatchError, Unavailable
from batch.queue.jobs import Draft, Origin, Priority
from batch.supervisor.retention import unreferenced_steps
from payload_homes import PayloadHomes, payload_homes
from payloads import payload
from postgres_server import PostgresServer

if TYPE_CHECKING:
    from batch.queue.postgres.payloads.shared_spool import SharedSpool

pytestmark = pytest.mark.postgres
LARGE = os.urandom((3 << 20) + 7)
KILLS = int(os.environ.get("DRILL_KILLS", "3"))


@pytest.fixture
def homes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PayloadHomes]:
    yield from payload_homes("postgres", tmp_path, request)


@pytest.fixture(params=["postgres", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PayloadHomes]:
    """Homes that share payloads by the database, or by a bucket."""
    yield from payload_homes(request.param, tmp_path, request)


def draft(*blobs: str) -> Draft:
    return Draft(payload("transcribe"), Origin.CLI, Priority.BATCH, blobs)


def test_a_payload_comes_into_the_database_with_its_job_and_not_before(homes: PayloadHomes) -> None:
    store = homes.store()
    for data in (b"small", LARGE):
        sha256 = homes.spool().keep(data)
        assert not homes.spool("machine").path(sha256).exists(), "nobody refers to it yet"
        with pytest.raises(RuntimeError), store.transaction() as transaction:
            transaction.submit(draft(sha256))
            raise RuntimeError
        assert homes.execute("select 1 from payload where sha256 = %s and part = 0", sha256) == []
        store.submit(draft(sha256), durable=True)
        assert homes.spool("machine").read(sha256) == data


def test_no_job_is_accepted_without_its_payload(homes: PayloadHomes) -> None:
    store = homes.store()
    with pytest.raises(Unavailable, match="are gone"):
        store.submit(draft(homes.spool().keep(b"here"), "ab" * 32))
    assert store.tally() == []


def test_a_job_writes_again_what_the_sweeper_took_of_its_payload(homes: PayloadHomes) -> None:
    front, store = homes.spool(), homes.store()
    sha256 = front.keep(LARGE)
    assert homes.execute("select count(*) from payload where sha256 = %s", sha256) == [(3,)], "all but its first part"
    homes.age(sha256, 7200)
    homes.spool("machine").remove(sha256, older_than=3600)
    assert homes.execute("select count(*) from payload") == [(0,)]
    store.submit(draft(sha256))
    assert homes.spool("machine").read(sha256) == LARGE


def test_a_payload_is_not_swept_while_a_job_that_needs_it_is_being_committed(shared: PayloadHomes) -> None:
    front, sweeper, store = shared.spool(), shared.spool("machine"), shared.store()
    sha256 = front.keep(b"old")
    shared.hold(sha256)
    shared.let_go()
    shared.age(sha256, 7200)
    with store.transaction() as transaction:
        transaction.submit(draft(sha256))
        assert not sweeper.remove(sha256, older_than=0)
    assert not sweeper.remove(sha256, older_than=0), "the job refers to it"
    assert shared.spool("third").read(sha256) == b"old"


def test_payloads_are_kept_and_swept_at_once_and_no_job_is_ever_without_its_own(shared: PayloadHomes) -> None:
    """The sweeper takes whatever nobody refers to, however young, while jobs with the same few payloads come and go."""
    texts = [b"one", b"two", (b"three" * 250_000)]
    is_over = threading.Event()
    swept: list[str] = []

    def sweep() -> None:
        spool = shared.spool("machine")
        while not is_over.is_set():
            swept.extend(spool.remove_unreferenced([hashlib.sha256(text).hexdigest() for text in texts], bool, older_than=0))

    thread = threading.Thread(target=sweep)
    thread.start()
    front, store = shared.spool(), shared.store()
    names = [hashlib.sha256(text).hexdigest() for text in texts]
    try:
        for at in range(40):
            job = draft(front.keep(texts[at % 3]))
            store.submit(job)
            rows = shared.execute(
                "select 1 from payload where sha256 = %s and part = 0 union all "
                "select 1 from payload_object where sha256 = %s and is_whole",
                names[at % 3],
                names[at % 3],
            )
            assert rows, f"job {at} has no payload"
            assert shared.spool("third").read(names[at % 3]) == texts[at % 3]
            (shared.home("third") / ".batch" / "spool" / names[at % 3][:2] / names[at % 3]).unlink()
            with store.transaction() as transaction:
                transaction.execute("delete from job where id=?", (job.id,))
    finally:
        is_over.set()
        thread.join()
    assert swept, "the sweeper did its work meanwhile"


def test_one_sweeper_works_at_a_time(homes: PayloadHomes) -> None:
    from batch.queue.postgres.payloads import sweeper

    front, other = homes.spool(), homes.spool("machine")
    sha256 = front.keep(b"x")
    front.share([sha256])
    homes.age(sha256, 7200)

    def while_another_sweeps(conn: sweeper.Connection) -> bool:
        with conn.transaction():
            assert sweeper.begin(conn)
            return other.remove(sha256, older_than=0)

    assert not front._with_connection(while_another_sweeps)  # type: ignore[attr-defined]
    assert other.remove(sha256, older_than=0)


def test_a_large_payload_is_swept_in_steps(homes: PayloadHomes, monkeypatch: pytest.MonkeyPatch) -> None:
    from batch.queue.postgres.payloads import sweeper

    monkeypatch.setattr(sweeper, "_PARTS_A_STEP", 1)
    front = homes.spool()
    sha256 = front.keep(LARGE)
    front.share([sha256])
    homes.age(sha256, 7200)
    assert front.remove(sha256, older_than=3600)
    assert homes.execute("select count(*) from payload") == [(0,)]


SUBMITTER = """
import os, pathlib, sys
from batch.queue.jobs import Draft, Origin, Priority
from batch.queue.open_store import open_spool, open_store
from batch.payloads.speech import TranscriptionPayload
database, place, home = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
store, spool = open_store(database, home=home), open_spool(database, home / ".batch" / "spool", place)
print("ready", flush=True)
while True:
    sha256 = spool.keep(os.urandom(3 << 20))
    store.submit(Draft(TranscriptionPayload(blob=sha256), Origin.CLI, Priority.BATCH, (sha256,)), durable=True)
    print(sha256, flush=True)
"""


def test_whenever_a_front_is_killed_no_job_is_without_its_payload_and_the_sweeper_takes_the_rest(shared: PayloadHomes) -> None:
    rng = random.Random(14)
    accepted: list[str] = []
    for at in range(KILLS):
        home = shared.home(f"front{at % 2}")
        front = subprocess.Popen(
            [sys.executable, "-c", SUBMITTER, str(shared.database), shared.place, str(home)], stdout=subprocess.PIPE, text=True
        )
        assert front.stdout is not None
        with front:
            front.stdout.readline()
            accepted.append(front.stdout.readline().strip())
            time.sleep(rng.uniform(0, 0.1))  # the moment is what is tried
            front.kill()
            accepted += [line.strip() for line in front.stdout if line.endswith("\n")]
    held = {str(row[0]) for row in shared.execute("select distinct sha256 from blob")}
    assert set(accepted) <= held and len(held) <= len(accepted) + KILLS
    machine, store = shared.spool("machine"), shared.store("machine")
    for sha256 in held:
        assert hashlib.sha256(machine.read(sha256)).hexdigest() == sha256
    for (sha256,) in shared.execute("select sha256 from payload union select sha256 from payload_object"):
        shared.age(str(sha256), 3601)
    for _ in unreferenced_steps(store, machine):
        pass
    assert {str(row[0]) for row in shared.execute("select sha256 from payload union select sha256 from payload_object")} == held
    assert set(machine.names()) == held


# -- what is read is verified


def damage(homes: PayloadHomes, sha256: str) -> None:
    """Other bytes where a payload is kept."""
    if homes.kind == "postgres":
        homes.execute("update payload set data = 'a lie' where sha256 = %s", sha256)
        return
    import obstore
    from obstore.store import S3Store

    store = S3Store.from_url(homes.place, client_options={"allow_http": True})
    ((key,),) = homes.execute("select key from payload_object where sha256 = %s", sha256)
    obstore.put(store, str(key), b"a lie")


def test_a_damaged_payload_is_an_error_and_never_used_and_is_whole_again_once_it_is_sent_again(shared: PayloadHomes) -> None:
    front, store = shared.spool(), shared.store()
    for text in (b"the truth", LARGE):
        sha256 = front.keep(text)
        store.submit(draft(sha256))
        damage(shared, sha256)
        with pytest.raises(BatchError, match="is damaged where it is kept: send the file or request again"):
            shared.spool("machine").path(sha256)
        assert not shared.spool("machine").location(sha256).exists()
        assert front.keep(text) == sha256
        store.submit(draft(sha256))
        assert shared.spool("machine").read(sha256) == text


def test_a_payload_that_arrives_damaged_once_is_fetched_again(shared: PayloadHomes, monkeypatch: pytest.MonkeyPatch) -> None:
    front, machine = shared.spool(), shared.spool("machine")
    sha256 = front.keep(LARGE)
    shared.hold(sha256)
    reads: list[int] = []
    kept_parts = type(machine)._kept_parts  # type: ignore[attr-defined]

    def once_damaged(spool: SharedSpool, name: str) -> Iterator[bytes]:
        reads.append(1)
        for part in kept_parts(spool, name):
            yield b"?" + part[1:] if len(reads) == 1 else part

    monkeypatch.setattr(type(machine), "_kept_parts", once_damaged)
    assert machine.read(sha256) == LARGE and len(reads) == 2


def test_a_damaged_file_of_the_cache_is_fetched_again(homes: PayloadHomes) -> None:
    front = homes.spool()
    sha256 = front.keep(b"the truth")
    homes.hold(sha256)
    path = homes.spool("machine").path(sha256)
    path.write_bytes(b"a lie...")
    assert homes.spool("machine").read(sha256) == b"the truth", "a process that starts looks once"
    front.location(sha256).write_bytes(b"")
    assert front.keep(b"the truth") == sha256 and front.read(sha256) == b"the truth"


def test_the_folder_of_a_machine_does_not_grow_beyond_its_bound(homes: PayloadHomes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.queue.postgres.payloads.shared_spool._SWEEP_EVERY_BYTES", 0)
    front, machine = homes.spool("front"), homes.spool("machine", max_cache_bytes=250)
    names = [front.keep(bytes([n]) * 100) for n in range(5)]
    front.share(names)
    for name in names[:4]:
        os.utime(machine.path(name), (time.time() - 3600,) * 2)
    machine.path(names[4])
    lying = [name for name in names if machine.location(name).exists()]
    assert len(lying) == 3 and names[4] in lying
    assert [machine.read(name) for name in names] == [bytes([n]) * 100 for n in range(5)]


def test_what_nobody_has_used_for_a_day_is_not_kept_in_the_folder(homes: PayloadHomes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.queue.postgres.payloads.shared_spool._SWEEP_EVERY_BYTES", 0)
    front, machine = homes.spool("front"), homes.spool("machine")
    old, new = front.keep(b"old"), front.keep(b"new")
    front.share([old, new])
    os.utime(machine.path(old), (time.time() - 90_000,) * 2)
    machine.path(new)
    assert not machine.location(old).exists() and machine.location(new).exists()


def test_a_payload_cannot_be_committed_while_the_database_is_away_and_is_not_lost(
    homes: PayloadHomes, postgres_server: PostgresServer
) -> None:
    front, store = homes.spool("front"), homes.store()
    job = draft(front.keep(b"while it is away"))
    postgres_server.kill()
    try:
        with pytest.raises(Unavailable):
            store.submit(job)
        with pytest.raises(Unavailable):
            front.keep(LARGE)
    finally:
        postgres_server.start()
    deadline = time.monotonic() + 20
    while True:
        try:
            store.submit(job)
            break
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert homes.spool("machine").read(job.blobs[0]) == b"while it is away"
