"""Load: the cost of a job does not grow with the queue, nor processes and files with the number of jobs.

More by variables: LOAD_JOBS (queued jobs, 1,000,000 say), LOAD_REQUESTS (10,000), LOAD_FILES (100,000).
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import resource
import socket
import sqlite3
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from batch.api.jobs.event_stream import MAX_PIECE_BYTES, EventStreamResponse
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.retention import LedgerRetention
from batch.payloads.chat import ChatResult, MessageDelta, Usage
from batch.payloads.events import Delta, JobEvent
from batch.queue.frames import End, TicketEvent
from batch.queue.jobs import Draft, JobProgress, Kind, Origin, Priority, State
from batch.queue.messages import message_for
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.sqlite import database
from batch.queue.store import Store
from batch.service_status import gather
from batch.supervisor.retention import delete_orphans, delete_unreferenced
from drill_home import opened
from one_worker import OneWorker
from payloads import payload
from running_service import KINDS, RunningService, wait_until

Start = Callable[..., RunningService]
JOBS = int(os.environ.get("LOAD_JOBS", "30000"))
REQUESTS = int(os.environ.get("LOAD_REQUESTS", "2000"))
FILES = int(os.environ.get("LOAD_FILES", "2000"))


def draft(*, waited: bool = False, blobs: tuple[str, ...] = ()) -> Draft:
    origin, priority = (Origin.HTTP, Priority.INTERACTIVE) if waited else (Origin.INBOX, Priority.INBOX)
    return Draft(payload("chat"), origin, priority, blobs, waited=waited)


def fill(store: Store, count: int) -> None:
    """Queue `count` inbox jobs in one transaction."""
    kinds = [str(kind) for kind in Kind]
    first = time.time_ns() // 1_000_000 - 10 * count
    with store.transaction() as transaction:
        for number in range(count):
            id, kind = f"{first + number:012x}{number:08x}", kinds[number % 3]
            message = transaction.execute(
                "insert into task (queue, data, priority) values (?,?,0.0)", (kind, message_for(id))
            ).lastrowid
            transaction.execute(
                "insert into job (id, kind, task, state, origin, priority, request, message, created_at) "
                "values (?,?,'chat','queued','inbox',0,'{}',?,?)",
                (id, kind, message, time.time()),
            )


def ended(store: Store, count: int, *, waited: bool = True, result: str = "{}") -> None:
    for _ in range(count):
        store.submit(draft(waited=waited))
        job = store.take(Kind.VLM, above=Priority.INTERACTIVE - 1 if waited else None)
        assert job is not None
        store.end(job.id, State.DONE, result=result)


def cost(work: Callable[[], object], times: int = 5) -> float:
    """The least processor time of several runs: what others do on this machine adds to some of them."""
    spent = []
    for _ in range(times):
        begun = time.process_time()
        work()
        spent.append(time.process_time() - begun)
    return min(spent)


# -- the database


class Watched(sqlite3.Connection):
    """Remembers the statements that were run."""

    seen: set[str]

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        self.__dict__.setdefault("seen", set()).add(sql)
        return super().execute(sql, *parameters)

    def executemany(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        self.__dict__.setdefault("seen", set()).add(sql)
        return super().executemany(sql, *parameters)


VALID = {"path": "x'61'", "kind": "'text'", "parameters": "'{}'", "state": "'done'", "jobs": "'{}'"}
"""Values of the ledger's columns that hold more than a number."""


