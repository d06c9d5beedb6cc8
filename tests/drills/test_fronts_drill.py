"""A front is killed under load, while workers and another front go on: what it accepted for good is done once, wherever."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch.queue.jobs import State
from batch.queue.open_store import open_store
from batch.queue.remote.home_id import home_id
from batch.queue.store import Store
from paths import ROOT
from postgres_server import PostgresServer
from running_service import RunningService, chat, wait_until
from running_worker import RunningWorker

pytestmark = [pytest.mark.postgres, pytest.mark.drill]

LEASE_S = 4
FRONT = {f"BATCH_{kind.upper()}__MODEL": "none" for kind in ("vlm", "embedding", "stt")}
LINES = 60
FILES = 8


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield f"{url}&lease={LEASE_S}"
    postgres_server.empty_database(url)


@pytest.fixture(scope="module")
def workers(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningWorker]]:
    folder = tmp_path_factory.mktemp("gpu")
    workers = [RunningWorker(folder / kind, kind, url) for kind in ("vlm", "embedding")]
    yield workers
    for worker in workers:
        worker.close()


@pytest.fixture
def start_front(url: str, tmp_path: Path, workers: list[RunningWorker]) -> Iterator[Callable[..., RunningService]]:
    fronts: list[RunningService] = []

    def start(name: str, **variables: str) -> RunningService:
        (tmp_path / name).mkdir(exist_ok=True)
        fronts.append(RunningService(tmp_path / name, {**FRONT, "BATCH_DATABASE": url, **variables}))
        return fronts[-1].start()

    yield start
    for front in fronts:
        front.close()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with contextlib.closing(open_store(url)) as store:
        yield store


def upload(front: RunningService, lines: list[dict[str, Any]]) -> str:
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    head = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\nContent-Disposition: form-data; '
    body = head + b'name="file"; filename="a.jsonl"\r\n\r\n' + data + b"\r\n--x--\r\n"
    status, file = front.call("vlm", "/v1/files", body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert status == 200, file
    return str(file["id"])


def begin_batch(front: RunningService) -> str:
    lines = [
        {
            "custom_id": f"line-{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": chat(f"line {n} " + "word " * 8, pause_ms=8),
        }
        for n in range(LINES)
    ]
    batch = {
        "input_file_id": upload(front, lines),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    status, answer = front.call("vlm", "/v1/batches", batch)
    assert status == 200, answer
    return str(answer["id"])


def response(front: RunningService, text: str, pause_ms: int, *, background: bool) -> dict[str, Any]:
    body = {"model": "any", "input": text, "background": background, "store": True}
    if pause_ms:
        body["seed"] = pause_ms
    status, answer = front.call("vlm", "/v1/responses", body)
    assert status == 200, answer
    return dict(answer)


class Clients:
    """Somebody who asks a front one thing after another until told to stop."""

    def __init__(self, front: RunningService, name: str, headers: Callable[[int], dict[str, str]] = lambda n: {}) -> None:
        self.answers: list[tuple[int, int, Any]] = []
        self._front, self._name, self._headers = front, name, headers
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for n in itertools.count():
            if self._ended.wait(0.2):  # bulk work has its turn
                return
            body = chat(f"{self._name} {n} of many", pause_ms=5)
            try:
                status, answer = self._front.call("vlm", "/v1/chat/completions", body, headers=self._headers(n))
            except OSError:
                return  # the front is gone
            self.answers.append((n, status, answer))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(60)


def batch_through(front: RunningService, batch: str) -> dict[str, Any]:
    return dict(front.get("vlm", f"/v1/batches/{batch}")[1])


def test_a_front_is_killed_under_load_and_what_it_accepted_is_done_once_while_another_fronts_clients_notice_nothing(
    start_front: Callable[..., RunningService], store: Store, tmp_path: Path
) -> None:
    one, other = start_front("one"), start_front("other")
    for front in (one, other):
        front.ready("vlm", "embedding")
    assert "Another service on this database runs its batches" in other.output
    stored = response(one, "kept for later", 0, background=False)
    batch = begin_batch(one)
    running = response(one, "word " * 60, 50, background=True)
    for n in range(FILES):
        (one.inbox / f"{n}.txt").write_text(f"text number {n}")
    clients = Clients(other, "other")
    waiting = [Clients(one, f"waiting {n}") for n in range(3)]
    keyed = Clients(one, "keyed", lambda n: {"Idempotency-Key": f"key {n}"})
    wait_until(lambda: 5 <= batch_through(other, batch)["request_counts"]["completed"] < LINES, "the batch is under way")
    wait_until(lambda: len(keyed.answers) > 2 and store.read("select 1 from file"), "all is under way")
    one.kill()
    killed_at = time.monotonic()
    for client in (*waiting, keyed):
        client.stop()
    seconds = LEASE_S + 3 + 5
    wait_until(lambda: "this service has taken over: duties" in other.output, f"taken over\n{other.output}", seconds)
    assert time.monotonic() - killed_at < seconds
    # Through the other: what was stored, what goes on, and the batch to its end.
    assert other.get("vlm", f"/v1/responses/{stored['id']}")[1]["output"] == stored["output"]
    wait_until(
        lambda: other.get("vlm", f"/v1/responses/{running['id']}")[1]["status"] == "completed",
        f"the background response is done\n{other.output}",
    )
    wait_until(lambda: batch_through(other, batch)["status"] == "completed", f"the batch ends\n{other.output}", 90)
    ended = batch_through(other, batch)
    assert ended["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    lines = other.get("vlm", f"/v1/files/{ended['output_file_id']}/content")[1]
    results = [json.loads(line) for line in str(lines).splitlines()]
    assert sorted(result["custom_id"] for result in results) == sorted(f"line-{n}" for n in range(LINES))
    for result in results:
        said = result["response"]["body"]["choices"][0]["message"]["content"]
        assert said.startswith(result["custom_id"].replace("-", " ") + " ")
    jobs = store.read("select state, attempts from job where parent=?", (batch,))
    assert len(jobs) == LINES and {row[0] for row in jobs} == {"done"}, "no line's job was made twice"
    # Its own come back with it: the inbox, and the end of what nobody waits for any more.
    one.start().ready("vlm")
    front = home_id(one.home / ".batch")
    results_of_files = [one.outbox / f"{n}.txt.json" for n in range(FILES)]
    wait_until(lambda: all(path.exists() for path in results_of_files), f"the files are done\n{one.output}")
    assert store.read("select count(*) from file where front=?", (front,)) == [(FILES,)]
    assert store.read("select count(*), count(distinct source) from job where origin='inbox'") == [(FILES, FILES)]
    wait_until(
        lambda: not store.read("select 1 from job where front=? and waited=1 and state in ('queued', 'running')", (front,)),
        "no work for clients that are gone",
    )
    last = keyed.answers[-1][0]
    for n in range(last + 1):
        status, answer = one.call(
            "vlm", "/v1/chat/completions", chat(f"keyed {n} of many", pause_ms=5), headers={"Idempotency-Key": f"key {n}"}
        )
        assert status == 200 and answer["choices"] == keyed.answers[n][2]["choices"]
    assert store.read("select count(*) from idempotency where place=0") <= [(last + 2,)], "answered from what was done"
    clients.stop()
    assert len(clients.answers) > 10 and {status for _, status, _ in clients.answers} == {200}, "the others notice nothing"
    assert {State(row[0]) for row in store.read("select distinct state from job")} <= {State.DONE, State.CANCELLED}


def test_a_front_on_a_folder_that_another_watches_lets_it_be_until_that_one_is_gone_and_then_does_no_file_twice(
    start_front: Callable[..., RunningService], store: Store
) -> None:
    one = start_front("one")
    second = start_front("second", BATCH_INBOX=str(one.inbox))
    second.ready("embedding")
    assert f"Another service watches the inbox {one.inbox}." in second.output
    (one.inbox / "a.txt").write_text("the first")
    wait_until(lambda: (one.outbox / "a.txt.json").exists(), f"done by the one\n{one.output}")
    assert not (second.outbox / "a.txt.json").exists()
    one.kill()
    (one.inbox / "b.txt").write_text("the second")
    wait_until(lambda: (second.outbox / "b.txt.json").exists(), f"done by the other\n{second.output}")
    wait_until(lambda: "this service has taken over: inbox" in second.output, "it says so")
    one.start()
    wait_until(lambda: "Another service watches the inbox" in one.output, f"it finds that out\n{one.output}")
    assert second.stop() == 0
    wait_until(lambda: one.output.count("this service has taken over: inbox") == 1, f"at once\n{one.output}", LEASE_S)
    listed = json.loads(one.command("files", "--json").stdout)
    assert sorted(file["path"] for file in listed) == ["a.txt", "b.txt"]
    jobs = store.read("select source from job where origin='inbox' and source in ('a.txt', 'b.txt') order by source")
    assert jobs == [("a.txt",), ("b.txt",)]


def test_a_front_that_was_frozen_in_the_middle_of_a_batch_leaves_it_to_another_and_goes_on_answering(
    start_front: Callable[..., RunningService], store: Store
) -> None:
    one, other = start_front("one"), start_front("other")
    one.ready("vlm", "embedding")
    batch = begin_batch(one)
    wait_until(lambda: batch_through(other, batch)["request_counts"]["completed"] >= 5, "the batch is under way")
    assert one.process is not None
    os.killpg(one.process.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: "this service has taken over: duties" in other.output, f"taken over\n{other.output}")
    finally:
        os.killpg(one.process.pid, signal.SIGCONT)
    wait_until(lambda: "It took over as this one was not heard of" in one.output, f"it finds out\n{one.output}")
    assert one.call("vlm", "/v1/chat/completions", chat("as before"))[0] == 200
    wait_until(lambda: batch_through(one, batch)["status"] == "completed", f"the batch ends\n{other.output}", 90)
    ended = batch_through(other, batch)
    lines = str(one.get("vlm", f"/v1/files/{ended['output_file_id']}/content")[1]).splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in lines) == sorted(f"line-{n}" for n in range(LINES))
    assert store.read("select count(*) from job where parent=?", (batch,)) == [(LINES,)]
    (one.inbox / "a.txt").write_text("its own inbox is its own as before")
    wait_until(lambda: (one.outbox / "a.txt.json").exists(), f"done\n{one.output}")
    assert "Traceback" not in one.output + other.output


def connections(store: Store) -> int:
    """How many clients the database has."""
    rows = store.read(
        "select count(*) from pg_stat_activity where datname = current_database() and backend_type = 'client backend'"
    )
    return int(rows[0][0])


def test_a_worker_and_a_front_hold_as_many_connections_as_the_page_on_machines_says(
    start_front: Callable[..., RunningService], store: Store, url: str, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "scale-out.md").read_text("utf-8")
    worker_holds, front_holds = (int(number) for number in re.findall(r"a (?:front|worker) holds (\d+) connections", text))
    front = start_front("one")
    front.ready("vlm", "embedding")
    worker = RunningWorker(tmp_path / "gpu", "vlm", url)
    try:
        wait_until(lambda: sum(node.status == "ready" for node in store.nodes() if node.queue == "vlm") == 2, worker.output)
        clients = [Clients(front, f"client {n}") for n in range(4)]
        wait_until(lambda: all(len(client.answers) > 5 for client in clients), "both workers have sent something")
        for client in clients:
            client.stop()
        assert front.call("embedding", "/v1/embeddings", {"input": ["word " * 50] * 2000, "model": "any"})[0] == 200
        assert front.get("vlm", "/page/files")[0] == 200
        all_hold = connections(store)
        assert worker.stop() == 0
        others_hold = connections(store)
        assert 2 <= all_hold - others_hold <= worker_holds
        assert front.stop() == 0
        assert 2 <= others_hold - connections(store) <= front_holds
    finally:
        worker.close()
