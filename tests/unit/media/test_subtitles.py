"""batch/media/subtitles.py and line_breaking.py: cues that read well, and files that no text can break."""

from __future__ import annotations

import html
import re
import time
import unicodedata
from collections.abc import Callable
from itertools import pairwise

import pytest

from batch.media.line_breaking import MAX_COLUMNS, break_lines, columns
from batch.media.subtitles import clock, cues, segments_to_srt, segments_to_vtt, to_srt, to_vtt
from batch.payloads.speech import TranscriptSegment
from payloads import segment

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
    assert all(0 < columns(line) <= MAX_COLUMNS for cue in broken for line in cue)
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
    found = cues([segment(10.0, 21.0, JFK), segment(21.0, 21.2, " Yes.")])
    assert found[0].start == 10.0 and found[-1].end == 22.0, "a short cue stays a second when there is room"
    assert all(a.end <= b.start for a, b in pairwise(found))
    words = [(f" {word}", float(i), i + 0.5) for i, word in enumerate(JFK.split())]
    timed = cues([segment(0.0, 22.0, JFK, words)])
    assert [cue.start for cue in timed] == [0.0, 14.0]
    assert timed[0].end == 13.5


def test_srt_and_vtt_are_well_formed() -> None:
    segments = [segment(0.0, 3661.5, " a --> b <i>"), segment(4000, 4001, "  ")]
    assert to_srt(segments) == "1\n00:00:00,000 --> 01:01:01,500\na → b <i>\n\n"
    assert to_vtt(segments) == "WEBVTT\n\n00:00:00.000 --> 01:01:01.500\na → b &lt;i&gt;\n\n"
    assert to_srt([]) == "" and to_vtt([]) == "WEBVTT\n\n"
    block = re.compile(r"\d+\n\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}\n(?:[^\n]+\n){1,2}\n")
    srt = to_srt([segment(i * 9, i * 9 + 9, JFK) for i in range(9)])
    assert "".join(block.findall(srt) and [m.group(0) for m in block.finditer(srt)]) == srt


def test_the_plain_kind_is_whisper_servers() -> None:
    segments = [segment(0.0, 8.0, " And so"), segment(8.0, 11.0, " ask")]
    assert segments_to_srt(segments, 4).startswith("5\n00:00:00,000 --> 00:00:08,000\n And so\n\n6\n")
    assert segments_to_vtt(segments) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:08.000\n And so\n\n00:00:08.000 --> 00:00:11.000\n ask\n\n"
    )
    assert clock(359999.9996, ".") == "100:00:00.000"


BREAKERS = [
    "one\n\ntwo",
    "one\r\n\r\n\r\ntwo\r",
    "\n\n one\u2028\u2028two\x85\x85",
    "1\n00:00:00,000 --> 00:00:01,000\nsmuggled\n",
    "WEBVTT\n\nNOTE a --> b",
    "<script>&amp;</script>",
    "a\0b",
    "-->",
    "--->-->",
]


@pytest.mark.parametrize("text", BREAKERS)
@pytest.mark.parametrize("write", [to_srt, segments_to_srt])
def test_no_text_breaks_srt(write: Callable[[list[TranscriptSegment]], str], text: str) -> None:
    srt = write([segment(0, 2, text), segment(2, 4, "next")])
    blocks = srt.split("\n\n")
    assert len(blocks) == 3 and blocks[2] == ""
    for number, block in enumerate(blocks[:2], 1):
        head, times, *lines = block.split("\n")
        assert head == str(number) and times.count("-->") == 1
        assert lines and all(line.strip() and "-->" not in line and "\r" not in line and "\0" not in line for line in lines)


@pytest.mark.parametrize("text", BREAKERS)
@pytest.mark.parametrize("write", [to_vtt, segments_to_vtt])
def test_no_text_breaks_webvtt(write: Callable[[list[TranscriptSegment]], str], text: str) -> None:
    head, *blocks = write([segment(0, 2, text), segment(2, 4, "next")]).split("\n\n")
    assert head == "WEBVTT" and len(blocks) == 3 and blocks[2] == ""
    for block in blocks[:2]:
        times, *lines = block.split("\n")
        assert times.count("-->") == 1 and lines
        for line in lines:
            assert line.strip() and "-->" not in line and "<" not in line
        assert "\0" not in html.unescape(block)


def test_no_cue_is_without_length_or_over_another() -> None:
    odd = [
        segment(5, 5, "none"),
        segment(5, 5, "again"),
        segment(5.0004, 5.0006, "hardly"),
        segment(9, 7, "backwards"),
        segment(3, 30, "over all " * 30),
        segment(12, 12.5, "inside", [("inside", 12.1, 12.1)]),
    ]
    for made in (to_srt(odd), segments_to_srt(odd), to_vtt(odd), segments_to_vtt(odd)):
        times = re.findall(r"(\d\d):(\d\d):(\d\d)[.,](\d{3})", made)
        seconds = [int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000 for h, m, s, ms in times]
        assert all(end > start for start, end in zip(seconds[::2], seconds[1::2], strict=True))
    readable = cues(odd)
    assert all(a.end <= b.start for a, b in pairwise(readable))


def test_thai_and_burmese_are_broken_between_letters_and_keep_their_marks() -> None:
    for text in ("สวัสดีครับผมชื่อสมชายและผมมาจากกรุงเทพมหานคร" * 3, "မင်္ဂလာပါကျွန်တော်ကမြန်မာနိုင်ငံကပါ" * 4):
        lines = [line for cue in break_lines(text) for line in cue]
        assert "".join(lines) == text and all(columns(line) <= MAX_COLUMNS for line in lines)
        assert len(lines) <= 2 + columns(text) // 25
        assert not any(unicodedata.category(line[0]).startswith("M") for line in lines)


@pytest.mark.slow
def test_hours_of_subtitles_are_written_in_seconds() -> None:
    hours = [segment(i * 5.0, i * 5.0 + 4.9, JFK, [(w, i * 5.0, i * 5.0 + 4) for w in JFK.split()]) for i in range(5000)]
    started = time.process_time()
    assert to_srt(hours).count(" --> ") >= 5000
    assert time.process_time() - started < 20
    started = time.process_time()
    assert to_vtt([segment(0, 30, "word " * 20_000)]).count(" --> ") > 1000
    assert time.process_time() - started < 10, "a segment's length costs no more than its words"