def test_no_statement_walks_through_all_jobs_messages_or_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = sqlite3.connect, []

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        made.append(real(*arguments, **named, factory=Watched))
        return made[-1]

    path = tmp_path / ".batch" / "batch.db"
    OneWorker(open_store(path)).close()
    monkeypatch.setattr(database.sqlite3, "connect", connect)
    store = OneWorker(open_store(path))
    ledger = Ledger(store)
    spool = Spool(tmp_path / "spool")
    for waited in (True, False):
        store.submit(draft(waited=waited, blobs=("ab" * 32,)))
    job = store.take(Kind.VLM)
    assert job is not None
    store.take_mates(job, 8)
    store.is_waiting(Kind.VLM, -1.0)
    store.checkpoint(job.id, 1, "{}")
    store.checkpoints(job.id)
    store.progress(job.id, JobProgress(1))
    store.cancelled(job.id)
    store.refer(job.id, "cd" * 32)
    store.put_back(job.id, count=True)
    store.take(Kind.VLM)
    store.recover(Kind.VLM, 3)
    store.abandon_waited()
    store.take(Kind.VLM)
    store.end(job.id, State.DONE, result="{}")
    other = Draft(payload("transcribe"), Origin.CLI, Priority.BATCH)
    store.submit(other)
    store.ahead(other.id)
    store.cancel(other.id)
    store.retry(other.id)
    store.find(other.id[:19])
    for filters in ({}, {"kind": Kind.STT}, {"state": State.QUEUED}, {"origin": Origin.CLI}):
        store.jobs(**filters)  # type: ignore[arg-type]
    store.tally(), store.today(), store.notes()
    store.expire(Origin.HTTP, time.time())
    delete_orphans(store, spool), delete_unreferenced(store, spool)
    store.vacuum()
    gather(tmp_path / ".batch" / "batch.db")
    ledger.recorded_files(["a", "b"]), ledger.count_present("a"), ledger.present_paths("a"), ledger.present_folders()
    ledger.mark_gone(["a"])
    with store.transaction() as transaction:  # a slice is looked at where there is one
        for table, columns in (
            ("file", "path, folder, size, mtime_ns, inode, ctime_ns, state, accepted_at"),
            ("content", "key, sha256, size, kind, parameters, state, step, job, jobs, created_at"),
        ):
            values = ",".join(VALID.get(column, "0") for column in columns.split(", "))
            transaction.execute(f"insert into {table} ({columns}) values ({values})")
    LedgerRetention(store).forget_files(0, 1.0), LedgerRetention(store).forget_contents(0, 1.0)
    ledger.forget_error("a"), ledger.content_of_job("x"), ledger.unfinished_contents(), ledger.deliveries()
    ledger.delivered_paths()
    statements = {sql for connection in made for sql in connection.__dict__.get("seen", ())}
    assert len(statements) > 50
    walks = []
    with contextlib.closing(real(path)) as plain:
        for sql in sorted(statements):
            if sql.split()[0] not in ("select", "update", "delete", "with", "insert"):
                continue
            rows = plain.execute("explain query plan " + sql, _nothing_for(sql))
            aliases = dict(re.findall(r"(?:from|join|update) (\w+) (?:as )?(\w+)", sql))
            tables = {alias: table for table, alias in aliases.items()}
            for *_, detail in rows:
                if found := re.match(r"SCAN (\w+)", detail):
                    # These hold a few rows: workers, what they have in hand, what a limit has cut off, counters, notes, names
                    # about to be deleted.
                    small = (
                        "claim",
                        "node",
                        "a",
                        "b",
                        "pause",
                        "tally",
                        "daily",
                        "model_tally",
                        "model_daily",
                        "service",
                        "orphan",
                        "file_tally",
                        "f",
                        "CONSTANT",
                        "json_each",
                    )
                    if tables.get(found[1], found[1]) not in small and not _is_slice(sql, detail):
                        walks.append((detail, sql))
    for connection in made:
        connection.close()
    assert walks == []


def _nothing_for(sql: str) -> list[None] | dict[str, None]:
    """As many NULLs as a statement has parameters."""
    if names := re.findall(r":([a-z_]+)", sql):
        return dict.fromkeys(names)
    count = 0
    for number in re.findall(r"\?(\d*)", sql):  # one without a number has the one after the largest so far
        count = max(count, int(number)) if number else count + 1
    return [None] * count


def _is_slice(sql: str, detail: str) -> bool:
    """A walk along an index that a limit ends: the rows it passes over are the few that it is after."""
    return "limit" in sql and any(index in detail for index in ("file_writing", "content_state", "file_folder"))


