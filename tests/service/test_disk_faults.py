"""Disks that are full, broken, read-only or gone: callers are told, files wait, and nothing accepted is lost."""

from __future__ import annotations

import concurrent.futures
import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch.errors import DiskFull
from batch.queue.jobs import Kind, State
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from drill_disk import SmallDisk, allow_writes, mounting, refuse_writes
from drill_home import (
    Outbox,
    chat_draft,
    content,
    count_running,
    drop,
    embed_draft,
    is_noted,
    opened,
    sound,
    state,
    submit,
    worker_pid,
)
from running_service import RunningService, chat, wait_until

Start = Callable[..., RunningService]
needs_mounts = pytest.mark.skipif(mounting() is None, reason="this system lets its users mount nothing")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., SmallDisk]]:
    started: list[SmallDisk] = []

    def make(folder: str, size: str, **variables: str) -> SmallDisk:
        home = tmp_path / "home"
        home.mkdir()
        started.append(service := SmallDisk(home, folder, size, **variables))
        return service

    yield make
    for service in started:
        service.close()


def bulk_job(service: SmallDisk, words: int) -> str:
    """Queue a chat of `words` words, 50 ms each, from a process that sees the service's disk; wait until it runs."""
    script = (
        "import sys; from pathlib import Path\n"
        "from batch.queue.open_store import open_store; from batch.queue.channel import Waker\n"
        "from batch.queue.jobs import *; from batch.payloads.chat import *\n"
        "state = Path(sys.argv[1]) / '.batch'; store = open_store(state / 'batch.db')\n"
        "words = [Message(role='user', content='word ' * int(sys.argv[2]))]\n"
        "asked = ChatPayload(messages=words, generation=GenerationParams(seed=50))\n"
        "draft = Draft(asked, Origin.BATCH, Priority.BATCH)\n"
        "store.submit(draft, durable=True); Waker(state).wake(Kind.VLM); print(draft.id)\n"
    )
    job = service.inside(sys.executable, "-c", script, os.fspath(service.home), str(words)).strip()
    wait_until(lambda: shown(service, job)["state"] == "running", "the bulk job runs")
    return job


def shown(service: SmallDisk, job: str) -> dict[str, Any]:
    found = service.inside(sys.executable, "-m", "batch", "show", "--json", job)
    return dict(json.loads(found))


@needs_mounts
@pytest.mark.slow
def test_with_the_disk_full_a_request_is_507_the_inbox_waits_and_all_goes_on_once_there_is_space(
    small_disk: Callable[..., SmallDisk],
) -> None:
    service = small_disk(".batch", "6m")
    service.start()
    service.ready()
    assert service.call("vlm", "/v1/chat/completions", chat("hello there"))[0] == 200
    outbox = Outbox(service)
    # Before the disk is full: what is noted later may not be there.
    status = lambda: json.loads(service.inside(sys.executable, "-m", "batch", "status", "--json"))  # noqa: E731
    pid = wait_until(lambda: status()["models"]["vlm"]["pid"], "the worker's pid is noted")
    bulk = bulk_job(service, 250)
    service.fill()
    wait_until(lambda: service.call("vlm", "/v1/chat/completions", chat("hello"))[0] == 507, "told of it")
    code, answer = service.call("embedding", "/v1/embeddings", {"model": "any", "input": ["text " * 30_000] * 4})
    assert code == 507 and "disk is full" in answer["error"]["message"]
    assert service.call("stt", "/inference", _form(sound(1) * 30), headers=_FORM)[0] == 507
    names = ["one.txt", "two.png", "three.wav"]
    for number, name in enumerate(names):
        drop(service, name, content(name, number))
    wait_until(lambda: "The inbox" in service.output and "wait" in service.output, service.output)
    wait_until(
        lambda: "The vlm worker waits" in service.output or "The vlm queue waits" in service.output,
        f"the bulk job's end waits\n{service.output}",
    )
    os.kill(pid, signal.SIGKILL)  # worse comes to worse
    assert service.process is not None and service.process.poll() is None
    assert outbox.look() == 0, "nothing is told to be wrong with the files"
    service.free()
    wait_until(lambda: outbox.holds(names), f"the files are done\n{service.output}")
    wait_until(lambda: shown(service, bulk)["state"] == "done", f"the bulk job is done\n{service.output}")
    wait_until(lambda: service.call("vlm", "/v1/chat/completions", chat("hello"))[0] == 200, "callers are answered")
    assert service.stop() == 0, service.output


