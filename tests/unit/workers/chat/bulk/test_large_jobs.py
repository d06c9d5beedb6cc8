"""Bulk jobs that wait to be computed by themselves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from batch.queue.jobs import Kind, Priority
from batch.workers.chat.bulk.job import BulkJob
from batch.workers.chat.bulk.large_jobs import LargeJobs
from scripted_work import ScriptedWork


def test_those_behind_the_first_go_back_into_the_line_but_for_the_job_that_they_were_claimed_with(tmp_path: Path) -> None:
    request = {"messages": [{"role": "user", "content": "a text"}]}
    lead, *mates = (ScriptedWork(tmp_path, Kind.VLM, "chat", request, priority=Priority.BATCH) for _ in range(4))
    task: Any = None
    large = LargeJobs(lead)
    for work in (mates[0], lead, mates[1], mates[2]):
        large.add(work, task)
    large.drop(mates[2])
    assert large.works == [mates[0], lead, mates[1]]
    assert large.take()[0] is mates[0] and large.works == [lead]
    assert [work.returned for work in (lead, *mates)] == [0, 0, 1, 0]
    assert large.take()[0] is lead and not len(large)


class Outgrown(BulkJob):
    """Has no room for its next token, and notes what is given back."""

    has_outgrown = True  # type: ignore[assignment]
    is_closed = has_left = False

    def __init__(self, work: Any) -> None:
        self.work = work

    def leave(self) -> None:
        self.has_left = True

    def close(self) -> None:
        self.is_closed = True


def test_a_job_that_has_outgrown_its_room_stays_here_and_leaves_its_sequence_to_others(tmp_path: Path) -> None:
    request = {"messages": [{"role": "user", "content": "a text"}]}
    lead, *mates = (ScriptedWork(tmp_path, Kind.VLM, "chat", request, priority=Priority.BATCH) for _ in range(5))
    task: Any = None
    large = LargeJobs(lead)
    outgrown = [Outgrown(work) for work in mates[1:]]
    other: Any = SimpleNamespace(has_outgrown=False)
    large.add(mates[0], task)
    jobs = [outgrown[0], other, *outgrown[1:]]
    large.add_outgrown(jobs)
    assert jobs == [other] and large.works == mates and all(job.has_left for job in outgrown)
    assert large.come_first(5)
    large.drop(mates[1])
    assert large.take() == (mates[0], task)
    assert [large.come_first(width) for width in (2, 3)] == [True, False], "others pass those that outgrew their room"
    assert large.take() == (mates[2], outgrown[1])
    assert [work.returned for work in mates] == [0, 0, 0, 0]
    large.close()
    assert [job.is_closed for job in outgrown] == [True, False, True] and not len(large)


def test_behind_a_large_job_one_is_claimed_at_a_time_until_one_fits(tmp_path: Path) -> None:
    lead: Any = None
    task: Any = None
    large = LargeJobs(lead)
    assert [large.most_to_claim(free) for free in (0, 5)] == [0, 5]
    large.is_behind_one = True
    assert [large.most_to_claim(free) for free in (0, 5)] == [0, 1]
    large.add(ScriptedWork(tmp_path, Kind.VLM, "chat", {"messages": []}, priority=Priority.BATCH), task)
    large.take()
    assert large.most_to_claim(5) == 1
