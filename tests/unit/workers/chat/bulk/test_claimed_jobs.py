"""Bulk jobs that are claimed before there is a place for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batch.queue.jobs import Kind, Priority
from batch.settings import LimitSettings
from batch.workers.chat.bulk import claimed_jobs
from batch.workers.chat.bulk.claimed_jobs import MOST_WAIT_S, ClaimedJobs
from batch.workers.chat.bulk.preparation import Preparation, PreparationThread
from batch.workers.chat.images.picture_reader import PictureReader
from scripted_work import ScriptedWork


def test_the_next_place_is_the_more_urgent_jobs_and_else_that_of_the_one_that_came_first(tmp_path: Path) -> None:
    planner: Any = SimpleNamespace(plan_job=lambda work: work.job.id)
    resources: Any = SimpleNamespace(encodes_ahead=False, decodes_ahead=False, shares_cores=False)
    claimed = ClaimedJobs(planner, PreparationThread(planner, None, PictureReader(LimitSettings())), resources, 4)
    request = {"messages": [{"role": "user", "content": "a text"}]}
    priorities = (Priority.INBOX, Priority.INBOX, Priority.BATCH, Priority.BATCH)
    works = [ScriptedWork(tmp_path, Kind.VLM, "chat", request, priority=priority) for priority in priorities]
    for work in works:
        claimed.add(work)
    order = []
    while (taken := claimed.take()) is not None:
        work, plan = taken
        assert str(plan()) == work.job.id
        order.append(work)
    assert order == [works[i] for i in (2, 3, 0, 1)] and not len(claimed)


@pytest.mark.parametrize("has_core", [True, False])
def test_tokens_and_pictures_that_take_long_to_prepare_have_their_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_core: bool
) -> None:
    now, waited = [1000.0], list[float]()
    monkeypatch.setattr(claimed_jobs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    planner: Any = SimpleNamespace()
    preparations: Any = SimpleNamespace(
        has_core=has_core,
        submit=lambda work: Preparation(work.job.priority, lambda pause: planner),
        wait=lambda pending, timeout_s: waited.append(now[0]),
    )
    resources: Any = SimpleNamespace(encodes_ahead=True, decodes_ahead=False, shares_cores=True, vision=None)
    claimed = ClaimedJobs(planner, preparations, resources, 8)
    request = {"messages": [{"role": "user", "content": "a text"}]}
    for _ in range(2):
        claimed.add(ScriptedWork(tmp_path, Kind.VLM, "chat", request, priority=Priority.INBOX))

    def turns(others: int, seconds: float) -> list[bool]:
        """Whether tokens waited, by tenths of a turn."""
        passes = []
        for _ in range(round(10 * seconds / MOST_WAIT_S)):
            passes.append(claimed.wait(others))
            now[0] += MOST_WAIT_S / 10 + 1e-9
        return passes

    assert turns(3, 4 * MOST_WAIT_S) == [*[True] * 10, *[False] * 10] * 2
    assert len(waited) == 20
    assert all(turns(0, 4 * MOST_WAIT_S)), "there are no tokens that could be computed"
    assert not any(turns(8, MOST_WAIT_S)), "all places are taken"
    assert turns(3, 1.5 * MOST_WAIT_S) == [*[True] * 10, *[False] * 5]
    claimed._jobs[0][1].is_done = True  # type: ignore[union-attr]
    assert claimed.take() is not None
    assert all(turns(3, MOST_WAIT_S)), "one has joined, so the next may soon"