def test_a_full_queue_costs_a_caller_no_more_than_a_short_one(tmp_path: Path) -> None:
    few, many = OneWorker(open_store(tmp_path / "few.db")), OneWorker(open_store(tmp_path / "many.db"))
    fill(few, 1000)
    fill(many, JOBS)
    spent: dict[Store, list[float]] = {few: [], many: []}
    for _ in range(6):
        for store, seconds in spent.items():
            begun = time.process_time()  # not the clock's: other processes use this machine too
            ended(store, 100)
            seconds.append(time.process_time() - begun)
    assert min(spent[many]) < 2 * min(spent[few]), spent
    for store in (few, many):
        store.close()


def test_status_and_jobs_read_no_more_of_a_full_queue_than_of_a_short_one(tmp_path: Path) -> None:
    figures = []
    for home, count in ((tmp_path / "few", 1000), (tmp_path / "many", JOBS)):
        store = OneWorker(open_store(home / ".batch" / "batch.db"))
        fill(store, count)
        ended(store, 3)

        def look(home: Path = home, store: Store = store) -> None:
            gather(home / ".batch" / "batch.db")
            store.jobs()
            store.jobs(origin=Origin.HTTP)
            store.jobs(state=State.FAILED)

        figures.append(cost(look, 20))
        store.close()
    assert figures[1] < 2 * figures[0] + 0.005, figures


def test_rows_kept_for_ever_do_not_slow_the_status(tmp_path: Path) -> None:
    store = OneWorker(open_store(tmp_path / ".batch" / "batch.db"))
    fill(store, JOBS)
    with store.transaction() as transaction:
        transaction.execute("delete from task")
        transaction.execute("update job set state='done', finished_at=?, started_at=created_at", (time.time(),))
    ended(store, 3)
    assert cost(lambda: gather(tmp_path / ".batch" / "batch.db")) < 0.05
    assert gather(tmp_path / ".batch" / "batch.db")["models"]["stt"]["done_today"] == JOBS // 3
    assert store.expire(Origin.HTTP, time.time() + 1) == 3 and store.expire(Origin.HTTP, time.time() + 1) == 0
    sweep = cost(lambda: store.expire(Origin.HTTP, time.time() + 1))
    assert sweep < 0.05, "the sweep passes over what is kept for ever"
    store.close()


def test_retention_gives_back_rows_payloads_and_the_space_in_the_database_file(tmp_path: Path) -> None:
    path = tmp_path / "batch.db"
    store, spool = OneWorker(open_store(path)), Spool(tmp_path / "spool")
    for number in range(400):
        sha256 = spool.keep(f"payload {number}".encode())
        store.submit(draft(waited=True, blobs=(sha256,)))
        job = store.take(Kind.VLM)
        assert job is not None
        store.refer(job.id, sha256)
        store.end(job.id, State.DONE, result=json.dumps("r" * 20_000))
    _checkpoint(store)
    full = path.stat().st_size
    assert full > 400 * 20_000 and len(list(spool.names())) == 400
    while store.expire(Origin.HTTP, time.time() + 1):
        pass
    while delete_orphans(store, spool, fresh=0.0):
        pass
    assert list(spool.names()) == [] and store.jobs() == []
    while store.vacuum(pages=100):
        pass
    _checkpoint(store)
    assert path.stat().st_size < full / 10
    store.close()


def test_a_long_reader_makes_the_write_ahead_log_grow_only_while_it_reads(tmp_path: Path) -> None:
    path, log = tmp_path / "batch.db", tmp_path / "batch.db-wal"
    store = OneWorker(open_store(path))
    big = json.dumps("r" * 100_000)
    ended(store, 10)
    with contextlib.closing(sqlite3.connect(path)) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from job").fetchone()
        ended(store, 600, result=big)
        assert log.stat().st_size > 1.5 * database.MAX_KEPT_WAL_BYTES, "the reader keeps the log from being taken over"
        reader.execute("rollback")
    # It is cut once a checkpoint got to its end and the next write begins it anew.
    ended(store, 200, result=big)
    ended(store, 50)
    assert log.stat().st_size <= 1.1 * database.MAX_KEPT_WAL_BYTES
    store.close()


