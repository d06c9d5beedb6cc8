"""Bulk jobs are computed as many at a time as there are places, however short their answers are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import vlm_setup
from batch.batches.service import QUEUED_LINES
from batch.queue.jobs import Priority
from batch.settings.parallel import MAX_PARALLEL
from batch.workers.chat import memory_planner
from batch.workers.chat.bulk.claimed_jobs import PICTURES_AHEAD, PLANS_AHEAD_SHARE
from batch.workers.chat.bulk.speed import GPU_WIDTHS, WIDTHS, sequences_for
from batch.workers.llama.context import Context
from vlm_setup import bulk, bulk_resources, together

WIDTH = 4


def token_widths(context: Context, monkeypatch: pytest.MonkeyPatch, counts: Callable[[], bool] = lambda: True) -> list[int]:
    """Of each decode of generated tokens from now on, as long as `counts`: of how many jobs they are."""
    widths = list[int]()
    decode = context.decode_parts

    def note(parts: Sequence[Any]) -> int:
        if counts() and all(len(tokens) == 1 for tokens, *_ in parts):
            widths.append(len(parts))
        return decode(parts)

    monkeypatch.setattr(context, "decode_parts", note)
    return widths


def test_no_step_leaves_a_place_free_while_jobs_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = vlm_setup.loaded(tmp_path, parallel=WIDTH)
    try:
        lengths = (2, 2, 2, 2, 5, 3, 2, 4, 2, 6, 3, 2)
        group = [
            bulk(tmp_path, f"{n} ping", priority=Priority.BATCH, generation={"ignore_eos": True, "max_tokens": tokens})
            for n, tokens in enumerate(lengths)
        ]
        widths = token_widths(bulk_resources(engine).context, monkeypatch, counts=lambda: bool(group[0].waiting))
        together(engine, group)
    finally:
        engine.close()
    assert [work.result.usage.completion_tokens for work in group] == list(lengths)
    assert widths
    assert set(widths) == {WIDTH}


@pytest.mark.parametrize("own_share", [memory_planner.OWN_KV_SHARE, 0.0], ids=["own", "shared"])
def test_as_many_jobs_as_may_be_set_are_computed_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_share: float
) -> None:
    monkeypatch.setattr(memory_planner, "OWN_KV_SHARE", own_share)
    engine = vlm_setup.loaded(tmp_path, mmproj="", context=4096, parallel=MAX_PARALLEL)
    try:
        works = [bulk(tmp_path, f"{n} ping", generation={"ignore_eos": True, "max_tokens": 6}) for n in range(MAX_PARALLEL + 2)]
        context = bulk_resources(engine).context
        assert context.has_own_kv == (own_share > 0) and context.sequences == sequences_for(MAX_PARALLEL)
        widths = token_widths(context, monkeypatch)
        together(engine, works)
    finally:
        engine.close()
    assert [work.error for work in works] == [None] * len(works)
    assert {work.result.usage.completion_tokens for work in works} == {6}
    assert max(widths) == MAX_PARALLEL


def test_every_number_of_jobs_that_is_chosen_by_itself_may_be_set() -> None:
    assert max(*WIDTHS, *GPU_WIDTHS) <= MAX_PARALLEL
    assert sequences_for(MAX_PARALLEL) <= 256, "llama.cpp has no more sequences"


def test_a_batch_keeps_more_lines_queued_than_are_computed_and_prepared_at_a_time() -> None:
    widest = max(*WIDTHS, *GPU_WIDTHS)
    # It queues the next ones once a quarter of its places is free.
    assert widest + max(PICTURES_AHEAD, widest // PLANS_AHEAD_SHARE) <= QUEUED_LINES - QUEUED_LINES // 4
