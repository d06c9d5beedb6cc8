"""The thread that plans jobs with pictures: who goes first, who holds it up, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch.errors import BadRequest
from batch.queue.jobs import Kind, Priority
from batch.settings import LimitSettings
from batch.workers.chat.bulk import preparation
from batch.workers.chat.bulk.preparation import Preparation, PreparationThread, has_cores_to_prepare
from batch.workers.chat.images.picture_reader import PictureReader
from batch.workers.chat.kv.token_sequence import TokenSequence
from batch.workers.chat.task_params import TaskParams
from batch.workers.engine import Work
from scripted_work import ScriptedWork

DEADLINE_S = 20.0
PICTURE = {"type": "image", "blob": "0" * 64}


class HeldPlanner:
    """Plans jobs in which there is nothing to encode; each waits for its release."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.releases: dict[str, threading.Event] = {}

    def plan_job(self, work: Work, read_picture: Callable[[str], Any] | None = None) -> TaskParams:
        self.begun.append(work.job.id)
        assert self.releases[work.job.id].wait(DEADLINE_S)
        if work.job.priority == Priority.LARGE_REQUEST:
            raise BadRequest("It cannot run.")
        task: Any = TaskParams.__new__(TaskParams)
        task.prompt = TokenSequence([1, 2, 3])
        return task  # type: ignore[no-any-return]

    def job(self, folder: Path, priority: Priority = Priority.INBOX, content: Any = None) -> ScriptedWork:
        message = {"role": "user", "content": [PICTURE] if content is None else content}
        work = ScriptedWork(folder, Kind.VLM, "chat", {"messages": [message]}, priority=priority)
        self.releases[work.job.id] = threading.Event()
        return work

    def release(self, *works: ScriptedWork) -> None:
        for work in works:
            self.releases[work.job.id].set()


@pytest.fixture
def planner() -> HeldPlanner:
    return HeldPlanner()


@pytest.fixture
def thread(planner: HeldPlanner) -> Iterator[PreparationThread]:
    thread = PreparationThread(planner, None, PictureReader(LimitSettings()))
    yield thread
    for event in planner.releases.values():
        event.set()
    thread.close()


def await_done(thread: PreparationThread, *preparations: Preparation) -> None:
    for one in preparations:
        thread.wait([one], DEADLINE_S)
        assert one.is_done


def submit(thread: PreparationThread, work: ScriptedWork) -> Preparation:
    preparation = thread.submit(work)
    assert preparation is not None
    return preparation


def test_a_job_without_pictures_is_left_to_the_engines_thread(
    thread: PreparationThread, planner: HeldPlanner, tmp_path: Path
) -> None:
    assert thread.submit(planner.job(tmp_path, content="a text")) is None
    assert thread.submit(planner.job(tmp_path, content=[{"type": "text", "text": "a text"}])) is None
    assert thread._thread is None


def test_the_more_urgent_is_prepared_first_and_else_the_one_that_came_first(
    thread: PreparationThread, planner: HeldPlanner, tmp_path: Path
) -> None:
    works = [planner.job(tmp_path, priority) for priority in (Priority.INBOX, Priority.INBOX, Priority.BATCH, Priority.BATCH)]
    planner.release(*works)
    with thread.paused():
        preparations = [submit(thread, work) for work in works]
    await_done(thread, *preparations)
    assert planner.begun == [works[i].job.id for i in (2, 3, 0, 1)]
    assert all(len(one.result().prompt) == 3 for one in preparations)


def test_what_a_job_cannot_run_for_comes_out_where_its_plan_is_wanted(
    thread: PreparationThread, planner: HeldPlanner, tmp_path: Path
) -> None:
    works = [planner.job(tmp_path, Priority.LARGE_REQUEST), planner.job(tmp_path)]
    planner.release(*works)
    refused, fine = (submit(thread, work) for work in works)
    await_done(thread, refused, fine)
    with pytest.raises(BadRequest, match="It cannot run"):
        refused.result()
    assert len(fine.result().prompt) == 3


def test_nothing_is_begun_while_a_client_is_served_nor_what_is_cancelled(
    thread: PreparationThread, planner: HeldPlanner, tmp_path: Path
) -> None:
    works = [planner.job(tmp_path) for _ in range(3)]
    planner.release(*works)
    with thread.paused():
        with thread.paused():
            preparations = [submit(thread, work) for work in works]
        thread.wait(preparations, 0.05)
        assert planner.begun == []
        thread.cancel(preparations[1])
    await_done(thread, preparations[0], preparations[2])
    assert planner.begun == [works[0].job.id, works[2].job.id]


def test_a_close_leaves_what_waits_and_ends_the_thread(planner: HeldPlanner, tmp_path: Path) -> None:
    thread = PreparationThread(planner, None, PictureReader(LimitSettings()))
    with thread.paused():
        submit(thread, planner.job(tmp_path))
        running = thread._thread
        assert running is not None
        thread.close()
    assert not running.is_alive() and planner.begun == []
    thread.close()


def test_a_thread_that_is_stuck_holds_up_the_worker_which_the_service_then_replaces(
    thread: PreparationThread, planner: HeldPlanner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "STUCK_S", 0.0)
    work = planner.job(tmp_path)
    stuck = submit(thread, work)
    deadline = threading.Event()
    while not planner.begun:
        deadline.wait(0.001)
    has_returned = threading.Event()

    def wait() -> None:
        thread.wait([stuck], 0.001)
        has_returned.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not has_returned.wait(0.2)
    planner.release(work)
    assert has_returned.wait(DEADLINE_S)
    waiting.join()
    thread.wait([], 0.001)  # nothing is under way, so nothing is stuck


def test_pictures_are_encoded_beside_decoding_on_a_cpu_only_where_cores_are_left_for_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preparation, "usable", lambda: 8)
    assert has_cores_to_prepare(4) and has_cores_to_prepare(1)
    assert not has_cores_to_prepare(8) and not has_cores_to_prepare(5)


def test_a_thread_that_a_client_holds_up_is_not_taken_for_stuck(thread: PreparationThread) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def prepare(pause: Callable[[], None]) -> TaskParams:
        has_begun.set()
        while not may_end.is_set():
            pause()
        task: Any = TaskParams.__new__(TaskParams)
        return task  # type: ignore[no-any-return]

    one = thread._begin(Preparation(Priority.INBOX, prepare))
    try:
        assert has_begun.wait(DEADLINE_S)
        with thread.paused():
            deadline = threading.Event()
            while not thread._is_held_up:
                deadline.wait(0.001)
            thread._last_step = 1e-9  # it was held up long ago
            thread.wait([one], 0.001)  # returns
            assert not one.is_done
    finally:
        may_end.set()
    await_done(thread, one)


def test_a_thread_that_is_stuck_while_clients_come_and_go_holds_up_the_worker_too(
    thread: PreparationThread, planner: HeldPlanner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "STUCK_S", 0.05)
    work = planner.job(tmp_path)
    stuck = submit(thread, work)
    deadline, passes = threading.Event(), list[bool]()
    while not planner.begun:
        deadline.wait(0.001)

    def compute() -> None:
        """As the engine's thread: a client's job, then a moment for the thread."""
        while not stuck.is_done:
            with thread.paused():
                pass
            thread.wait([stuck], 0.001)
            passes.append(True)

    computing = threading.Thread(target=compute)
    computing.start()
    try:
        deadline.wait(0.3)
        before = len(passes)
        assert not deadline.wait(0.1) and len(passes) == before, "it waits for ever"
    finally:
        planner.release(work)
        computing.join(DEADLINE_S)
    assert stuck.is_done
