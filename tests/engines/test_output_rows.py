"""Of a prompt the layers that share others' keys and values compute only the tokens whose logits are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pytest

from batch.workers.llama.context import DECODED, Context
from batch.workers.llama.model import Model
from graph_rows import GraphRows
from vlm_setup import TINY

SEQUENCES = 4
FIRST_SHARING_LAYER = 2
"""Of the tiny model's four."""
Part = tuple[list[int], int, int, bool]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    model = Model(TINY / "tiny-gemma4v-text-f16.gguf")
    yield model
    model.close()


@pytest.fixture(params=[False, True], ids=["shared", "own"])
def context(model: Model, request: pytest.FixtureRequest) -> Iterator[Context]:
    context = Context(model, n_ctx=512, n_batch=256, n_ubatch=256, sequences=SEQUENCES, own_kv=request.param)
    yield context
    context.close()


def prompt(seed: int, length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(20, 800, length)]


def logits_of(context: Context, parts: Sequence[Part]) -> list[Any]:
    """Behind the last token of each part that wants them."""
    assert context.decode_parts(parts) == DECODED
    ends = list(accumulate(len(tokens) for tokens, *_ in parts))
    return [context.logits(end - 1).copy() for end, (*_, wanted) in zip(ends, parts, strict=True) if wanted]


def complete_logits(context: Context, parts: Sequence[Part]) -> list[Any]:
    """The same where logits behind all tokens were asked for, so that no row can be left out; the sequences are empty again."""
    tokens = [token for part, *_ in parts for token in part]
    positions = [position + at for part, position, *_ in parts for at in range(len(part))]
    sequences = [seq for part, _, seq, _ in parts for _ in part]
    assert context.decode_rows(tokens, positions, sequences) == DECODED
    ends = list(accumulate(len(part) for part, *_ in parts))
    rows = [context.logits(end - 1).copy() for end, (*_, wanted) in zip(ends, parts, strict=True) if wanted]
    forget_all(context)
    return rows


def forget_all(context: Context) -> None:
    for seq in range(SEQUENCES):
        context.forget(seq)


def assert_alike(rows: Sequence[Any], expected: Sequence[Any]) -> None:
    """Up to what kernels round otherwise that compute another number of rows at a time."""
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert np.abs(row - other).max() < 0.02 * np.ptp(other)


def test_the_layers_that_share_keys_compute_the_rows_that_are_read_and_no_others(model: Model) -> None:
    rows = GraphRows()
    context = Context(model, n_ctx=512, n_batch=256, n_ubatch=256, sequences=SEQUENCES, cb_eval=rows.callback)
    sharing = [f"l_out-{layer}" for layer in range(FIRST_SHARING_LAYER, 4)]
    try:
        context.decode_tokens(prompt(1, 60), 0, 0, output=True)
        assert rows.by_name["l_out-0"] == 60
        assert [rows.by_name[name] for name in sharing] == [2, 2], "of one output two, as kernels round one row otherwise"
        rows.by_name.clear()
        context.decode_tokens(prompt(1, 60), 60, 0, output=False)
        assert rows.by_name["l_out-0"] == 60
        assert not rows.by_name.keys() & set(sharing), "nothing of them is read"
    finally:
        context.close()


@pytest.mark.parametrize("lengths", [(40, 40, 40, 40), (7, 60, 1, 33), (1, 1, 1, 50)])
@pytest.mark.parametrize("wanted", [(True, False, False, False), (False, True, True, False), (True, True, True, True)])
def test_logits_are_the_same_whichever_rows_are_left_out(
    context: Context, lengths: Sequence[int], wanted: Sequence[bool]
) -> None:
    parts = [(prompt(seq, length), 0, seq, wanted[seq]) for seq, length in enumerate(lengths)]
    expected = complete_logits(context, parts)
    assert_alike(logits_of(context, parts), expected)
    forget_all(context)


def test_a_graph_that_is_used_again_picks_the_rows_of_its_own_batch(context: Context) -> None:
    for turn in range(6):
        wanted = [seq == turn % SEQUENCES or (turn > 3 and seq == 0) for seq in range(SEQUENCES)]
        parts = [(prompt(10 * turn + seq, 24), 0, seq, wanted[seq]) for seq in range(SEQUENCES)]
        expected = complete_logits(context, parts)
        for _ in range(2):
            assert_alike(logits_of(context, parts), expected)
            forget_all(context)


def test_what_is_generated_behind_a_prompt_without_logits_is_the_same(context: Context) -> None:
    parts = [(prompt(seq, 30 + 9 * seq), 0, seq, True) for seq in range(SEQUENCES)]
    expected = complete_logits(context, parts)
    assert context.decode_parts([(tokens[:-1], 0, seq, False) for tokens, _, seq, _ in parts]) == DECODED
    last = [(tokens[-1:], len(tokens) - 1, seq, True) for tokens, _, seq, _ in parts]
    assert_alike(logits_of(context, last), expected)
    forget_all(context)


@pytest.mark.parametrize("own_kv", [False, True], ids=["shared", "own"])
def test_the_logits_behind_a_long_prompt_are_the_same_bit_for_bit_alone_in_company_and_with_any_number_of_threads(
    model: Model, own_kv: bool
) -> None:
    """A single row's attention is cut into as many parts as there are threads, from 512 cells on."""
    context = Context(model, n_ctx=1024, n_batch=256, n_ubatch=256, sequences=SEQUENCES, own_kv=own_kv)
    try:
        ends = [(prompt(seq, 20), 0 if seq else 600, seq, True) for seq in range(SEQUENCES)]
        for at in range(0, 600, 200):
            context.decode_tokens(prompt(40 + at, 200), at, 0, output=False)
        rows = []
        for threads in (1, 2, 3):
            context.set_threads(threads)
            rows += logits_of(context, ends[:1])
            context.forget(0, 600)
        if own_kv:  # in shared cells those of a window lie in another order then, with whatever llama.cpp
            rows.append(logits_of(context, ends)[0])
    finally:
        context.close()
    assert all(np.array_equal(row, rows[0]) for row in rows)


def test_q8_keys_and_values_are_read_by_the_rows_that_are_left(model: Model) -> None:
    context = Context(model, n_ctx=512, n_batch=256, n_ubatch=256, sequences=SEQUENCES, kv_type="q8_0")
    try:
        parts = [(prompt(seq, 50), 0, seq, seq > 1) for seq in range(SEQUENCES)]
        expected = complete_logits(context, parts)
        assert_alike(logits_of(context, parts), expected)
    finally:
        context.close()
