"""A front and workers whose roles in the database have the least rights, as real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.queue.jobs import State
from batch.queue.open_store import open_store
from batch.queue.store import Store
from database_roles import RoleAddresses, granted_roles
from drill_home import chat_draft
from postgres_server import PostgresServer
from running_service import WEIGHTLESS, RunningService, alive, chat, wait_until
from running_worker import RunningWorker

pytestmark = pytest.mark.postgres

PASSWORDS = ("hunter2-in-the-address", "hunter2-in-a-variable")
"""The server asks for none; whoever has one must not show it."""
FRONT = {f"BATCH_{kind.upper()}__MODEL": "none" for kind in ("vlm", "embedding", "stt")}


@pytest.fixture(scope="module")
def roles(postgres_server: PostgresServer) -> RoleAddresses:
    return granted_roles(postgres_server)


@pytest.fixture(scope="module")
def front(roles: RoleAddresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    address = roles.front.replace("@", f":{PASSWORDS[0]}@", 1)
    with RunningService(tmp_path_factory.mktemp("front"), {**FRONT, "BATCH_DATABASE": address}) as service:
        yield service


@pytest.fixture(scope="module")
def workers(roles: RoleAddresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunningWorker]]:
    folder = tmp_path_factory.mktemp("workers")
    variables = {**WEIGHTLESS, "PGPASSWORD": PASSWORDS[1]}
    started = {kind: RunningWorker(folder / kind, kind, roles.worker, variables) for kind in ("vlm", "embedding")}
    yield started
    for worker in started.values():
        worker.close()


@pytest.fixture
def store(roles: RoleAddresses) -> Iterator[Store]:
    with contextlib.closing(open_store(roles.front)) as store:
        yield store


def refusals(*texts: str) -> list[str]:
    """What a role was not allowed to do, as logs tell it."""
    return [line for text in texts for line in text.splitlines() if "permission denied" in line or "may not do that" in line]


def readable(path: Path) -> bool:
    """Whether it is there still."""
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


def test_a_worker_that_may_call_functions_alone_does_all_its_work_for_a_front_that_may_not_change_tables(
    front: RunningService, workers: dict[str, RunningWorker], store: Store
) -> None:
    front.ready("vlm", "embedding")
    status, body = front.call("vlm", "/v1/chat/completions", chat("hello from a role of few rights"))
    assert status == 200 and body["choices"][0]["message"]["content"].strip() == "hello from a role of few rights", body
    texts = [f"text number {n} " + "word " * 40 for n in range(2000)]  # payload and vectors are too large for a job's row
    status, body = front.call("embedding", "/v1/embeddings", {"input": texts, "model": "any"})
    assert status == 200 and len(body["data"]) == 2000, (body, workers["embedding"].output)
    (front.inbox / "note.txt").write_text("a text for the inbox")
    result = front.outbox / "note.txt.json"
    wait_until(result.exists, f"a result\n{front.output}")
    assert json.loads(result.read_text())["kind"]

    draft = chat_draft("word " * 600, pause_ms=50)
    store.submit(draft, durable=True)
    wait_until(lambda: store.states([draft.id])[draft.id] is State.RUNNING, "it runs")
    wait_until(lambda: (row := store.job(draft.id)) and row.progress is not None, "its progress is in the row")
    (first,) = [node for node in store.nodes() if node.kind == "vlm"]
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not alive(first.pid), "killed")
    wait_until(lambda: (row := store.job(draft.id)) and row.attempts == 2, f"its successor has it\n{workers['vlm'].output}", 25)
    store.cancel(draft.id)
    wait_until(lambda: store.states([draft.id])[draft.id] is State.CANCELLED, "cancelled")

    shown = [front.command(*command.split()).stdout for command in ("config", "doctor", "status --json", "nodes --json")]
    shown += [str(row) for row in store.read("select value from service union all select n::text from node n")]
    shown += [path.read_bytes().decode("utf-8", "replace") for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)]
    for home in (front.home, *(worker.home for worker in workers.values())):
        shown += [path.read_bytes().decode("latin-1") for path in home.rglob("*") if path.is_file()]
    shown += [front.output, *(worker.output for worker in workers.values())]
    assert [text[:200] for text in shown if any(password in text for password in PASSWORDS)] == []
    assert "***" in shown[0], "batch config shows the address"

    assert front.command("drain", next(node.id for node in store.nodes() if node.kind == "vlm")).returncode == 0
    assert [worker.stop() for worker in workers.values()] == [0, 0]
    assert store.nodes() == []
    assert refusals(front.output, *(worker.output for worker in workers.values())) == []


def test_a_worker_whose_database_is_of_an_older_version_says_who_must_bring_it_forward(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    from database_roles import prepare_roles

    roles = prepare_roles(postgres_server)
    worker = RunningWorker(tmp_path / "gpu", "vlm", roles.worker)
    try:
        wait_until(lambda: "its owner must run `batch database migrate`" in worker.output, f"it is said\n{worker.output}")
        assert "Traceback" not in worker.output
    finally:
        worker.close()
