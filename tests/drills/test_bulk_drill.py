"""Bulk jobs that the chat model computes together, while its worker or the service goes down."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

import pytest

from batch.payloads.chat import ChatResult
from batch.queue.jobs import Draft, Job, Origin, Priority, State
from drill_home import opened, quiet, submit, worker_pid
from payloads import payload
from running_service import STARTER, RunningService, wait_until

Start = Callable[..., RunningService]
TOGETHER = {**STARTER, "BATCH_VLM__MODEL": "", "BATCH_VLM__PARALLEL": "4"} | {
    f"BATCH_{kind}__MODEL": "weightless" for kind in ("EMBEDDING", "STT")
}
STORY = "Once there was a red circle."


def story(tokens: int = 300, *, priority: Priority = Priority.BATCH) -> Draft:
    """A job that takes a while, and whose answer begins as the tiny model was taught."""
    request = {
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "enable_thinking": False,
        "generation": {"temperature": 0.0, "max_tokens": tokens, "ignore_eos": True},
    }
    return Draft(payload("chat", request), Origin.BATCH, priority)


def rows(service: RunningService, ids: list[str]) -> list[Job]:
    with opened(service) as store:
        return [row for job in ids if (row := store.job(job))]


def claims(service: RunningService) -> list[str]:
    """Ids of the jobs that the worker holds."""
    with opened(service) as store:
        return [str(row[0]) for row in store.read("select job from claim")]


def assert_all_done(service: RunningService, ids: list[str]) -> None:
    found = rows(service, ids)
    assert [row.state for row in found] == [State.DONE] * len(ids)
    for row in found:
        result = row.result
        assert isinstance(result, ChatResult) and result.choices[0].message
        assert (result.choices[0].message.content or "").startswith(STORY)
    assert claims(service) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_jobs_computed_together_are_done_exactly_once_though_their_worker_is_killed(start_service: Start, seed: int) -> None:
    service = start_service(**TOGETHER).ready("vlm")
    draw = random.Random(seed)
    ids = submit(service, *(story(draw.randint(20, 400)) for _ in range(24)))
    for _ in range(2):
        pid = worker_pid(service, "vlm")
        wait_until(lambda: len(claims(service)) > 1, "several are under way")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: worker_pid(service, "vlm") != pid, "another worker")
        service.ready("vlm")
    quiet(service, 120)
    assert_all_done(service, ids)
    attempts = [row.attempts for row in rows(service, ids)]
    assert max(attempts) <= 3 and attempts.count(1) > 0
    assert sum(attempts) > len(ids) + 2, "those that were under way together were all taken up again"


def test_a_stop_signal_puts_all_jobs_that_are_computed_together_back_without_counting_an_attempt(start_service: Start) -> None:
    service = start_service(**TOGETHER, BATCH_QUEUE__GRACE="0.2").ready("vlm")
    ids = submit(service, *(story(4000) for _ in range(6)))
    wait_until(lambda: len(claims(service)) == 4, "four are under way")
    assert service.stop() == 0, service.output
    assert {(row.state, row.attempts) for row in rows(service, ids)} == {(State.QUEUED, 0)}
    assert claims(service) == []


def test_cancelling_one_of_the_jobs_computed_together_leaves_the_others(start_service: Start) -> None:
    service = start_service(**TOGETHER).ready("vlm")
    ids = submit(service, *(story(1500) for _ in range(5)))
    wait_until(lambda: len(claims(service)) == 4, "four are under way")
    assert service.command("cancel", ids[0]).returncode == 0
    assert service.command("cancel", ids[2]).returncode == 0
    wait_until(lambda: {row.state for row in rows(service, [ids[0], ids[2]])} == {State.CANCELLED}, "both stopped")
    quiet(service, 120)
    assert_all_done(service, [ids[1], ids[3], ids[4]])


def test_a_client_is_answered_while_bulk_jobs_are_computed_together(start_service: Start) -> None:
    service = start_service(**TOGETHER).ready("vlm")
    ids = submit(service, *(story(1500) for _ in range(8)))
    wait_until(lambda: len(claims(service)) == 4, "four are under way")
    body = {"messages": [{"role": "user", "content": "ping"}], "temperature": 0, "enable_thinking": False}
    for _ in range(3):
        status, answer = service.call("vlm", "/v1/chat/completions", body)
        assert status == 200 and answer["choices"][0]["message"]["content"] == "pong"
    assert any(not row.state.ended for row in rows(service, ids))
    quiet(service, 120)
    assert_all_done(service, ids)


def test_a_job_ends_as_soon_as_its_answer_is_there(start_service: Start) -> None:
    """Those computed with it, and those that take its place, go on."""
    service = start_service(**TOGETHER).ready("vlm")
    short, *long = submit(service, story(20), *(story(3000) for _ in range(3)))
    wait_until(lambda: rows(service, [short])[0].state is State.DONE, "the short one is done")
    assert all(not row.state.ended for row in rows(service, long))
    late = submit(service, story(10))
    wait_until(lambda: rows(service, late)[0].state is State.DONE, "the late one is done")
    assert all(not row.state.ended for row in rows(service, long))
    for job in long:
        service.command("cancel", job)
