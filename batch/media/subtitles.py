"""Subtitles: a transcript's segments as SRT and WebVTT, as they come or broken into lines that read well."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from batch.media.line_breaking import break_lines, columns
from batch.payloads.speech import TranscriptSegment, Word

SHORTEST_CUE_S = 1.0
"""Seconds that a cue stays, where the next one leaves room."""

LEAST_CUE_S = 0.02
"""Seconds that a cue stays even where there is none."""


@dataclass(frozen=True, slots=True)
class Cue:
    """What stands on the screen at one time; seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


def to_srt(segments: Iterable[TranscriptSegment]) -> str:
    """Readable SRT: at most two lines of 42 columns a cue, broken at sentences and clauses where possible."""
    return "".join(
        f"{number}\n{clock(cue.start, ',')} --> {clock(cue.end, ',')}\n{_without_arrows(cue.lines)}\n\n"
        for number, cue in enumerate(cues(segments), 1)
    )


def to_vtt(segments: Iterable[TranscriptSegment]) -> str:
    """Readable WebVTT: at most two lines of 42 columns a cue, broken at sentences and clauses where possible."""
    return "WEBVTT\n\n" + "".join(
        f"{clock(cue.start, '.')} --> {clock(cue.end, '.')}\n{_escaped(_without_arrows(cue.lines))}\n\n"
        for cue in cues(segments)
    )


def segments_to_srt(segments: Iterable[TranscriptSegment], offset: int = 0) -> str:
    """SRT with one cue a segment and its text as it is, as whisper-server writes it; numbers start behind `offset`."""
    return "".join(
        f"{number}\n{clock(start, ',')} --> {clock(end, ',')}\n{text}\n\n"
        for number, (start, end, text) in enumerate(_plain_cues(segments), 1 + offset)
    )


def segments_to_vtt(segments: Iterable[TranscriptSegment]) -> str:
    """WebVTT with one cue a segment and its text as it is, as whisper-server writes it."""
    return "WEBVTT\n\n" + "".join(
        f"{clock(start, '.')} --> {clock(end, '.')}\n{_escaped(text)}\n\n" for start, end, text in _plain_cues(segments)
    )


def clock(seconds: float, point: str) -> str:
    """HH:MM:SS,mmm with the given decimal point."""
    total = max(0, round(seconds * 1000))
    return f"{total // 3_600_000:02}:{total // 60_000 % 60:02}:{total // 1000 % 60:02}{point}{total % 1000:03}"


def cues(segments: Iterable[TranscriptSegment]) -> list[Cue]:
    """Readable cues in order, none over another and none without length; segments without text give none."""
    raw = sorted((cue for segment in segments for cue in _cues_of_segment(segment)), key=lambda cue: cue.start)
    settled: list[Cue] = []
    for i, cue in enumerate(raw):
        start = max(cue.start, settled[-1].end if settled else 0.0)
        following = raw[i + 1].start if i + 1 < len(raw) else float("inf")
        latest = following if following > start else cue.end
        end = min(max(cue.end, start + SHORTEST_CUE_S), latest)
        settled.append(Cue(start, max(end, start + LEAST_CUE_S), cue.lines))
    return settled


def _plain_cues(segments: Iterable[TranscriptSegment]) -> Iterator[tuple[float, float, str]]:
    for segment in segments:
        lines = [line.rstrip() for line in segment.text.replace("\0", "\ufffd").splitlines()]
        text = _without_arrows(line for line in lines if line)  # an empty line would end the cue
        yield segment.start, max(segment.end, segment.start + LEAST_CUE_S), text


def _cues_of_segment(segment: TranscriptSegment) -> list[Cue]:
    text = " ".join(segment.text.replace("\0", "\ufffd").split())
    if not text:
        return []
    start, end = segment.start, max(segment.start, segment.end)
    span, whole = end - start, max(1, columns(text))
    untimed: list[Cue] = []
    place = passed = 0  # in the text: characters, columns
    for lines in break_lines(text):
        # the characters of the lines, with the one space that stood between two of them
        at = text.index(lines[0], place)
        passed += columns(text[place:at])
        first, place = passed, at
        for line in lines:
            behind = text.index(line, place) + len(line)
            passed += columns(text[place:behind])
            place = behind
        untimed.append(Cue(start + span * first / whole, start + span * passed / whole, tuple(lines)))
    return _timed_by_words(untimed, text, segment.words or [], start, end)


def _timed_by_words(untimed: list[Cue], text: str, words: Sequence[Word], start: float, end: float) -> list[Cue]:
    """The cues with their words' times, when the segment's words are exactly its text; else by their share of it."""
    joined = "".join(word.word for word in words)
    if len(untimed) < 2 or "".join(joined.split()) != "".join(text.split()):
        return untimed
    times: list[tuple[float, float]] = []  # of every character that is no space
    for word in words:
        times += [(word.start, word.end)] * len("".join(word.word.split()))
    timed, at = [], 0
    for cue in untimed:
        length = len("".join("".join(cue.lines).split()))
        first, last = times[at][0], times[at + length - 1][1]
        at += length
        timed.append(Cue(min(max(first, start), end), min(max(last, first, start), end), cue.lines))
    return timed


def _without_arrows(lines: Iterable[str]) -> str:
    """A cue's lines without what would begin another cue's times."""
    return "\n".join(lines).replace("-->", "→")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