@needs_mounts
def test_a_stop_signal_with_the_disk_full_still_ends_the_service_and_loses_nothing(
    small_disk: Callable[..., SmallDisk],
) -> None:
    service = small_disk(".batch", "6m", BATCH_QUEUE__GRACE="0.5")
    service.start()
    service.ready("vlm")
    bulk = bulk_job(service, 600)
    service.fill()
    held = os.open(service.disk, os.O_RDONLY)  # outlives the service's own mounts
    try:
        assert service.stop() == 0, service.output
        kept = Path(f"/proc/self/fd/{held}")
        (kept / ".filler").unlink()
        copy = service.home / "copy"
        shutil.copytree(kept, copy, ignore=lambda _, names: [n for n in names if n in ("run", "spool")])
    finally:
        os.close(held)
    store = open_store(copy / "batch.db")
    store.recover(Kind.VLM, "w2", 3)
    job = store.job(bulk)
    store.close()
    assert job is not None and job.state is State.QUEUED


@needs_mounts
def test_a_start_on_a_full_disk_is_one_sentence(small_disk: Callable[..., SmallDisk]) -> None:
    service = small_disk(".batch", "64k")
    found = subprocess.run(
        [
            *service.prefix,
            "sh",
            "-c",
            'dd if=/dev/zero of="$0/.filler" bs=1k 2>/dev/null; exec "$@"',
            os.fspath(service.home / ".batch"),
            sys.executable,
            "-m",
            "batch",
            "serve",
            "--home",
            os.fspath(service.home),
            "--vlm-port",
            "0",
            "--embedding-port",
            "0",
            "--stt-port",
            "0",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env=service._environment,
    )
    assert found.returncode == 1
    assert "disk" in found.stderr and len(found.stderr.strip().splitlines()) == 1, found.stderr


@needs_mounts
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_with_the_outbox_full_or_read_only_results_wait_and_are_written_once_they_can_be(
    small_disk: Callable[..., SmallDisk], trouble: str
) -> None:
    service = small_disk("outbox", "256k")
    service.start()
    service.ready()
    if trouble == "full":
        service.fill()
    else:
        service.remount("ro")
    names = ["one.txt", "two.png", "three.wav"]
    for number, name in enumerate(names):
        drop(service, name, content(name, number))
    wait_until(lambda: "cannot be written to" in service.output, f"told of it\n{service.output}")
    assert service.call("vlm", "/v1/chat/completions", chat("hello"))[0] == 200
    left = lambda: [path for path in service.disk.rglob("*") if path.name != ".filler"]  # noqa: E731
    wait_until(lambda: not left(), "no half-written file stays; while it is tried again there may be one")
    assert service.output.count("cannot be written to") <= 2, "told once, not at every try"
    if trouble == "full":
        service.free()
    else:
        service.remount("rw")
    wait_until(lambda: all((service.disk / f"{name}.json").exists() for name in names), f"written\n{service.output}")
    for name in names[1:]:
        assert (service.disk / f"{name}.txt").exists()
    assert service.stop() == 0


@needs_mounts
def test_a_payload_that_does_not_fit_into_the_spool_is_507_and_what_fits_is_done(
    small_disk: Callable[..., SmallDisk],
) -> None:
    service = small_disk(".batch/spool", "1m")
    service.start()
    service.ready()
    outbox = Outbox(service)
    status, _ = service.call("stt", "/inference", _form(sound(1) * 2000), headers=_FORM)
    assert status == 507
    assert list((service.disk / "tmp").iterdir()) == [], "no part of it is left"
    drop(service, "long.wav", sound(2) + b"\1\2" * (2 << 20))
    wait_until(lambda: "The inbox waits" in service.output or "inbox and the outbox wait" in service.output, "it waits")
    drop(service, "short.wav", sound(3))
    wait_until(lambda: outbox.holds(["short.wav"]), f"a smaller one is done\n{service.output}")
    assert sorted(outbox.seen) == ["short.wav.json"]
    assert service.call("stt", "/inference", _form(sound(1)), headers=_FORM)[0] == 200
    service.remount("size=64m")
    wait_until(lambda: outbox.holds(["long.wav"]), f"there is space now\n{service.output}")
    assert service.stop() == 0


_FORM = {"Content-Type": "multipart/form-data; boundary=line"}


def _form(data: bytes) -> bytes:
    head = '--line\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return head.encode() + data + b"\r\n--line--\r\n"


# -- a disk that fails


def test_writes_that_fail_in_the_service_are_507_and_make_the_inbox_wait(start_service: Start) -> None:
    service = start_service().ready()
    outbox = Outbox(service)
    assert service.process is not None
    refuse_writes(service.process.pid)
    status, answer = service.call("vlm", "/v1/chat/completions", chat("hello"))
    assert status == 507 and "look after its disk" in answer["error"]["message"]
    status, _ = service.call("embedding", "/v1/embeddings", {"model": "any", "input": ["text " * 30_000] * 4})
    assert status == 507
    names = ["one.txt", "two.png", "three.wav"]
    for number, name in enumerate(names):
        drop(service, name, content(name, number))
    wait_until(lambda: "look after its disk" in service.output, service.output)
    assert service.process.poll() is None and outbox.look() == 0
    allow_writes(service.process.pid)
    wait_until(lambda: outbox.holds(names), f"all goes on\n{service.output}")
    assert service.call("vlm", "/v1/chat/completions", chat("hello"))[0] == 200
    assert service.stop() == 0, service.output


def test_writes_that_fail_in_a_worker_make_its_jobs_wait_and_a_caller_still_gets_its_answer(
    start_service: Start,
) -> None:
    service = start_service().ready()
    pid = worker_pid(service, "vlm")
    words = [f"word{number}" for number in range(20)]
    (bulk,) = submit(service, chat_draft("word " * 120, pause_ms=50))
    wait_until(lambda: state(service, bulk) is State.RUNNING, "a bulk job runs")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        caller = pool.submit(service.call, "vlm", "/v1/chat/completions", chat(" ".join(words), pause_ms=200))
        wait_until(lambda: count_running(service) == 2, "a caller's job runs inside it")
        refuse_writes(pid)
        status, answer = caller.result(60)
    assert status == 200 and answer["choices"][0]["message"]["content"].split() == words
    wait_until(lambda: "The vlm worker waits" in service.output, service.output)
    assert state(service, bulk) is State.RUNNING
    allow_writes(pid)
    wait_until(lambda: state(service, bulk) is State.DONE, f"done\n{service.output}")
    with opened(service) as store:
        assert {job.state for job in store.jobs()} == {State.DONE}
        assert {job.attempts for job in store.jobs()} == {1}
        assert store.read("select job from claim") == []
        assert store.read("pragma integrity_check") == [("ok",)]


def test_while_a_worker_cannot_write_every_client_is_told_so_in_bounded_time(start_service: Start) -> None:
    """The service's own writes may still fit on a nearly full disk: a request is accepted, and then nobody can take it. What an
    idle worker is handed before it writes anything it answers, row or no row."""
    service = start_service().ready("embedding")
    pid = worker_pid(service, "embedding")
    assert service.call("embedding", "/v1/embeddings", {"input": "x"})[0] == 200
    refuse_writes(pid)
    bodies: list[Any] = [{"input": "x"}, {"input": ["some", "texts"]}, {"input": ["text " * 30_000] * 4}, {"input": "y " * 9}]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: service.call("embedding", "/v1/embeddings", body, timeout=45), bodies * 4))
    refused = [status for status, _ in answers if status != 200]
    assert set(refused) == {507} and len(refused) > len(answers) / 2, answers
    assert service.health("vlm")[0] == 200
    (bulk,) = submit(service, embed_draft("nobody waits for it"))
    allow_writes(pid)
    wait_until(lambda: service.call("embedding", "/v1/embeddings", {"input": "x"})[0] == 200, "all goes on")
    wait_until(lambda: state(service, bulk) is State.DONE, "the bulk job is done")
    with opened(service) as store:
        assert {job.state for job in store.jobs()} == {State.DONE, State.CANCELLED}, "no job is left over"


