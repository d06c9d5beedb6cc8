"""Bytes to text, and stop strings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batch.workers.chat.output.detokenizer import Detokenizer
from batch.workers.chat.output.stop_strings import StopStrings

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
