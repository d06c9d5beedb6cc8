"""Bytes to text, stop strings, the repetition guard, and the prefix of two prompts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batch.workers.chat.detokenizer import TextStream
from batch.workers.chat.repetition_guard import collapsed
from batch.workers.chat.token_sequence import Cells
from batch.workers.chat.vision import Chunk

LETTERS = st.text("abß🙂", max_size=24)


@given(LETTERS, st.lists(st.text("abß🙂", min_size=1, max_size=3), max_size=3), st.data())
def test_any_cutting_gives_the_text_before_the_first_stop(text: str, stops: list[str], data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    stream = TextStream(stops)
    shown = ""
    for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        shown += stream.push(raw[a:b])
        assert text.startswith(shown)
    shown += stream.finish()
    found = [text.index(s) for s in stops if s in text]
    if not found:
        assert shown == text
        assert stream.stopped is None
    else:
        assert stream.stopped in stops
        # Pieces may end one stop before an earlier-starting longer one is complete, but never show part of either.
        assert shown == text[: text.index(stream.stopped)] or not any(s in shown for s in stops)


def test_half_a_character_waits_for_its_rest() -> None:
    stream = TextStream()
    raw = "🙂".encode()
    assert [stream.push(raw[:1]), stream.push(raw[1:3]), stream.push(raw[3:])] == ["", "", "🙂"]
    assert stream.push(raw[:2]) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


def test_what_might_become_a_stop_string_is_held_back() -> None:
    stream = TextStream(["</end>"])
    assert stream.push(b"text</e") == "text"
    assert stream.push(b"mpty") == "</empty"
    assert stream.push(b"</end> more") == ""
    assert stream.stopped == "</end>"
    assert stream.push(b"more") == stream.finish() == ""


def test_only_a_long_run_of_the_same_is_a_collapse() -> None:
    assert collapsed([1] * 500)
    assert collapsed(list(range(20)) + [7, 8, 9] * 200)
    assert not collapsed([1] * 300)
    assert not collapsed(list(range(500)))
    assert not collapsed(list(range(100)) * 5)


@given(st.lists(st.integers(0, 3), max_size=1200), st.integers(0, 1200), st.integers(0, 3))
def test_the_common_prefix_is_found(ids: list[int], at: int, change: int) -> None:
    other = list(ids)
    if at < len(other):
        other[at] = change + 10
    expected = min(at, len(ids))
    assert Cells(ids).common(Cells(other)) == expected
    assert Cells(ids).common(Cells(ids[:at])) == expected


def test_a_prefix_cuts_no_picture() -> None:
    chunk = Chunk(-1, 10, 4, None)
    a = Cells([1, 2])
    a.add_chunk(chunk)
    a.add([3, 4])
    b = a.copy()
    b.add([5])
    assert a.common(b) == 14
    shorter = Cells([1, 2, *[-1] * 6])
    assert a.common(shorter) == 2
    assert a.whole(7) == 2
    assert a.whole(12) == 12
    assert [a.position(i) for i in (0, 2, 12, 14)] == [0, 2, 6, 8]
    assert a.tokens(3) == [2, 3, 4]
