"""What two prompts begin with, pictures included."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batch.workers.chat.images.image_chunk import ImageChunk
from batch.workers.chat.kv.token_sequence import TokenSequence


@given(st.lists(st.integers(0, 3), max_size=1200), st.integers(0, 1200), st.integers(0, 3))
def test_the_common_prefix_is_found(ids: list[int], at: int, change: int) -> None:
    other = list(ids)
    if at < len(other):
        other[at] = change + 10
    expected = min(at, len(ids))
    assert TokenSequence(ids).common_prefix(TokenSequence(other)) == expected
    assert TokenSequence(ids).common_prefix(TokenSequence(ids[:at])) == expected


@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.lists(st.integers(0, 1), max_size=40), max_size=8))
def test_the_prefixes_common_with_many_are_those_common_with_each(ids: list[int], others: list[list[int]]) -> None:
    prompt, sequences = TokenSequence(ids), [TokenSequence([*ids[: len(other)], *other]) for other in others]
    sequences += [TokenSequence(other) for other in others]
    assert prompt.common_prefixes(sequences) == [prompt.common_prefix(one) for one in sequences]


def test_a_prefix_cuts_no_picture() -> None:
    chunk = ImageChunk(-1, 10, 4, None)
    a = TokenSequence([1, 2])
    a.append_chunk(chunk)
    a.append_tokens([3, 4])
    b = a.copy()
    b.append_tokens([5])
    assert a.common_prefix(b) == 14
    shorter = TokenSequence([1, 2, *[-1] * 6])
    assert a.common_prefix(shorter) == 2
    assert a.uncut(7) == 2
    assert a.uncut(12) == 12
    assert [a.position(i) for i in (0, 2, 12, 14)] == [0, 2, 6, 8]
    assert a.last_text_tokens(3) == [2, 3, 4]
