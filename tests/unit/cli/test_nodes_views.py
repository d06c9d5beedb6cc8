"""What the commands tell of the workers of all machines, of their jobs, and of models by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.cli.exit_status import ExitStatus
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.nodes import Node
from batch.queue.open_store import open_store
from batch.queue.store import Ending, Store
from payloads import payload
from run_batch import RunBatch


@pytest.fixture
def store(database: Path | str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """What the home's commands read."""
    if isinstance(database, str):
        monkeypatch.setenv("BATCH_DATABASE", database)
    else:
        database = home / ".batch" / "batch.db"
    store = open_store(database, home=home)
    yield store
    store.close()


def submitted(store: Store, model: str = "") -> str:
    draft = Draft(payload("chat"), Origin.CLI, Priority.BATCH, source="a.txt", model=model)
    store.submit(draft)
    return draft.id


postgres_only = pytest.mark.parametrize("database", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True)


@postgres_only
def test_status_lists_the_workers_of_all_machines_and_how_far_each_queue_is_behind(store: Store, run_batch: RunBatch) -> None:
    assert "nodes: none: start `batch worker` on a machine with a model" in run_batch("status").out
    for number in range(23):
        store.register(Node(f"{number:02}ab34567890", Kind.VLM, "vlm", "ready", "m.gguf", "m.gguf, cpu", started_at=number))
    store.register(Node("broken7890", Kind.STT, "stt", "failed", error="The model\x1b[2J cannot be read.", pid=1))
    submitted(store)
    submitted(store)
    store.take(Kind.VLM, "00ab34567890")
    shown = run_batch("status")
    assert shown.status == ExitStatus.SERVICE_DOWN, "that workers are there says nothing of this home's service"
    lines = shown.out.splitlines()
    lines = lines[next(place for place, line in enumerate(lines) if line.startswith("nodes:")) :]
    assert lines[0] == "nodes: 24"
    assert any(line.startswith("  vlm: 23 ready; 1 job; the oldest waits ") for line in lines)
    assert "  stt: 1 failed; 0 jobs" in lines
    first = next(line for line in lines if line.startswith("  broken78"))
    assert "failed" in first and "cannot be read" in first and "\x1b" not in shown.out
    assert lines.index(first) < next(place for place, line in enumerate(lines) if line.startswith("  00ab3456  vlm"))
    assert lines[-1] == "  and 4 more: `batch nodes` lists all"
    told = json.loads(run_batch("status", "--json").out)["nodes"]
    assert told["count"] == 24 and len(told["first"]) == 20
    assert told["queues"]["vlm"]["ready"] == 23 and told["queues"]["vlm"]["jobs"] == 1
    assert len(json.loads(run_batch("nodes", "--json").out)) == 24
    some = run_batch("nodes", "--limit", "3").out.splitlines()
    assert len(some) == 4 and some[-1] == "and 21 more: --limit shows more than 3"


@postgres_only
def test_a_job_says_which_worker_has_it_or_ended_it(store: Store, run_batch: RunBatch) -> None:
    ended, running, queued = (submitted(store) for _ in range(3))
    (lease,) = store.take(Kind.VLM, "aaaabbbbcccc")
    store.end([Ending(lease, State.DONE, '{"choices":[],"usage":{}}')])
    store.take(Kind.VLM, "ddddeeeeffff")
    rows = {row["id"]: row["node"] for row in json.loads(run_batch("jobs", "--json").out)}
    assert rows == {ended: "aaaabbbbcccc", running: "ddddeeeeffff", queued: None}
    table = run_batch("jobs").out.splitlines()
    assert table[0].split()[:4] == ["id", "model", "state", "node"]
    assert {line.split()[0]: line.split()[3] for line in table[1:]} == {ended: "aaaabbbb", running: "ddddeeee", queued: "-"}
    assert "node       ddddeeeeffff" in run_batch("show", running).out
    assert json.loads(run_batch("show", ended, "--json").out)["node"] == "aaaabbbbcccc"


def test_jobs_are_listed_shown_and_counted_by_their_models_name(store: Store, run_batch: RunBatch) -> None:
    own, named = submitted(store), submitted(store, "qwen")

    def listed(*arguments: str) -> dict[str, str]:
        return {row["id"]: row["model"] for row in json.loads(run_batch("jobs", "--json", *arguments).out)}

    assert listed() == {own: "", named: "qwen"}
    assert listed("--model", "qwen") == {named: "qwen"} and listed("--model", "vlm") == {own: ""}
    assert listed("--model", "qwen", "--model", "vlm") == listed() and listed("--model", "other") == {}
    assert listed("--model", "qwen", "--kind", "stt") == {}
    assert any(line.split()[:3] == [named, "vlm", "qwen"] for line in run_batch("jobs").out.splitlines())
    assert "model      vlm qwen (chat)" in run_batch("show", named).out
    assert json.loads(run_batch("show", named, "--json").out)["model"] == "qwen"
    assert json.loads(run_batch("status", "--json").out)["named_models"]["qwen"]["queued"] == 1
    assert json.loads(run_batch("cancel", "--model", "qwen", "--dry-run", "--json").out) == {"matching": 1}
    assert run_batch("cancel", "--model", "qwen").status == 0
    assert json.loads(run_batch("jobs", "--json", "--state", "queued").out)[0]["id"] == own


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_home_with_its_database_to_itself_tells_of_one_machine(store: Store, run_batch: RunBatch) -> None:
    store.register(Node("aaaabbbbcccc", Kind.VLM, "vlm", "ready", pid=1))
    job = submitted(store)
    store.take(Kind.VLM, "aaaabbbbcccc")
    assert "nodes" not in run_batch("status").out and "nodes" not in json.loads(run_batch("status", "--json").out)
    assert run_batch("jobs").out.splitlines()[0].split() == ["id", "model", "state", "from", "created", "took", "what"]
    assert "node " not in run_batch("show", job).out
