"""Tokens that are decoded before their text is made, as a GPU computes meanwhile: no answer changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vlm_setup
from batch.errors import BatchError, Cancelled
from batch.payloads.chat import ChatResult
from batch.queue.jobs import Priority
from batch.workers.chat.bulk import token_finder
from batch.workers.chat.engine import VlmEngine
from batch.workers.chat.sampling.sampler import Sampler
from scripted_work import ScriptedWork
from vlm_setup import chat, run

STORY = "Tell me a story."


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmEngine]:
    engine = vlm_setup.loaded(tmp_path_factory.mktemp("home"), parallel=4)
    scheduler = engine._open_scheduler()
    assert scheduler is not None
    scheduler.resources.decodes_ahead = True
    yield engine
    engine.close()


def works(folder: Path, priority: Priority) -> list[ScriptedWork]:
    """Answers that end in every way there is."""

    def story(thinking: bool = False, max_tokens: int = 60, **options: Any) -> ScriptedWork:
        generation = {"max_tokens": max_tokens, **options.pop("generation", {})}
        return chat(folder, STORY, priority=priority, enable_thinking=thinking, generation=generation, **options)

    return [
        story(thinking=True),
        story(max_tokens=1),
        story(max_tokens=3),
        story(generation={"stop": ["blue"]}),
        story(n=2),
        story(thinking=True, generation={"thinking_budget": 2}),
        story(generation={"json_schema": {"enum": ["red", "blue", "a circle"]}}),
        story(generation={"logprobs": True, "n_probs": 2}),
    ]


def together(engine: VlmEngine, group: list[ScriptedWork]) -> None:
    group[0].waiting = group[1:]
    assert engine.run(group[0]) is None


def answers(result: ChatResult) -> list[Any]:
    return [
        (c.message, c.finish_reason, c.stopping_word, [entry.token for entry in c.logprobs.content] if c.logprobs else None)
        for c in result.choices
    ]


@pytest.mark.parametrize("interrupted", [False, True], ids=["undisturbed", "interrupted"])
def test_answers_are_those_of_tokens_whose_text_is_made_first(engine: VlmEngine, tmp_path: Path, interrupted: bool) -> None:
    expected = [run(engine, work) for work in works(tmp_path, Priority.INTERACTIVE)]
    group = works(tmp_path, Priority.INBOX)
    for work in group if interrupted else ():
        work.at = dict.fromkeys((3, 11), engine.interrupt)
    together(engine, group)
    assert [work.error for work in group] == [None] * len(group)
    assert [answers(work.result) for work in group] == [answers(result) for result in expected]
    used = [work.result.usage.completion_tokens for work in group]
    assert used == [result.usage.completion_tokens for result in expected]
    assert {c.stopping_word for result in expected for c in result.choices} == {"", "blue"}


def test_a_job_whose_text_cannot_be_told_fails_alone(engine: VlmEngine, tmp_path: Path) -> None:
    group = works(tmp_path, Priority.INBOX)[:3]

    def refuse(event: Any) -> None:
        raise BatchError("Nobody reads this any more.")

    group[0].emit = refuse  # type: ignore[method-assign]
    together(engine, group)
    assert isinstance(group[0].error, BatchError)
    expected = [run(engine, work) for work in works(tmp_path, Priority.INTERACTIVE)[1:3]]
    assert [answers(work.result) for work in group[1:]] == [answers(result) for result in expected]


def test_a_job_that_is_claimed_ahead_is_cancelled_before_there_is_a_place_for_it(engine: VlmEngine, tmp_path: Path) -> None:
    def cancel() -> None:
        assert all(work.result is None for work in group)
        raise Cancelled()

    group = [chat(tmp_path, STORY, priority=Priority.BATCH, generation={"max_tokens": 30}) for _ in range(6)]
    group[4].at = {1: cancel}
    together(engine, group)
    assert isinstance(group[4].error, Cancelled) and len(group[4].units) == 1
    assert [work.result is not None for work in group] == [True, True, True, True, False, True]


def test_prompts_and_tokens_are_looked_for_in_threads_beside_the_one_that_decodes(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, set[str]] = {"plan": set(), "find": set()}
    plan, find = engine.plan_job, Sampler.find

    def note_plan(*given: Any) -> Any:
        names["plan"].add(threading.current_thread().name)
        return plan(*given)

    def note_find(sampler: Sampler, logits: Any) -> None:
        names["find"].add(threading.current_thread().name)
        find(sampler, logits)

    monkeypatch.setattr(engine, "plan_job", note_plan)
    monkeypatch.setattr(Sampler, "find", note_find)
    monkeypatch.setattr(token_finder, "MIN_JOBS_PER_THREAD", 1)
    group = works(tmp_path, Priority.INBOX)
    together(engine, group)
    assert [work.error for work in group] == [None] * len(group)
    assert names["plan"] == {"preparation"}
    assert any(name.startswith("tokens") for name in names["find"])
    engine.close()
    deadline = time.monotonic() + 10
    while any(thread.name.startswith(("tokens", "preparation")) for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread outlived its engine"
        time.sleep(0.01)
