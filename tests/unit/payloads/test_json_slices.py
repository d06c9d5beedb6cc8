"""Large JSON is cut at its outermost commas only, whatever stands in its strings and wherever a slice ends."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.payloads.json_slices import element_slices

SIGNS = st.text(st.sampled_from('ab"\\[]{},: é'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | SIGNS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SIGNS, inner, max_size=3),
    max_leaves=12,
)


@given(values=st.lists(VALUES, max_size=8), slice_bytes=st.integers(1, 40), indent=st.sampled_from([None, 1]))
def test_slices_hold_all_elements_in_order_and_no_more_than_fits(
    values: list[object], slice_bytes: int, indent: int | None
) -> None:
    text = json.dumps(values, ensure_ascii=False, indent=indent).encode()
    found = []
    for part in element_slices(text, slice_bytes):
        elements = json.loads(b"[" + part + b"]")
        assert len(elements) == 1 or len(part) <= slice_bytes
        found += elements
    assert found == values


@given(members=st.dictionaries(SIGNS, VALUES, max_size=6), slice_bytes=st.integers(1, 40))
def test_an_object_is_cut_between_its_members(members: dict[str, object], slice_bytes: int) -> None:
    text = json.dumps(members, ensure_ascii=False).encode()
    found: dict[str, object] = {}
    for part in element_slices(text, slice_bytes):
        found |= json.loads(b"{" + part + b"}")
    assert found == members


@pytest.mark.parametrize("slice_bytes", [1, 3, 1 << 20])
@pytest.mark.parametrize(
    "text", [b"", b"[", b"]", b"[1", b"1]", b"[1}", b"[1]]", b"[[1]", b'["1]', b'["1\\"]', b"[1] [2]", b"x", b'"a"', b"[1]x"]
)
def test_brackets_that_do_not_match_are_refused(text: bytes, slice_bytes: int) -> None:
    with pytest.raises(ValueError, match="do not match"):
        list(element_slices(text, slice_bytes))


@pytest.mark.parametrize("text", [b"[,1]", b"[1,]", b"[1, ,1]", b"[1,,1]"])
def test_a_missing_element_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="missing"):
        list(element_slices(text, 1))


def test_millions_of_elements_take_memory_for_one_slice() -> None:
    text = b"[" + b"[]," * 4_000_000 + b"[]]"
    tracemalloc.start()
    try:
        assert sum(part.nbytes + 1 for part in element_slices(text)) == len(text) - 1
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
