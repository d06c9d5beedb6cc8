"""batch.service_status: how long what runs and waits will take, by the best of what is known."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from batch.queue.jobs import JobProgress
from batch.service_status import _left


def job(spent: float, **progress: Any) -> Any:
    return SimpleNamespace(started_at=time.time() - spent, progress=JobProgress(**progress) if progress else None)


def test_a_running_job_is_judged_by_its_own_progress_from_the_first_one_on() -> None:
    assert _left(job(10, done=100, total=1000, unit="seconds"), None) == pytest.approx(90, rel=0.01)
    assert _left(job(10, done=0, total=1000, unit="seconds"), 3.0) is None, "nobody knows, least of all the mean"


def test_after_a_restart_only_this_attempts_pace_counts() -> None:
    assert _left(job(10, done=600, total=1000, unit="seconds", start=500), None) == pytest.approx(40, rel=0.01)


def test_a_job_without_progress_is_judged_by_the_mean() -> None:
    assert _left(job(1), 3.0) == pytest.approx(2, abs=0.1) and _left(job(9), 3.0) == 0.0
    assert _left(job(1), None) is None
