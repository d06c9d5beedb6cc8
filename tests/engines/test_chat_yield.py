"""More urgent jobs run inside a bulk job's units, and the bulk job goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import vlm_setup
from batch.errors import Cancelled
from batch.queue.jobs import Priority
from batch.workers.chat.engine import VlmEngine
from scripted_work import ScriptedWork
from vlm_setup import chat, content, picture, run


@pytest.fixture(scope="module", params=[1, 4], ids=["one", "four"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmEngine]:
    engine = vlm_setup.loaded(tmp_path_factory.mktemp("home"), parallel=request.param)
    yield engine
    engine.close()


def bulk(folder: Path, priority: Priority = Priority.INBOX, tokens: int = 300, prompt: int = 1300, **more: Any) -> ScriptedWork:
    """A long job that the tiny model would end early."""
    generation = {"ignore_eos": True, "max_tokens": tokens, "cache_prompt": False, **more.pop("generation", {})}
    return chat(folder, "red circle " * (prompt // 2) + "Tell me a story.", priority=priority, generation=generation, **more)


def written(result: Any) -> tuple[str, str]:
    """Thinking and content of the first choice."""
    message = result.choices[0].message
    return message.reasoning_content or "", message.content


SEEDED = {"temperature": 1.0, "seed": 11, "top_k": 0, "min_p": 0.0}


DRAWN = {"greedy": {}, "seed": SEEDED, "penalty": {**SEEDED, "repeat_penalty": 1.3}}


@pytest.mark.parametrize("generation", DRAWN.values(), ids=DRAWN)
@pytest.mark.parametrize("units", [(1, 2), (3,), (4, 5, 90), (200,)], ids=str)
def test_an_interrupted_job_gives_the_very_same_tokens(
    engine: VlmEngine, tmp_path: Path, units: tuple[int, ...], generation: dict[str, Any]
) -> None:
    alone = run(engine, bulk(tmp_path, generation=generation))
    inner: list[Any] = []

    def urgent() -> None:
        parts = [picture(tmp_path), {"type": "text", "text": "Describe this image."}]
        inner.append(engine.run(chat(tmp_path, parts, enable_thinking=False)))
        inner.append(engine.run(chat(tmp_path, "Tell me a story.", enable_thinking=False)))

    disturbed = run(engine, bulk(tmp_path, at=dict.fromkeys(units, urgent), generation=generation))
    assert written(disturbed) == written(alone)
    assert len(inner) == 2 * len(units)
    assert {content(r) for r in inner[::2]} == {"a red circle"}
    assert all(content(r).startswith("Once there was a red circle.") for r in inner[1::2])


def test_three_classes_nest(engine: VlmEngine, tmp_path: Path) -> None:
    alone = written(run(engine, bulk(tmp_path))), written(run(engine, bulk(tmp_path, prompt=900, tokens=90)))
    middle: list[Any] = []
    inner: list[Any] = []

    def caller() -> None:
        inner.append(engine.run(chat(tmp_path, "ping", enable_thinking=False)))

    def batch() -> None:
        work = bulk(tmp_path, Priority.BATCH, prompt=900, tokens=90, at={2: caller, 40: caller})
        middle.append(run(engine, work))

    outer = run(engine, bulk(tmp_path, at={2: batch, 120: batch}))
    assert written(outer) == alone[0]
    assert [written(m) for m in middle] == [alone[1]] * 2
    assert [content(r) for r in inner] == ["pong"] * 4


def test_a_job_is_parked_in_host_memory_when_an_urgent_one_needs_its_room(tmp_path: Path) -> None:
    engine = vlm_setup.loaded(tmp_path, context=1536)
    try:
        alone = written(run(engine, bulk(tmp_path, prompt=900, tokens=200)))
        inner: list[Any] = []

        def urgent() -> None:
            inner.append(written(run(engine, bulk(tmp_path, Priority.INTERACTIVE, prompt=1100, tokens=60))))

        reference = written(run(engine, bulk(tmp_path, Priority.INTERACTIVE, prompt=1100, tokens=60)))
        outer = run(engine, bulk(tmp_path, prompt=900, tokens=200, at={60: urgent, 130: urgent}))
        assert inner == [reference] * 2
        assert written(outer) == alone
    finally:
        engine.close()


def test_a_job_that_is_parked_where_its_slice_was_broken_off_goes_on_from_its_own_tokens(tmp_path: Path) -> None:
    engine = vlm_setup.loaded(tmp_path, context=1536, parallel=4)
    try:
        alone = written(run(engine, bulk(tmp_path, prompt=900, tokens=60)))
        inner: list[Any] = []

        def urgent() -> None:
            inner.append(run(engine, bulk(tmp_path, Priority.INTERACTIVE, prompt=1350, tokens=20)))

        outer = run(engine, bulk(tmp_path, prompt=900, tokens=60, at={2: engine.interrupt, 3: urgent}))
        assert len(inner) == 1
        assert written(outer) == alone
    finally:
        engine.close()


def test_an_urgent_job_that_fails_or_is_cancelled_leaves_the_outer_one_whole(engine: VlmEngine, tmp_path: Path) -> None:
    alone = written(run(engine, bulk(tmp_path)))

    def cancel() -> None:
        raise Cancelled()

    def urgent() -> None:
        with pytest.raises(Cancelled):
            engine.run(chat(tmp_path, "Tell me a story.", at={9: cancel}))

    assert written(run(engine, bulk(tmp_path, at={2: urgent, 50: urgent}))) == alone


def test_an_interrupt_meant_for_nobody_changes_nothing(engine: VlmEngine, tmp_path: Path) -> None:
    alone = written(run(engine, bulk(tmp_path)))
    assert written(run(engine, bulk(tmp_path, at=dict.fromkeys((1, 2, 3, 4, 50, 51, 100), engine.interrupt)))) == alone


def test_a_prompt_goes_in_by_slices_that_others_can_come_between(engine: VlmEngine, tmp_path: Path) -> None:
    work = bulk(tmp_path, prompt=4000, tokens=1)
    result = run(engine, work)
    slices = [done for done, total, _ in work.units if total == result.usage.prompt_tokens]
    most = engine._resources.bulk_slice_tokens  # as measured: fewer where the machine was busy
    assert all(b - a <= most for a, b in pairwise([*slices, result.usage.prompt_tokens]))
    assert len(slices) <= -(-result.usage.prompt_tokens // most) + 3, "checkpoints near the end cut a few slices more"


def test_a_job_whose_broken_off_decode_cost_it_its_window_computes_it_again(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An aborted slice may overwrite what the next token looks at; here the loss is staged."""
    alone = written(run(engine, bulk(tmp_path, tokens=60)))
    lost = iter([True])
    scheduler = engine._open_scheduler()
    cache = engine._resources.cache if scheduler is None else scheduler.cache
    monkeypatch.setattr(cache, "has_lost_window", lambda _: next(lost, False))
    work = bulk(tmp_path, tokens=60, at={20: engine.interrupt})
    assert written(run(engine, work)) == alone
    assert [done for done, _, _ in work.units].count(0) == 2
