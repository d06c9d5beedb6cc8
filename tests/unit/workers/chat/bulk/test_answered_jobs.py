"""When answers of bulk jobs are written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batch.queue.jobs import Kind, Priority
from batch.workers.chat.bulk import answered_jobs
from batch.workers.chat.bulk.answered_jobs import END_TOGETHER_S, AnsweredJobs
from scripted_work import ScriptedWork


def test_answers_are_ended_together_once_the_first_is_due_and_at_once_where_a_client_waits_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(answered_jobs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    request = {"messages": [{"role": "user", "content": "a text"}]}
    works = [ScriptedWork(tmp_path, Kind.VLM, "chat", request, priority=Priority.BATCH) for _ in range(4)]
    works[3].job = replace(works[3].job, waited=True)
    ends: list[list[int]] = []

    def finish_mates(results: Sequence[tuple[Any, Any]]) -> None:
        ends.append([works.index(work) for work, _ in results])

    works[0].finish_mates = finish_mates  # type: ignore[method-assign]
    answered = AnsweredJobs(works[0])
    result: Any = None
    answered.end_due()
    answered.add(works[0], result)
    now[0] += 0.9 * END_TOGETHER_S
    answered.add(works[1], result)
    answered.end_due()
    assert ends == []
    now[0] += 0.2 * END_TOGETHER_S
    answered.end_due()
    assert ends == [[0, 1]]
    answered.add(works[2], result)
    answered.end_due()
    answered.add(works[3], result)
    answered.end_due()
    answered.end()
    assert ends == [[0, 1], [2, 3]]
