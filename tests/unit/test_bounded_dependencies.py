"""What is used of huey, and of uvicorn's server, below their documented interfaces is still there.

uvicorn's protocol has tests/unit/api/http/test_uvicorn.py, huggingface_hub's http_get tests/unit/test_locked_versions.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from huey import MemoryHuey
from huey.api import Huey
from huey.consumer import Consumer, Scheduler, Worker
from huey.registry import Message
from huey.storage import BlackHoleStorage, MemoryStorage

from batch.queue.huey_storage import ClaimStorage, JobHuey
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.periodic import PeriodicTasks, QuietConsumer
from batch.queue.store import Ending, Lease
from payloads import payload

SENTENCE = "huey has changed: read {what} again, mend batch/queue/huey_storage.py and periodic.py, then raise its upper bound"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Consumer, "_set_signal_handlers"),
        (Consumer, "start"),
        (Huey, "deserialize_task"),
        (Huey, "execute"),
        (Huey, "is_revoked"),
        (Huey, "on_startup"),
        (Huey, "on_shutdown"),
        (Huey, "periodic_task"),
        (BlackHoleStorage, "dequeue"),
        (MemoryStorage, "enqueue"),
    ],
)
def test_hueys_methods_that_are_replaced_or_called_are_there(owner: type, name: str) -> None:
    assert callable(getattr(owner, name, None)), SENTENCE.format(what=f"{owner.__name__}.{name}")


def test_hueys_message_has_the_fields_that_ours_are_made_of() -> None:
    missing = {"id", "name", "args", "kwargs", "retries", "retry_delay"} - set(Message._fields)
    assert not missing, SENTENCE.format(what=f"registry.Message, which lost {missing}")


def test_a_consumer_of_one_thread_has_the_stop_flag_and_the_thread_that_the_worker_waits_for() -> None:
    consumer = QuietConsumer(MemoryHuey("probe"), workers=1, worker_type="thread", check_worker_health=False)
    what = SENTENCE.format(what="Consumer.__init__")
    assert isinstance(consumer.stop_flag, threading.Event), what
    ((worker, thread),) = consumer.worker_threads
    assert isinstance(worker, Worker) and isinstance(thread, threading.Thread) and thread.daemon, what
    assert "huey.storage.blocking" in inspect.getsource(Worker.loop), "a consumer polls a storage that blocks: " + what
    assert Scheduler.periodic_task_seconds == 60, what


def test_a_message_of_ours_runs_as_hueys_task_batch_run_with_the_jobs_id(tmp_path: Path) -> None:
    store = open_store(tmp_path / "batch.db")
    ran: list[str] = []
    huey = JobHuey(Kind.VLM, store, "w1", ran.append)
    store.submit(draft := Draft(payload("chat"), Origin.CLI, Priority.BATCH))
    task = huey.dequeue()
    huey.execute(task)
    what = SENTENCE.format(what="Huey.dequeue and execute")
    assert isinstance(huey.storage, ClaimStorage) and ran == [draft.id] and task.id == draft.id, what
    lease = huey.storage.lease
    assert isinstance(lease, Lease) and store.end([Ending(lease, State.DONE, "{}")]) == [True]
    store.close()


def test_what_is_due_runs_at_the_start_and_later_and_one_that_fails_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []
    done = threading.Event()

    def break_down() -> None:
        raise OSError("no disk")

    def late(name: str) -> None:
        ran.append(name)
        done.set()

    tasks = PeriodicTasks()
    tasks.add("breaks", break_down, at_start=True)
    tasks.add("works", lambda: ran.append("periodic"), at_start=True)
    schedule = tasks.add_delayed("later", late)
    tasks.start()
    schedule("delayed", 0.0)
    assert done.wait(30), SENTENCE.format(what="Scheduler and TaskWrapper.schedule")
    tasks.stop()
    assert "periodic" in ran and ran[-1] == "delayed"
    assert "the periodic task breaks failed" in caplog.text


def test_a_task_that_runs_ends_at_its_next_step_when_the_service_stops() -> None:
    tasks, started = PeriodicTasks(), threading.Event()

    def endless() -> None:
        while tasks.pause(0.001):
            started.set()

    tasks.add("endless", endless, at_start=True)
    tasks.start()
    assert started.wait(30)
    before = time.monotonic()
    tasks.stop()
    assert time.monotonic() - before < 4 and tasks.is_stopping


def test_uvicorns_server_takes_its_signals_in_the_method_that_ours_leaves_empty() -> None:
    from batch.supervisor.supervisor import Server

    sentence = "uvicorn has changed: read Server.serve again, mend batch/supervisor/supervisor.py, then raise its upper bound"
    assert "capture_signals" in inspect.getsource(uvicorn.Server.serve), sentence
    server = Server(uvicorn.Config(lambda *_: None, log_config=None))
    with server.capture_signals() as nothing, contextlib.nullcontext():
        assert nothing is None
    assert hasattr(server, "should_exit"), sentence


def test_uvicorns_server_waits_in_the_method_that_ours_replaces_and_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from batch.supervisor import supervisor

    sentence = (
        "uvicorn has changed: read Server.main_loop again, mend batch/supervisor/supervisor.py, then raise its upper bound"
    )
    assert "await self.main_loop()" in inspect.getsource(uvicorn.Server), sentence
    assert "on_tick(counter)" in inspect.getsource(uvicorn.Server.main_loop), sentence
    monkeypatch.setattr(supervisor, "TICK_S", 3600.0)

    async def run() -> None:
        server = supervisor.Server(uvicorn.Config(lambda *_: None, log_config=None))
        running = asyncio.create_task(server.main_loop())
        while not server.server_state.default_headers:
            await asyncio.sleep(0)
        server.stop()
        await asyncio.wait_for(running, 60)

    asyncio.run(run())