def _checkpoint(store: Store) -> None:
    store.read("pragma wal_checkpoint(truncate)")


# -- the service


def chat(text: str, *, pause_ms: int = 0, **more: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": text}], "seed": pause_ms, **more}


async def _post(port: int, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + data)
    lines = (await reader.read()).partition(b"\r\n\r\n")[0].decode().split("\r\n")
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return int(lines[0].split()[1]), {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}


def test_500_callers_at_once_are_all_answered_or_told_when_to_come_back(start_service: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        service = start_service(BATCH_QUEUE__WAITING="300")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    service.ready("vlm")

    async def all_at_once() -> list[tuple[int, dict[str, str]]]:
        calls = [_post(service.ports["vlm"], "/v1/chat/completions", chat("one", pause_ms=10)) for _ in range(500)]
        return await asyncio.gather(*calls)

    answers = asyncio.run(all_at_once())
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    statuses = [status for status, _ in answers]
    assert set(statuses) <= {200, 429} and statuses.count(200) >= 300
    waits = [int(headers["retry-after"]) for status, headers in answers if status == 429]
    assert all(1 <= seconds <= 120 for seconds in waits)
    # All that were accepted take a few seconds here, and that is measured: hardly anybody is sent away for the most.
    assert not waits or statistics.median(waits) < 120
    assert service.call("vlm", "/v1/chat/completions", chat("afterwards"))[0] == 200


def test_a_slow_reader_of_a_stream_holds_up_neither_the_worker_nor_other_callers(start_service: Start) -> None:
    service = start_service().ready("vlm")
    word = "w" * 2500
    body = json.dumps(chat(f"{word} " * 4000, stream=True)).encode()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(60)
        slow.connect(("127.0.0.1", service.ports["vlm"]))
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
        # Behind it in the same queue: answered although not a tenth of the stream has been read.
        assert service.call("vlm", "/v1/chat/completions", chat("hello"), timeout=60)[0] == 200
        rows = json.loads(service.command("jobs", "--json").stdout)
        assert [row["state"] for row in rows] == ["done", "done"], "the worker is through with both"
        rest = bytearray()
        while b"data: [DONE]" not in rest[-100:]:
            rest += slow.recv(1 << 20)
    assert rest.count(b"data: {") >= 4000 and rest.count(word.encode()) == 4000


def test_what_waits_for_a_slow_reader_is_sent_in_pieces_so_that_others_have_their_turn() -> None:
    delta = Delta(delta=MessageDelta(content="x" * 1000))

    class Held:
        id, kind = "1", Kind.VLM

        async def bursts(self) -> AsyncIterator[list[TicketEvent]]:
            yield [*[delta] * 5000, End(job="1", state=State.DONE)]

        async def cancel(self) -> None:
            pass

    class Ended:
        async def outcome(self, job: str, type: type[ChatResult], end: End) -> ChatResult:
            return ChatResult(choices=[], usage=Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2))

    class Plain:
        def event(self, job: int, event: JobEvent) -> bytes:
            assert isinstance(event, Delta)
            return str(event.delta.content).encode()

        def finish(self, job: int, result: ChatResult) -> bytes:
            return b"done"

        def close(self) -> bytes:
            return b"closed"

    stream = EventStreamResponse(Ended(), [Held()], ChatResult, Plain())  # type: ignore[arg-type, list-item]

    async def pieces() -> list[bytes]:
        return [piece async for piece in stream._feed()]

    found = asyncio.run(pieces())
    assert max(map(len, found)) <= MAX_PIECE_BYTES + 1000 and b"".join(found) == b"x" * 5_000_000 + b"doneclosed"


def figures(service: RunningService) -> dict[str, dict[str, int]]:
    """Memory (KB), descriptors and threads of the service and its workers."""
    assert service.process is not None
    found = {}
    for name, pid in {"service": service.process.pid, **{kind: service.worker_pid(kind) for kind in KINDS}}.items():
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        found[name] = {
            "kilobytes": int(status["VmRSS"].split()[0]),
            "threads": int(status["Threads"]),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        }
    return found


@contextlib.contextmanager
def connection(service: RunningService, kind: str) -> Iterator[Callable[[str, dict[str, Any]], int]]:
    line = http.client.HTTPConnection("127.0.0.1", service.ports[kind], timeout=60)

    def call(path: str, body: dict[str, Any]) -> int:
        line.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = line.getresponse()
        answer.read()
        return answer.status

    yield call
    line.close()


def collected(service: RunningService) -> bool:
    assert service.command("gc").returncode == 0
    return json.loads(service.command("jobs", "--json").stdout) == []


def opened_more(service: RunningService, before: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Processes with more than a few descriptors more."""
    now = figures(service)
    return [name for name in before if now[name]["descriptors"] > before[name]["descriptors"] + 4]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the processes' figures from /proc")
@pytest.mark.timeout(3600)
def test_thousands_of_requests_leave_no_memory_descriptor_thread_or_row_behind(start_service: Start) -> None:
    service = start_service(BATCH_RETENTION__HTTP="0.000001").ready()
    database = service.home / ".batch" / "batch.db"
    sizes: list[int] = []
    taken: list[dict[str, dict[str, int]]] = []
    with connection(service, "vlm") as vlm, connection(service, "embedding") as embedding:
        for part in range(2):
            for number in range(REQUESTS // 2):
                if number % 2:
                    assert vlm("/v1/chat/completions", chat(f"request {part} {number}")) == 200
                else:
                    assert embedding("/v1/embeddings", {"input": f"text {part} {number}", "model": "any"}) == 200
            wait_until(lambda: collected(service), "a tenth of a second after the last one has ended")
            taken.append(figures(service))
            assert (service.home / ".batch" / "batch.db-wal").stat().st_size < 48 << 20
            with opened(service) as store:
                _checkpoint(store)  # what is still in the log would count for the next part
            sizes.append(database.stat().st_size)
    assert json.loads(service.command("jobs", "--json").stdout) == []
    assert list(Spool(service.home / ".batch" / "spool").names()) == []
    for name, before in taken[0].items():
        after = taken[1][name]
        assert after["kilobytes"] - before["kilobytes"] < 8 * 1024 + REQUESTS, (name, before, after)
        assert after["threads"] <= before["threads"] + 2, (name, before, after)
    wait_until(lambda: not opened_more(service, taken[0]), f"descriptors are closed: {taken}")
    assert sizes[1] <= sizes[0] + (1 << 20)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the processes' figures from /proc")
@pytest.mark.timeout(36000)
def test_thousands_of_files_dropped_at_once_are_all_done_and_callers_do_not_wait_for_them(start_service: Start) -> None:
    service = start_service().ready()
    before = figures(service)
    staged = service.home / "staged"
    for number in range(FILES):
        folder = staged / f"{number // 1000:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06}.txt").write_text(f"note number {number}")
    staged.rename(service.inbox / "all")
    waits: list[float] = []

    def done() -> bool:
        begun = time.monotonic()
        assert service.call("embedding", "/v1/embeddings", {"input": "a caller", "model": "any"})[0] == 200
        waits.append(time.monotonic() - begun)
        return gather(service.home / ".batch" / "batch.db")["inbox"]["done"] == FILES

    wait_until(done, "all files are done", seconds=FILES)
    results = sum(1 for path in service.outbox.rglob("*.json") if path.name.endswith(".txt.json"))
    assert results == FILES, (results, FILES)
    assert statistics.median(waits) < 5, "a caller waits for a unit of bulk work, not for the bulk"
    after = figures(service)
    for name in before:
        assert after[name]["kilobytes"] - before[name]["kilobytes"] < 64 * 1024 + FILES, (
            name,
            before[name],
            after[name],
        )
