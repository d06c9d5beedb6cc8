"""Windows cover a text, fit the model and overlap, whatever the text and however its tokens are counted."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.workers.embedding.text_windows import Window, text_windows

TEXT = st.text(st.sampled_from("ab c\n\u3000你好,."), max_size=400)


def by_word(piece: str) -> int:
    return len(piece.split())


def by_two_characters(piece: str) -> int:
    return (len(piece.strip()) + 1) // 2


def grudging(piece: str) -> int:
    """Words together cost more than each alone."""
    words = len(piece.split())
    return words + words // 3


@pytest.mark.parametrize("count", [by_word, by_two_characters, grudging])
@given(text=TEXT, room=st.integers(4, 40))
def test_windows_cover_the_text_and_fit(count: object, text: str, room: int) -> None:
    assert callable(count)
    found = text_windows(text, room, count, overlap_tokens=3)
    assert found[0].start == 0 and found[-1].end == len(text)
    for before, after in pairwise(found):
        assert before.start < after.start and before.end < after.end
        assert not text[before.end : after.start].strip()  # only white space may lie between two
    for start, end in found:
        assert count(text[start:end]) <= room or end - start <= 64  # a single word is never cut below 64 characters


def test_neighbours_share_what_the_overlap_allows() -> None:
    text = " ".join(f"w{i}" for i in range(1000))
    found = text_windows(text, 100, by_word, overlap_tokens=20)
    shared = [text[after.start : before.end] for before, after in pairwise(found)]
    assert {len(s.split()) for s in shared} == {20}


def test_a_text_that_fits_is_one_window() -> None:
    assert text_windows("one two", 2, by_word) == [Window(0, 7)]
    assert text_windows("", 2, by_word) == [Window(0, 0)]
    assert text_windows(" \n ", 2, by_word) == [Window(0, 3)]


def test_a_long_text_can_be_stopped_while_it_is_counted() -> None:
    calls: list[int] = []
    text_windows("word " * 20_000, 100, by_word, yield_point=lambda: calls.append(1))
    assert len(calls) >= 4


def test_no_window_lies_inside_another_where_words_cost_more_together() -> None:
    for text in ("aa\n aaa\naaaa aaa", "aaa a aaaa", "a aa aaa aaaa aaaaa", "aaaa aaaaA aa a"):
        for room in range(2, 8):
            found = text_windows(text, room, by_two_characters, overlap_tokens=3)
            assert all(a.end < b.end for a, b in pairwise(found)), (text, room, found)
