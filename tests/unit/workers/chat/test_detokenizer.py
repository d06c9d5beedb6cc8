"""Bytes to text, stop strings, the repetition guard, and the prefix of two prompts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batch.workers.chat.detokenizer import Detokenizer
from batch.workers.chat.images.vision import ImageChunk
from batch.workers.chat.kv.token_sequence import TokenSequence
from batch.workers.chat.sampling.repetition_guard import has_collapsed
from batch.workers.chat.stop_strings import StopStrings

LETTERS = st.text("abß🙂", max_size=24)


@given(LETTERS, st.lists(st.text("abß🙂", min_size=1, max_size=3), max_size=3), st.data())
def test_any_cutting_gives_the_text_before_the_first_stop(text: str, stops: list[str], data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    detokenizer, strings = Detokenizer(), StopStrings(stops)
    shown = ""
    for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        shown += strings.push(detokenizer.push(raw[a:b]))
        assert text.startswith(shown)
    shown += strings.push(detokenizer.finish()) + strings.finish()
    if not any(s in text for s in stops):
        assert shown == text
        assert strings.matched is None
    else:
        assert strings.matched in stops
        # Pieces may end one stop before an earlier-starting longer one is complete, but never show part of either.
        assert shown == text[: text.index(strings.matched)] or not any(s in shown for s in stops)


def test_half_a_character_waits_for_its_rest() -> None:
    detokenizer = Detokenizer()
    raw = "🙂".encode()
    assert [detokenizer.push(raw[:1]), detokenizer.push(raw[1:3]), detokenizer.push(raw[3:])] == ["", "", "🙂"]
    assert detokenizer.push(raw[:2]) == ""
    assert detokenizer.finish() == "\N{REPLACEMENT CHARACTER}"


def test_what_might_become_a_stop_string_is_held_back() -> None:
    strings = StopStrings(["</end>"])
    assert strings.push("text</e") == "text"
    assert strings.push("mpty") == "</empty"
    assert strings.push("</end> more") == ""
    assert strings.matched == "</end>"
    assert strings.push("more") == strings.finish() == ""


def test_of_two_stop_strings_at_one_place_the_longer_one_counts() -> None:
    strings = StopStrings(["b", "bc", ""])
    assert strings.push("abcd") == "a"
    assert strings.matched == "bc"


def test_only_a_long_run_of_the_same_is_a_collapse() -> None:
    assert has_collapsed([1] * 500)
    assert has_collapsed(list(range(20)) + [7, 8, 9] * 200)
    assert not has_collapsed([1] * 300)
    assert not has_collapsed(list(range(500)))
    assert not has_collapsed(list(range(100)) * 5)


@given(st.lists(st.integers(0, 3), max_size=1200), st.integers(0, 1200), st.integers(0, 3))
def test_the_common_prefix_is_found(ids: list[int], at: int, change: int) -> None:
    other = list(ids)
    if at < len(other):
        other[at] = change + 10
    expected = min(at, len(ids))
    assert TokenSequence(ids).common_prefix(TokenSequence(other)) == expected
    assert TokenSequence(ids).common_prefix(TokenSequence(ids[:at])) == expected


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
