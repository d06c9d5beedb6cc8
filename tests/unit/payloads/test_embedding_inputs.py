"""Each wrong input is refused by its place, however large the call is, and no call takes much more than its bytes."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.errors import BadRequest, TooLarge
from batch.payloads import embedding_inputs, json_slices
from batch.payloads.embedding_inputs import MAX_INPUTS, is_token_array, iter_inputs, read_inputs

ITEM = st.text(max_size=10) | st.lists(st.integers(0, 99) | st.text(max_size=3), min_size=1, max_size=5)


@given(items=st.lists(ITEM, min_size=1, max_size=8), slice_bytes=st.integers(1, 60))
def test_inputs_are_read_alike_in_slices_and_at_once(items: list[Any], slice_bytes: int) -> None:
    text = json.dumps(items).encode()
    assert read_inputs(text) == items
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_slices, "SLICE_BYTES", slice_bytes)
        patch.setattr(embedding_inputs, "SLICE_BYTES", slice_bytes)
        patch.setattr(json_slices.element_slices, "__defaults__", (slice_bytes,))
        assert [item for some in iter_inputs(text) for item in some] == items
    assert not is_token_array(text)


def test_an_array_with_a_number_in_it_is_one_token_array() -> None:
    for array in ([1, 2], ["a", 5], [5, "a"], [0]):
        assert read_inputs(json.dumps(array).encode()) == [array]
        assert is_token_array(json.dumps(array).encode())
    assert read_inputs(b'"text"') == ["text"] and not is_token_array(b'"text"')


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("[]", "must not be empty"),
        ("[ ]", "must not be empty"),
        ("5", "must be a string"),
        ("{}", "must be a string"),
        ("true", "must be a string"),
        ('["a", null]', "item 1 is neither"),
        ('["a", false]', "item 1 is neither"),
        ('["a", {"b": 1}]', "item 1 is neither"),
        ('["a", []]', "item 1 is an empty token array"),
        ("[[1], [1.5]]", "item 1 may hold only token ids"),
        ("[[1], [[2]]]", "item 1 may hold only token ids"),
        ("[[1], [null]]", "item 1 may hold only token ids"),
        ("[[1], 2]", "item 0 may hold only token ids"),
        ("[1.5]", "item 0 may hold only token ids"),
        ("[1, true]", "item 1 is neither"),
        ('["a" "b"]', "not JSON"),
        ('["a", "b]', "not JSON"),
        ('["\\ud800"]', "half of a surrogate pair"),
        ("[NaN]", "not JSON"),
        ("[1e999]", "item 0"),
    ],
)
def test_a_wrong_input_is_refused_by_its_place(text: str, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        read_inputs(text.encode())


def test_a_wrong_input_far_behind_is_refused_by_its_place() -> None:
    items = ["some text of a few words"] * 60_000
    for wrong in (None, [], [1.5]):
        with pytest.raises(BadRequest, match="item 60000"):
            read_inputs(json.dumps([*items, wrong]).encode())
    with pytest.raises(BadRequest, match="numbers behind item"):
        read_inputs(json.dumps([*items, 5]).encode())


def test_more_inputs_than_a_call_may_have_are_refused() -> None:
    assert len(read_inputs(json.dumps(["a"] * MAX_INPUTS).encode())) == MAX_INPUTS
    with pytest.raises(TooLarge, match=str(MAX_INPUTS)):
        read_inputs(json.dumps(["a"] * (MAX_INPUTS + 1)).encode())


@pytest.mark.parametrize(
    "text",
    [
        b'["' + b"a" * (17 << 20) + b'"]',
        b'"' + b"a" * (17 << 20) + b'"',
        b"[" + b"7," * (3 << 20) + b"7]",
        b"[[" + b"7," * (3 << 20) + b"7]]",
        b"[[" + b"[]," * (3 << 20) + b"7]]",
    ],
)
def test_one_huge_input_is_refused_by_its_place(text: bytes) -> None:
    with pytest.raises(TooLarge, match="item 0"):
        read_inputs(text)


@pytest.mark.parametrize("element", [b"[]", b"{}", b'""', b"null", b"7", b"[[[[]]]]"])
def test_an_array_of_millions_is_refused_in_memory_for_one_slice(element: bytes) -> None:
    text = b"[" + (element + b",") * 3_000_000 + element + b"]"
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest if element[:1] in b"[{n" else TooLarge):
            for _ in iter_inputs(text):
                pass
        assert tracemalloc.get_traced_memory()[1] < 96 << 20
    finally:
        tracemalloc.stop()