def test_an_inbox_that_is_deleted_and_comes_back_is_watched_again(start_service: Start) -> None:
    service = start_service().ready()
    outbox = Outbox(service)
    drop(service, "one.txt", b"the first")
    wait_until(lambda: outbox.holds(["one.txt"]), "done")
    shutil.rmtree(service.inbox)
    assert service.call("vlm", "/v1/chat/completions", chat("hello"))[0] == 200
    service.inbox.mkdir()
    drop(service, "folder/two.txt", b"the second")
    wait_until(lambda: outbox.holds(["one.txt", "folder/two.txt"]), f"done\n{service.output}")
    assert service.stop() == 0


def test_an_outbox_that_is_deleted_is_made_again_and_lost_results_come_back_at_the_next_start(
    start_service: Start,
) -> None:
    service = start_service().ready()
    drop(service, "folder/one.txt", b"the first")
    wait_until((service.outbox / "folder/one.txt.json").exists, "done")
    wait_until(lambda: is_noted(service), "noted")
    shutil.rmtree(service.outbox)
    drop(service, "folder/two.txt", b"the second")
    wait_until((service.outbox / "folder/two.txt.json").exists, f"done\n{service.output}")
    assert service.stop() == 0
    service.start()
    wait_until((service.outbox / "folder/one.txt.json").exists, "written again")


