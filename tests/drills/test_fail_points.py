"""Killed between any two steps of a job's way, the service comes to the same end."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable

import pytest

from batch.fail_points import POINTS, TOLD
from drill_home import Outbox, assert_tidy, chat_draft, content, drop, is_noted, opened, quiet, submit
from running_service import RunningService, wait_until

Start = Callable[..., RunningService]
FILES = ["a/one.png", "two.wav", "three.txt", "five.txt"]
OF_THE_WORKER = ("claimed", "computed", "ended")


@pytest.mark.drill
@pytest.mark.parametrize(
    ("point", "source"),
    [*((point, "move") for point in POINTS), *((point, "keep") for point in POINTS[POINTS.index("outbox-json") :])],
)
def test_dropped_files_are_done_once_wherever_a_process_is_killed(start_service: Start, point: str, source: str) -> None:
    service = start_service(BATCH_FAIL_AT=point, BATCH_FOLDER__SOURCE=source)
    outbox = Outbox(service)
    for number, name in enumerate(FILES, 3):
        drop(service, name, content(name, number))
    marker = service.home / ".batch" / f"failed-at-{point}"
    wait_until(marker.exists, f"a process is killed at {point}\n{service.output}")
    assert service.process is not None
    if point not in OF_THE_WORKER:
        service.process.wait(30)
        outbox.look()
        service.start()
    wait_until(lambda: outbox.holds(FILES), f"all results are there\n{service.output}")
    quiet(service)
    wait_until(lambda: is_noted(service), "the ledger says so")
    assert service.process.poll() is None, service.output
    assert service.stop() == 0
    jobs = assert_tidy(service, FILES)
    assert jobs == {("inbox", "done"): 6}, "two for the picture, two for the sound, one for each text"
    there = [name for name in FILES if (service.inbox / name).exists()]
    moved = [name for name in FILES if (service.home / "done" / name).exists()]
    assert (there, moved) == ((FILES, []) if source == "keep" else ([], FILES))


@pytest.mark.drill
@pytest.mark.parametrize("point", ["claimed", "computed", "ended"])
def test_a_waiting_caller_is_answered_wherever_its_worker_is_killed(start_service: Start, point: str) -> None:
    service = start_service(BATCH_FAIL_AT=point).ready("vlm")
    body = {"model": "any", "messages": [{"role": "user", "content": "one two three"}]}
    if point == "ended":
        # Its end was written and not told: who waits hears of it from the successor, or not at all.
        status, answer = service.call("vlm", "/v1/chat/completions", body, timeout=30)
    else:
        status, answer = service.call("vlm", "/v1/chat/completions", body)
    assert status == 200 and answer["choices"][0]["message"]["content"].split() == ["one", "two", "three"]
    with opened(service) as store:
        (job,) = store.jobs()
    assert job.attempts == (1 if point == "ended" else 2)


@pytest.mark.drill
@pytest.mark.parametrize("point", ["claimed", "computed", "ended"])
def test_a_waiting_embedding_is_answered_wherever_its_worker_is_killed(start_service: Start, point: str) -> None:
    """Its start is told together with its end: the successor must not need to have heard of it."""
    service = start_service(BATCH_FAIL_AT=point).ready("embedding")
    status, answer = service.call("embedding", "/v1/embeddings", {"model": "any", "input": "one two three"})
    assert status == 200 and len(answer["data"]) == 1
    with opened(service) as store:
        (job,) = store.jobs()
    assert job.attempts == (1 if point == "ended" else 2)


@pytest.mark.drill
def test_an_embedding_whose_client_has_it_is_done_again_where_its_worker_was_killed_before_it_was_written(
    start_service: Start,
) -> None:
    service = start_service(BATCH_FAIL_AT=TOLD).ready("embedding")
    for text in ("the first", "the second"):  # the second one finds the worker dead
        status, answer = service.call("embedding", "/v1/embeddings", {"model": "any", "input": text})
        assert status == 200 and len(answer["data"]) == 1
    quiet(service)
    with opened(service) as store:
        attempts = sorted(job.attempts for job in store.jobs())
    assert attempts == [1, 2]
    assert service.stop() == 0
    assert assert_tidy(service, []) == {("http", "done"): 2}


@pytest.mark.drill
@pytest.mark.parametrize("point", ["spooled", "committed"])
@pytest.mark.parametrize("repeats", [30_000, 1], ids=["large", "small"])  # which the idle worker is handed
def test_a_call_is_lost_with_its_caller_and_leaves_nothing(start_service: Start, point: str, repeats: int) -> None:
    service = start_service(BATCH_FAIL_AT=point).ready("embedding")
    with pytest.raises((OSError, http.client.HTTPException)):
        service.call("embedding", "/v1/embeddings", {"model": "any", "input": ["text " * repeats] * 4})
    assert service.process is not None
    service.process.wait(30)
    service.start().ready("embedding")
    quiet(service)
    assert service.call("embedding", "/v1/embeddings", {"model": "any", "input": "x"})[0] == 200
    assert service.stop() == 0
    found = assert_tidy(service, [])
    assert found == {("http", "done"): 1, **({("http", "cancelled"): 1} if point == "committed" else {})}


@pytest.mark.drill
def test_a_bulk_job_from_another_process_survives_its_end_not_being_told(start_service: Start) -> None:
    service = start_service(BATCH_FAIL_AT="ended").ready("vlm")
    first, second = submit(service, chat_draft("a b c"), chat_draft("d e f"))
    quiet(service)
    with opened(service) as store:
        rows = [store.job(first), store.job(second)]
    assert [row and row.attempts for row in rows] == [1, 1]
    with contextlib.suppress(AssertionError):
        wait_until(lambda: service.health("vlm")[0] == 200, "ready again", 60)
    assert json.loads(service.command("status", "--json").stdout)["models"]["vlm"]["done_today"] == 2
