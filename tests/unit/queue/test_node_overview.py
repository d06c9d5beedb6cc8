"""What is told of the workers of all machines, in a size that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.nodes import Node
from batch.queue.open_store import open_store
from batch.queue.postgres.inspection.node_overview import _WAITS
from batch.queue.selection.job_filter import JobFilter
from batch.queue.selection.pauses import Pause
from batch.queue.store import Ending, Store
from batch.service_status import read_status
from payloads import payload


@pytest.fixture
def store(database: Path | str) -> Iterator[Store]:
    store = open_store(database, front="f1")
    yield store
    store.close()


def registered(
    store: Store, id: str, queue: str = "vlm", status: str = "ready", build: str = "b1", silent: bool = False
) -> None:
    store.register(Node(id, Kind(queue.partition(":")[0]), queue, status, "model.gguf", build, "1.0", home="h", pid=1))  # type: ignore[arg-type]
    if silent:
        with store.transaction() as transaction:
            transaction.execute("update node set beat = clock_timestamp() - interval '90 seconds' where id=?", (id,))


def submitted(store: Store, model: str = "", age_s: float = 0.0, priority: Priority = Priority.BATCH) -> str:
    draft = Draft(payload("chat"), Origin.BATCH, priority, model=model)
    store.submit(draft)
    if age_s:
        with store.transaction() as transaction:
            transaction.execute("update job set created_at = created_at - ? where id=?", (age_s, draft.id))
    return draft.id


@pytest.mark.parametrize("database", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True)
class TestWorkersOfAllMachines:
    def test_a_thousand_workers_are_numbers_and_the_first_of_them_those_in_trouble(self, store: Store) -> None:
        with store.transaction() as transaction:
            transaction.execute(
                "insert into node (id, kind, queue, status, build, pid, started_at) select 'w' || n, 'vlm', 'vlm', 'ready', "
                "'b1', 1, n from generate_series(1, 1000) as n"
            )
        registered(store, "late", silent=True, build="b0")
        registered(store, "broken", status="failed")
        registered(store, "leaving")
        store.drain("leaving")
        registered(store, "other", queue="vlm:qwen", status="loading")
        submitted(store)
        store.take(Kind.VLM, "w7")
        overview = store.overview(5)
        assert overview is not None and overview.count == 1004
        assert [node.id for node in overview.nodes] == ["broken", "late", "leaving", "other", "w1"]
        assert [node.state(30.0) for node in overview.nodes] == ["failed", "silent", "draining", "loading", "ready"]
        queues = {queue.queue: queue for queue in overview.queues}
        assert queues["vlm"].states == {"failed": 1, "silent": 1, "draining": 1, "ready": 1000}
        assert (queues["vlm"].leases, queues["vlm"].builds) == (1, 1), "the build of one that is silent counts no more"
        assert 80 < queues["vlm"].beat_age_s < 200
        assert queues["vlm:qwen"].states == {"loading": 1}
        assert abs(overview.clock_difference_s) < 5.0, "the database runs on this machine"

    def test_the_oldest_job_of_each_queue_says_how_far_it_is_behind(self, store: Store) -> None:
        store.note({"model:vlm:qwen": {}})
        submitted(store, age_s=100.0)
        submitted(store, age_s=50.0, priority=Priority.INTERACTIVE)
        submitted(store, model="qwen", age_s=7.0)
        submitted(store, age_s=500.0, priority=Priority.INBOX)
        store.pause([Pause(Kind.VLM, Priority.INBOX)])
        overview = store.overview()
        assert overview is not None
        waits = {queue.queue: queue.oldest_wait_s for queue in overview.queues}
        assert waits["embedding"] is None and waits["stt"] is None
        assert waits["vlm"] == pytest.approx(100, abs=20), "what is paused waits because somebody wants it to"
        assert waits["vlm:qwen"] == pytest.approx(7, abs=6)

    def test_how_long_the_oldest_waits_is_a_look_into_an_index_however_many_wait(self, store: Store) -> None:
        with store.transaction() as transaction:
            transaction.execute(
                "insert into task (queue, job, priority) select case when n % 2 = 0 then 'vlm' else 'stt' end, n, 10 "
                "from generate_series(1, 20000) as n"
            )
            transaction.execute("analyze task")
        plan = store.read(f"explain {_WAITS}", ([*Kind], [float(priority) for priority in Priority]))
        text = "\n".join(row[0] for row in plan)
        assert "task_line" in text and "task_pkey" not in text and "Seq Scan on task" not in text, text

    def test_which_worker_has_a_job_and_which_ended_it_is_known(self, store: Store) -> None:
        ended, running, queued = (submitted(store) for _ in range(3))
        (first,) = store.take(Kind.VLM, "w1")
        assert store.workers_of([ended]) == {ended: "w1"}
        store.end([Ending(first, State.DONE, '{"text":"a"}')])
        store.take(Kind.VLM, "w2")
        assert store.workers_of([ended, running, queued]) == {ended: "w1", running: "w2"}
        store.leave("w1")
        assert store.workers_of([ended]) == {ended: "w1"}, "also when it is gone"

    def test_what_is_tried_again_has_no_worker_until_one_takes_it(self, store: Store) -> None:
        job = submitted(store)
        (lease,) = store.take(Kind.VLM, "w1")
        store.end([Ending(lease, State.FAILED, None, {"message": "no"})])
        assert store.workers_of([job]) == {job: "w1"}
        store.retry(job)
        assert store.workers_of([job]) == {}

    def test_status_tells_of_them(self, store: Store) -> None:
        registered(store, "w1")
        registered(store, "w2", build="b2")
        submitted(store)
        nodes = read_status(store)["nodes"]
        assert nodes["count"] == 2 and {node["id"] for node in nodes["first"]} == {"w1", "w2"}
        assert (nodes["queues"]["vlm"]["ready"], nodes["queues"]["vlm"]["builds"]) == (2, 2)
        assert nodes["queues"]["vlm"]["oldest_wait_s"] is not None and nodes["queues"]["stt"]["heard_of_s"] is None


def test_jobs_are_found_by_their_models_name_and_counted_by_it(store: Store) -> None:
    own = submitted(store)
    first, second = submitted(store, model="qwen"), submitted(store, model="qwen")
    other = submitted(store, model="e5")
    (lease,) = store.take("vlm:qwen", "w1")
    store.end([Ending(lease, State.DONE, '{"text":"a"}')])
    named = JobFilter(models=("qwen",))
    newest = sorted((first, second), reverse=True)
    assert [job.id for job in store.newest_matching(named, 10)] == newest
    assert [row.id for row in store.summary_page(named, 10).rows] == newest
    assert {row.model for row in store.summary_page(named, 10).rows} == {"qwen"}
    assert list(store.ids_matching(named)) == newest[::-1] and store.count_matching(named) == 2
    own_and_e5 = JobFilter(models=("vlm", "e5"))
    assert [job.id for job in store.newest_matching(own_and_e5, 10)] == sorted((other, own), reverse=True)
    assert [row.id for row in store.summary_page(own_and_e5, 10).rows] == sorted((other, own), reverse=True)
    assert store.summary_page(JobFilter(models=("nobody",)), 10).rows == []
    assert store.count_matching(JobFilter(models=("stt",))) == 0
    status = read_status(store)
    qwen = status["named_models"]["qwen"]
    assert (qwen["kind"], qwen["queued"], qwen["running"], qwen["done_today"]) == ("vlm", 1, 0, 1)
    assert status["named_models"]["e5"]["queued"] == 1, "jobs wait for it, whether or not this service knows it"
    assert sum(status["models"]["vlm"]["queued"].values()) == 3, "a kind's numbers hold those of its models by name"


def test_the_jobs_of_a_batch_are_found_by_model_too(store: Store) -> None:
    drafts = [Draft(payload("chat"), Origin.BATCH, Priority.BATCH, parent="b", model=model) for model in ("", "qwen", "qwen")]
    store.submit(*drafts)
    named = JobFilter(parent="b", models=("qwen",))
    assert {row.id for row in store.summary_page(named, 10).rows} == {draft.id for draft in drafts[1:]}
    assert [row.id for row in store.summary_page(JobFilter(parent="b", models=("vlm",)), 10).rows] == [drafts[0].id]
    assert store.count_matching(named) == 2


def test_counters_of_a_model_go_down_with_its_jobs(store: Store) -> None:
    job = submitted(store, model="qwen")
    store.cancel(job)
    with store.transaction() as transaction:
        transaction.execute("update job set finished_at = 1 where id=?", (job,))
        transaction.execute("delete from job where id=?", (job,))
    assert [row for row in store.model_counts() if row[3]] == []
    assert "qwen" not in read_status(store)["named_models"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_list_of_a_models_jobs_is_a_walk_along_an_index(store: Store) -> None:
    submitted(store, model="qwen")
    plans: list[str] = []
    read = store.read

    def reading(sql: str, params: object = ()) -> list[object]:
        if " from job where kind=?" in sql:
            plans.extend(row[3] for row in read(f"explain query plan {sql}", params))  # type: ignore[arg-type]
        return read(sql, params)  # type: ignore[arg-type]

    store.read = reading  # type: ignore[method-assign, assignment]
    store.newest_matching(JobFilter(models=("qwen",)), 10)
    store.summary_page(JobFilter(models=("qwen",)), 10)
    assert plans and all("job_model" in plan for plan in plans), plans


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_where_a_home_has_its_database_to_itself_status_tells_of_no_nodes(store: Store) -> None:
    store.register(Node("w1", Kind.VLM, "vlm", "ready", pid=1))
    submitted(store)
    (lease,) = store.take(Kind.VLM, "w1")
    assert store.overview() is None and store.workers_of([lease.job.id]) == {}
    assert "nodes" not in read_status(store)
