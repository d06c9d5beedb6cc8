"""How soon a worker that dies is started again."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from batch.queue.hub.model_state import ModelStates
from batch.settings import Settings
from batch.supervisor.worker_process import MAX_EARLY_DEATHS, WorkerProcess


class Host:
    """What knows the worker's state."""

    def __init__(self) -> None:
        self.models = ModelStates(("vlm",))

    async def turn_away(self, queue: str) -> None:
        """Nobody waits here."""


def pauses(home: Path, lives: list[tuple[bool, bool]]) -> tuple[list[float], str]:
    """How long is waited after each life (whether the model was loaded, whether a job ended) of a second; the model's state."""

    async def live() -> tuple[list[float], str]:
        host, seconds = Host(), []
        process = WorkerProcess("vlm", Settings(home=home), host, asyncio.Event())
        for was_ready, has_ended_jobs in lives:
            host.models.update("vlm", process._worker_id, was_ready=was_ready, has_ended_jobs=has_ended_jobs)
            await process._act_on_death(-signal.SIGKILL, 1.0)
            seconds.append(process._pause_s)
        return seconds, host.models["vlm"].status

    return asyncio.run(live())


def test_a_worker_that_ended_jobs_is_started_again_at_once_however_often_it_is_killed(tmp_path: Path) -> None:
    seconds, _ = pauses(tmp_path, [(True, True)] * 40)
    assert seconds == [0.5] * 40
    seconds, _ = pauses(tmp_path, [(True, False)] * 3 + [(True, True), (True, False)])
    assert seconds == [1.0, 2.0, 4.0, 0.5, 1.0]


def test_a_worker_that_dies_again_and_again_before_it_ends_a_job_is_started_less_and_less_often(tmp_path: Path) -> None:
    seconds, status = pauses(tmp_path, [(True, False)] * 8)
    assert seconds == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0] and status != "failed"


def test_only_deaths_in_a_row_before_the_model_is_loaded_make_it_failed(tmp_path: Path) -> None:
    early, late = (False, False), (True, False)
    _, status = pauses(tmp_path, [early] * (MAX_EARLY_DEATHS - 1) + [late] + [early] * (MAX_EARLY_DEATHS - 1))
    assert status != "failed", "a death of a loaded model lies between"
    _, status = pauses(tmp_path, [early] * MAX_EARLY_DEATHS)
    assert status == "failed"