# -- at the file layer, where nothing can be mounted


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_whatever_the_disk_refuses_the_spool_says_disk_full_and_keeps_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    spool = Spool(tmp_path / "spool")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(DiskFull) as told:
            spool.keep(b"bytes", durable=True)
    assert told.value.status == 507 and told.value.message.endswith((".", "again."))
    if call in ("write", "replace"):
        assert list(spool.names()) == []
    assert list((tmp_path / "spool" / "tmp").iterdir()) == []
    assert spool.read(spool.keep(b"bytes")) == b"bytes"


def test_what_the_source_of_a_payload_raises_is_not_the_disks_fault(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise OSError(errno.EIO, "the caller's own")

    with pytest.raises(OSError, match="the caller's own"):
        Spool(tmp_path / "spool").keep_chunks(chunks())


def test_a_database_that_may_not_grow_says_disk_full_and_keeps_what_it_has(tmp_path: Path) -> None:
    store = open_store(tmp_path / "batch.db")
    store.submit(embed_draft("accepted"))
    pages = store.read("pragma page_count")[0][0]
    store.read(f"pragma max_page_count={pages}")
    with pytest.raises(DiskFull):
        for _ in range(1000):
            store.submit(embed_draft("text " * 1000))
    held = store.read("select count(*) from job")[0][0]
    assert held == store.read("select count(*) from task")[0][0], "row and message, or neither"
    store.read("pragma max_page_count=1000000")
    store.submit(embed_draft("there is space again"))
    assert store.take(Kind.EMBEDDING, "w1")
    store.close()


def test_a_database_on_a_read_only_disk_says_so(tmp_path: Path) -> None:
    store = open_store(tmp_path / "batch.db")
    store._conn.execute("pragma query_only=on")
    with pytest.raises(DiskFull, match=r"batch\.db cannot be read or written"):
        store.submit(embed_draft("x"))
    store.close()


def test_other_errors_of_the_database_stay_what_they_are(tmp_path: Path) -> None:
    store = open_store(tmp_path / "batch.db")
    with pytest.raises(sqlite3.OperationalError, match="no such table"), store.transaction() as transaction:
        transaction.execute("select * from nowhere")
    store.close()
