"""batch/media/subtitles.py and language.py: cues that read well, names that people write."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from batch.media import language
from batch.media.subtitles import COLUMNS, as_srt, as_vtt, break_lines, clock, columns, cues, to_srt, to_vtt

JFK = " And so my fellow Americans ask not what your country can do for you, ask what you can do for your country."
MOON = (
    "我们选择在这个十年内登月，并做其他的事情，不是因为它们容易，而是因为它们很难，因为这个目标将有助于组织和衡量我们最好的能量和技能，"
    "因为这个挑战是我们愿意接受的，而iPhone不是。"
)


@pytest.mark.parametrize(
    "text",
    [JFK * 5, MOON * 3, "x" * 300, "好" * 200, "word " * 99, 'Mr. Smith (who knew) said: "no"! ' * 9, "e\u0301" * 90],
)
def test_cues_have_two_lines_of_42_columns_at_most_and_lose_no_character(text: str) -> None:
    broken = break_lines(" ".join(text.split()))
    assert all(1 <= len(cue) <= 2 for cue in broken)
    assert all(0 < columns(line) <= COLUMNS for cue in broken for line in cue)
    assert "".join("".join(line for cue in broken for line in cue).split()) == "".join(text.split())


def test_lines_break_at_clauses_not_behind_articles() -> None:
    assert break_lines(JFK.strip()) == [
        ["And so my fellow Americans ask not", "what your country can do for you,"],
        ["ask what you can do for your country."],
    ]
    text = "He walked down to the river and looked at the old bridge that crossed it."
    for line in [line for cue in break_lines(text) for line in cue][:-1]:
        assert line.split()[-1].lower() not in {"the", "a", "to", "at", "and"}


def test_chinese_breaks_behind_punctuation_and_no_line_begins_with_it() -> None:
    lines = [line for cue in break_lines(MOON) for line in cue]
    assert all(len(line) <= 21 + sum(c.isascii() for c in line) for line in lines)
    assert not any(line[0] in "，。、；：！？" for line in lines)
    assert sum(line[-1] in "，。" for line in lines) >= len(lines) - 2
    assert any("iPhone" in line for line in lines)


def test_times_are_ordered_stay_in_the_segment_and_follow_words_when_there_are_any() -> None:
    found = cues([{"start": 10.0, "end": 21.0, "text": JFK}, {"start": 21.0, "end": 21.2, "text": " Yes."}])
    assert found[0].start == 10.0 and found[-1].end == 22.0, "a short cue stays a second when there is room"
    assert all(a.end <= b.start for a, b in pairwise(found))
    words = [{"word": f" {w}", "start": float(i), "end": i + 0.5} for i, w in enumerate(JFK.split())]
    timed = cues([{"start": 0.0, "end": 22.0, "text": JFK, "words": words}])
    assert [cue.start for cue in timed] == [0.0, 14.0]
    assert timed[0].end == 13.5


def test_srt_and_vtt_are_well_formed() -> None:
    segments = [{"start": 0.0, "end": 3661.5, "text": " a --> b <i>"}, {"start": 4000, "end": 4001, "text": "  "}]
    assert to_srt(segments) == "1\n00:00:00,000 --> 01:01:01,500\na → b <i>\n\n"
    assert to_vtt(segments) == "WEBVTT\n\n00:00:00.000 --> 01:01:01.500\na → b &lt;i&gt;\n\n"
    assert to_srt([]) == "" and to_vtt([]) == "WEBVTT\n\n"
    block = re.compile(r"\d+\n\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}\n(?:[^\n]+\n){1,2}\n")
    srt = to_srt([{"start": i * 9, "end": i * 9 + 9, "text": JFK} for i in range(9)])
    assert "".join(block.findall(srt) and [m.group(0) for m in block.finditer(srt)]) == srt


def test_the_plain_kind_is_whisper_servers() -> None:
    segments = [{"start": 0.0, "end": 8.0, "text": " And so"}, {"start": 8.0, "end": 11.0, "text": " ask"}]
    assert as_srt(segments, 4).startswith("5\n00:00:00,000 --> 00:00:08,000\n And so\n\n6\n")
    assert as_vtt(segments) == ("WEBVTT\n\n00:00:00.000 --> 00:00:08.000\n And so\n\n00:00:08.000 --> 00:00:11.000\n ask\n\n")
    assert clock(359999.9996, ".") == "100:00:00.000"


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("zh-CN", "zh"),
        ("Chinese", "zh"),
        ("zh_Hant_TW", "zh"),
        ("EN", "en"),
        ("pt-BR", "pt"),
        ("Mandarin", "zh"),
        ("haitian creole", "ht"),
        ("cmn", "zh"),
        ("nb-NO", "no"),
        ("yue", "yue"),
        ("", "auto"),
        (" Auto ", "auto"),
        ("xx", None),
        ("klingon", None),
        ("english!", None),
    ],
)
def test_languages_are_known_by_code_tag_and_name(written: str, code: str | None) -> None:
    assert language.normalise(written) == code
