"""Bulk jobs that are claimed before there is a place for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from batch.queue.jobs import Kind, Priority
from batch.settings import LimitSettings
from batch.workers.chat.bulk.claimed_jobs import ClaimedJobs
from batch.workers.chat.bulk.preparation import PreparationThread
from batch.workers.chat.images.picture_reader import PictureReader
from scripted_work import ScriptedWork


def test_the_next_place_is_the_more_urgent_jobs_and_else_that_of_the_one_that_came_first(tmp_path: Path) -> None:
    planner: Any = SimpleNamespace(plan_job=lambda work: work.job.id)
    resources: Any = SimpleNamespace(encodes_ahead=False, decodes_ahead=False, pictures=None)
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
