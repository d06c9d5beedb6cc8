"""Which steps of several jobs share a decode."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from batch.workers.chat.bulk.decode_batch import DecodeBatch
from batch.workers.chat.steps import DecodeImage, NextToken, PromptSlice


def jobs(sizes: tuple[int, ...]) -> list[Any]:
    """Jobs that only have a step: a slice of so many tokens, 1 for a token that was generated, 0 for a picture."""
    steps = [
        PromptSlice(list(range(size)), 0, needs_logits=True) if size > 1 else NextToken(0, 0) if size else DecodeImage(None, 0)  # type: ignore[arg-type]
        for size in sizes
    ]
    return [SimpleNamespace(step=step, slot=SimpleNamespace(seq=number)) for number, step in enumerate(steps)]


def sizes_of(batch: DecodeBatch) -> list[int]:
    return [len(tokens) for tokens, *_ in batch.parts]


@pytest.mark.parametrize(
    ("sizes", "together"),
    [
        ((15, 15, 15, 15, 15), 4),
        ((15, 0, 1, 15), 2),
        ((63, 15), 1),
        ((64, 15), 1),
        ((15, 64, 15), 1),  # in the order in which each would come to stand in the KV alone
        ((7, 15), 1),
        ((15, 7, 15), 1),
        ((1, 0), 0),
    ],
)
def test_slices_share_a_decode_as_far_as_their_numbers_stay_their_own(sizes: tuple[int, ...], together: int) -> None:
    assert len(DecodeBatch.of_slices(jobs(sizes), 63, 1)) == together


@pytest.mark.parametrize(("sizes", "together"), [((15, 15), 1), ((16, 15, 16), 2), ((8, 12, 16, 15), 4), ((12, 7), 1)])
def test_where_rows_are_computed_by_fours_no_slice_follows_one_that_is_no_multiple(
    sizes: tuple[int, ...], together: int
) -> None:
    assert len(DecodeBatch.of_slices(jobs(sizes), 63, 4)) == together


@pytest.mark.parametrize(
    ("sizes", "multiple", "together"),
    [
        ((15, 15, 15, 15, 15), 1, 4),
        ((15, 15), 4, 1),
        ((16, 16, 12), 4, 2),
        ((16, 1, 16), 4, 1),  # one's sequence lies between
        ((7, 7), 1, 1),
        ((1, 0), 1, 0),
    ],
)
def test_where_each_has_its_own_cells_slices_of_equal_length_share_a_decode(
    sizes: tuple[int, ...], multiple: int, together: int
) -> None:
    assert len(DecodeBatch.of_equal_slices(jobs(sizes), 63, multiple)) == together


def test_slices_of_any_length_share_a_decode_where_their_numbers_may_differ() -> None:
    assert sizes_of(DecodeBatch.of_any_slices(jobs((300, 1, 5, 200, 8)), 320)) == [300, 5, 8]


def test_the_rows_of_a_decode_may_be_in_the_order_of_their_sequences() -> None:
    batch = DecodeBatch.of_any_slices(reversed(jobs((3, 2, 4))), 320).by_sequence()
    assert sizes_of(batch) == [3, 2, 4] and [job.slot.seq for job in batch.jobs] == [0, 1, 2] and batch.last_rows == [2, 4, 8]


@pytest.mark.parametrize(
    ("sizes", "shared"),
    [
        ((15, 15, 15), [15, 15]),
        ((15, 1, 1, 15), [1, 1, 15, 15]),
        ((1, 1, 1, 15, 15, 10), [1, 1, 1, 15, 10]),
        ((16, 16, *(1,) * 16), [*(1,) * 16, 16]),
        ((16, *(1,) * 30), [*(1,) * 30, 16]),
    ],
)
def test_a_slow_models_step_has_a_slice_in_any_case_and_more_up_to_32_rows(sizes: tuple[int, ...], shared: list[int]) -> None:
    batch = DecodeBatch.of_both(jobs(sizes), 16, 2048)
    assert sizes_of(batch) == shared
    assert batch.last_rows[-1] == sum(shared) - 1


def test_all_that_generate_and_slices_up_to_the_bound_share_a_step_where_that_takes_no_longer() -> None:
    assert sizes_of(DecodeBatch.of_both(jobs((300, 1, 200, 50)), 512, 2048)) == [1, 300, 200]
    assert sizes_of(DecodeBatch.of_both(jobs((300, 1, 200, 50)), 2048, 400)) == [1, 300, 50]
