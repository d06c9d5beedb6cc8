"""What the drills put into a home, and what they hold against it when the dust has settled."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from batch.queue.channel import Waker
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.supervisor.retention import delete_orphans, delete_unreferenced
from payloads import payload
from running_service import KINDS, RunningService, alive, wait_until
from sounds import wav

AGES = 10 * 365 * 86400.0
"""Seconds after which nothing is fresh any more: what `batch gc` does, with its time shifted."""


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, 77)).save(out, "PNG")
    return out.getvalue()


def sound(number: int) -> bytes:
    return wav(number.to_bytes(2, "little") * 800)


def content(name: str, number: int) -> bytes:
    """Bytes that only this number has, of the kind that the name says."""
    match name.rpartition(".")[2]:
        case "png":
            return picture(number)
        case "wav":
            return sound(number)
    return f"text number {number} {'and so on ' * (300 if number % 5 == 0 else 1)}".encode()


def drop(service: RunningService, name: str, data: bytes) -> None:
    """As a careful program does: written beside, then renamed."""
    path = service.inbox / name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(data)
    partial.rename(path)


@contextlib.contextmanager
def opened(service: RunningService) -> Iterator[Store]:
    """The service's database, from this process."""
    store = open_store(service.home / ".batch" / "batch.db")
    try:
        yield store
    finally:
        store.close()


def chat_draft(text: str, *, pause_ms: int = 0, priority: Priority = Priority.BATCH) -> Draft:
    request = {"messages": [{"role": "user", "content": text}], "generation": {"seed": pause_ms}}
    return Draft(payload("chat", request), Origin.BATCH, priority)


def embed_draft(text: str, *, priority: Priority = Priority.BATCH) -> Draft:
    return Draft(payload("embed", {"inputs": [text]}), Origin.BATCH, priority)


def submit(service: RunningService, *drafts: Draft) -> list[str]:
    """As another process of this home does, say a command."""
    with opened(service) as store:
        waker = Waker(store.path.parent)
        with store.transaction(durable=True) as transaction:
            for draft in drafts:
                transaction.submit(draft)
        for kind in Kind:
            waker.wake(kind)
        waker.close()
    return [draft.id for draft in drafts]


def state(service: RunningService, job: str) -> State | None:
    with opened(service) as store:
        row = store.job(job)
    return row.state if row else None


def count_running(service: RunningService) -> int:
    """How many jobs run."""
    with opened(service) as store:
        return len(store.jobs(state=State.RUNNING))


def is_noted(service: RunningService) -> bool:
    """Whether no file waits for its results, or for their delivery, any more."""
    with opened(service) as store:
        return not store.read("select 1 from file where state in ('waiting', 'writing')")


def worker_pids(service: RunningService) -> dict[str, int]:
    """The workers that have said hello, by kind."""
    with opened(service) as store:
        notes = store.notes()
    found = {kind: (notes.get(f"model:{kind}") or {}).get("pid") for kind in KINDS}
    return {kind: int(pid) for kind, pid in found.items() if pid and alive(int(pid))}


def worker_pid(service: RunningService, kind: str) -> int:
    return int(wait_until(lambda: worker_pids(service).get(kind), f"the {kind} worker has said hello"))


def processes_of(home: Path) -> list[int]:
    """Every process whose home this is, however it came about (Linux; elsewhere none are found)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"BATCH_HOME={home}\0".encode() in (entry / "environ").read_bytes() and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


class Outbox:
    """Looks again and again: a result that is seen is whole, and never changes."""

    def __init__(self, service: RunningService) -> None:
        self.folder = service.outbox
        self.seen: dict[str, bytes] = {}

    def look(self) -> int:
        """How many results there are."""
        for path in self.folder.rglob("*.json"):
            data = path.read_bytes()
            name = os.fspath(path.relative_to(self.folder))
            document = json.loads(data)
            if not name.endswith(".error.json"):
                assert document["source"] == name.removesuffix(".json")
                if document["kind"] != "text":
                    assert path.with_suffix(".txt").exists(), f"{name} came before its text"
            assert self.seen.setdefault(name, data) == data, f"{name} was written twice"
        return len(self.seen)

    def holds(self, names: list[str]) -> bool:
        self.look()
        return all(f"{name}.json" in self.seen for name in names)


def quiet(service: RunningService, seconds: float = 60.0) -> None:
    """Wait until no job is queued or running."""

    def none_left() -> bool:
        with opened(service) as store:
            return not store.read(
                "select 1 from job where kind in ('vlm','embedding','stt') and state in ('queued','running') limit 1"
            )

    wait_until(none_left, f"every job has ended\n{service.output}", seconds)


def assert_tidy(service: RunningService, files: list[str]) -> dict[tuple[str, str], int]:
    """The service is down: its home holds `files` done once each, and no trace of how often it was killed.

    Returns the number of jobs by (origin, state).
    """
    wait_until(lambda: not processes_of(service.home), f"no orphan process: {processes_of(service.home)}", 30)
    leftovers = [path for path in service.outbox.rglob("*") if path.name.startswith(".batch-")]
    assert not leftovers, f"half-written: {leftovers}"
    outbox = Outbox(service)
    outbox.look()
    assert sorted(outbox.seen) == sorted(f"{name}.json" for name in files)
    with opened(service) as store:
        assert store.read("pragma integrity_check") == [("ok",)]
        assert store.read("select job from claim") == [], "an orphan claim"
        assert store.read("select id from job where state='running'") == []
        counted = {
            tuple(row[:4]): row[4]
            for row in store.read("select kind, origin, priority, state, count(*) from job group by 1, 2, 3, 4")
        }
        assert {tuple(row[:4]): row[4] for row in store.tally()} == counted, "the counters are wrong"
        queued = store.read("select id, message from job where state='queued' order by message")
        messages = store.read("select json_extract(data, '$.id'), id from task order by id")
        assert queued == messages, "a job without a message, or a message without a job"
        states = dict(store.read("select state, count(*) from file group by 1"))
        assert {k: n for k, n in store.read("select state, n from file_tally") if n} == states
        assert set(states) <= {"done", "linked"} and sum(states.values()) == len(files)
        by_origin: dict[tuple[str, str], int] = {}
        for (_, origin, _, job_state), n in counted.items():
            by_origin[str(origin), str(job_state)] = by_origin.get((str(origin), str(job_state)), 0) + n
        _assert_no_leak(store, Spool(service.home / ".batch" / "spool"))
    return by_origin


def _assert_no_leak(store: Store, spool: Spool) -> None:
    def swept() -> set[str]:
        while delete_orphans(store, spool, fresh=-AGES):
            pass
        delete_unreferenced(store, spool, older_than=-AGES)
        return set(spool.names())

    assert swept() == {row[0] for row in store.read("select distinct sha256 from blob")}
    assert not list((spool.folder / "tmp").iterdir()), "a half-written payload"
    for origin in Origin:
        while store.expire(origin, time.time() + AGES):
            pass
    kept = {row[0] for row in store.read("select distinct sha256 from blob")}
    assert swept() == kept, "a leaked payload"
