"""When bulk jobs whose answers are there are ended: several with one flush to the disk, and none of them late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vlm_setup
from batch.queue.jobs import Priority
from batch.workers.chat.bulk import answered_jobs
from batch.workers.chat.engine import VlmEngine
from vlm_setup import chat

ANSWER_TOKENS = (2, 4, 9, 30)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmEngine]:
    engine = vlm_setup.loaded(tmp_path_factory.mktemp("home"), parallel=4)
    yield engine
    engine.close()


def answered(
    engine: VlmEngine,
    folder: Path,
    *,
    waited: Sequence[int] = (),
    stop_at: int = 0,
    inside: Callable[[list[list[int]]], None] | None = None,
) -> list[list[int]]:
    """Which of four jobs, of which each writes more than the one before, were ended together, in order.

    `waited`: for whose answers a client waits; `stop_at`: in which step of the last job the worker stops; `inside`: what runs
    at the last job's yield point once the others' answers are there, with what has been ended by then.
    """
    group = []
    for tokens in ANSWER_TOKENS:
        generation = {"ignore_eos": True, "max_tokens": tokens}
        work = chat(folder, "Tell me a story.", priority=Priority.INBOX, generation=generation, watched=False)
        work.job = replace(work.job, waited=len(group) in waited)
        group.append(work)
    ends: list[list[int]] = []

    def finish_mates(results: Sequence[tuple[Any, Any]]) -> None:
        ends.append([group.index(work) for work, _ in results])

    def stop() -> None:
        raise KeyboardInterrupt

    group[0].finish_mates = finish_mates  # type: ignore[method-assign]
    group[0].waiting = group[1:]
    if inside is not None:
        group[-1].at = {20: lambda: inside(ends)}
    if stop_at:
        group[-1].at = {stop_at: stop}
        with pytest.raises(KeyboardInterrupt):
            engine.run(group[0])
    else:
        engine.run(group[0])
    return ends


def test_answers_that_come_soon_after_one_another_are_written_down_together(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answered_jobs, "END_TOGETHER_S", 3600.0)
    assert answered(engine, tmp_path) == [[0, 1, 2, 3]]


def test_an_answer_is_not_kept_back_for_others_that_take_longer(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answered_jobs, "END_TOGETHER_S", 0.0)
    assert answered(engine, tmp_path) == [[0], [1], [2], [3]]


def test_an_answer_that_a_client_waits_for_is_written_down_at_once(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answered_jobs, "END_TOGETHER_S", 3600.0)
    assert answered(engine, tmp_path, waited=[1]) == [[0, 1], [2, 3]]


def test_answers_that_are_there_are_written_down_before_the_worker_stops(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answered_jobs, "END_TOGETHER_S", 3600.0)
    assert answered(engine, tmp_path, stop_at=20) == [[0, 1, 2]]


def test_answers_are_written_down_before_jobs_of_a_higher_priority_run_inside(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answered_jobs, "END_TOGETHER_S", 3600.0)

    def run_batch_line(ends: list[list[int]]) -> None:
        line = chat(tmp_path, "Tell me a story.", priority=Priority.BATCH, generation={"max_tokens": 2}, watched=False)
        line.at = {1: lambda: ends.append([-1])}
        engine.run(line)

    assert answered(engine, tmp_path, inside=run_batch_line) == [[0, 1, 2], [-1], [3]]


def test_answers_that_are_due_are_written_down_before_the_next_client_of_a_row_of_them(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(answered_jobs, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def run_clients(ends: list[list[int]]) -> None:
        for _ in range(2):
            client = chat(tmp_path, "Tell me a story.", generation={"max_tokens": 2}, watched=False)
            client.at = {1: lambda: ends.append([-1])}
            engine.run(client)
            now[0] += 1.0

    assert answered(engine, tmp_path, inside=run_clients) == [[-1], [0, 1, 2], [-1], [3]]
