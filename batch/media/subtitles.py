"""Subtitles: a transcript's segments as SRT and WebVTT, as they come or broken into lines that read well."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

COLUMNS = 42
"""Widest line; a Chinese, Japanese or Korean character takes two columns."""

SHORTEST = 1.0
"""Seconds that a cue stays, where the next one leaves room."""

_SENTENCE = ".!?…。！？"
_CLAUSE = ",;:，、；：—–"
_CLOSING = "\"')]}”’»」』）】》〉"
# A line ends badly behind these, and well before the others.
_LEADING = frozenset(
    {
        "a",
        "an",
        "the",
        "my",
        "your",
        "his",
        "her",
        "its",
        "our",
        "their",
        "this",
        "that",
        "of",
        "to",
        "in",
        "on",
        "at",
        "for",
        "with",
        "by",
        "from",
        "and",
        "or",
        "but",
    }
)
_JOINING = frozenset(
    {
        "and",
        "but",
        "or",
        "so",
        "because",
        "that",
        "which",
        "who",
        "when",
        "while",
        "where",
        "if",
        "though",
        "although",
        "than",
        "as",
    }
)


@dataclass(frozen=True, slots=True)
class Cue:
    start: float
    end: float
    """Seconds."""
    lines: tuple[str, ...]


def to_srt(segments: Iterable[Mapping[str, Any]]) -> str:
    """Readable SRT: at most two lines of 42 columns a cue, broken at sentences and clauses where possible."""
    return "".join(
        f"{number}\n{clock(cue.start, ',')} --> {clock(cue.end, ',')}\n{_safe(cue.lines)}\n\n"
        for number, cue in enumerate(cues(segments), 1)
    )


def to_vtt(segments: Iterable[Mapping[str, Any]]) -> str:
    """Readable WebVTT: as `to_srt`."""
    return "WEBVTT\n\n" + "".join(
        f"{clock(cue.start, '.')} --> {clock(cue.end, '.')}\n{_escaped(_safe(cue.lines))}\n\n" for cue in cues(segments)
    )


def as_srt(segments: Iterable[Mapping[str, Any]], offset: int = 0) -> str:
    """One cue a segment with its text untouched, as whisper-server writes it; numbers start behind `offset`."""
    return "".join(
        f"{number}\n{clock(float(s['start']), ',')} --> {clock(float(s['end']), ',')}\n{s['text']}\n\n"
        for number, s in enumerate(segments, 1 + offset)
    )


def as_vtt(segments: Iterable[Mapping[str, Any]]) -> str:
    """One cue a segment with its text untouched, as whisper-server writes it."""
    return "WEBVTT\n\n" + "".join(
        f"{clock(float(s['start']), '.')} --> {clock(float(s['end']), '.')}\n{s['text']}\n\n" for s in segments
    )


def clock(seconds: float, point: str) -> str:
    """HH:MM:SS,mmm with the given decimal point."""
    total = max(0, round(seconds * 1000))
    return f"{total // 3_600_000:02}:{total // 60_000 % 60:02}:{total // 1000 % 60:02}{point}{total % 1000:03}"


def cues(segments: Iterable[Mapping[str, Any]]) -> list[Cue]:
    """Readable cues in order, without overlaps; segments without text give none."""
    found: list[Cue] = []
    for segment in segments:
        found += _of_segment(segment)
    found.sort(key=lambda cue: cue.start)
    settled = []
    for i, cue in enumerate(found):
        following = found[i + 1].start if i + 1 < len(found) else float("inf")
        end = max(cue.end, min(cue.start + SHORTEST, following))
        settled.append(Cue(cue.start, min(end, following) if following > cue.start else end, cue.lines))
    return settled


def columns(text: str) -> int:
    """Width on screen: two for wide characters, none for combining ones."""
    return sum(_width(character) for character in text)


@lru_cache(4096)
def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _of_segment(segment: Mapping[str, Any]) -> list[Cue]:
    text = " ".join(str(segment["text"]).split())
    if not text:
        return []
    start, end = float(segment["start"]), max(float(segment["start"]), float(segment["end"]))
    found, place = [], 0
    for lines in break_lines(text):
        # the characters of the lines, with the one space that stood between two of them
        begin = text.index(lines[0], place)
        place = begin
        for line in lines:
            place = text.index(line, place) + len(line)
        first, last = columns(text[:begin]), columns(text[:place])
        whole = max(1, columns(text))
        span = end - start
        found.append(Cue(start + span * first / whole, start + span * last / whole, tuple(lines)))
    return _timed(found, text, segment.get("words") or [], start, end)


def _timed(found: list[Cue], text: str, words: Sequence[Mapping[str, Any]], start: float, end: float) -> list[Cue]:
    """The cues with their words' times, when the segment's words are exactly its text; else by their share of it."""
    joined = "".join(str(word["word"]) for word in words)
    if len(found) < 2 or not words or "".join(joined.split()) != "".join(text.split()) or "start" not in words[0]:
        return found
    times: list[tuple[float, float]] = []  # of every character that is no space
    for word in words:
        times += [(float(word["start"]), float(word["end"]))] * len("".join(str(word["word"]).split()))
    settled, at = [], 0
    for cue in found:
        length = len("".join("".join(cue.lines).split()))
        first, last = times[at][0], times[at + length - 1][1]
        at += length
        settled.append(Cue(min(max(first, start), end), min(max(last, first, start), end), cue.lines))
    return settled


def break_lines(text: str) -> list[list[str]]:
    """One line of text as cues of one or two lines, each at most COLUMNS wide."""
    units = _units(text)
    if columns(text) <= COLUMNS:
        return [[text]]
    count = len(units)
    full = [columns(unit) for unit in units]
    bare = [columns(unit.rstrip()) for unit in units]
    ugly = [0.0, *(_ugliness(units, at) for at in range(1, count)), 0.0]
    # best[i][parity]: least cost of setting units[:i], the next line being the cue's first or second
    best = [[float("inf")] * 2 for _ in range(count + 1)]
    came: list[list[tuple[int, int]]] = [[(0, 0)] * 2 for _ in range(count + 1)]
    best[0][0] = 0.0
    for i in range(count):
        for parity in (0, 1):
            if best[i][parity] == float("inf"):
                continue
            width = 0
            for j in range(i + 1, count + 1):
                tight = width + bare[j - 1]
                if tight > COLUMNS and j > i + 1:
                    break
                width += full[j - 1]
                stay = best[i][parity] + ((COLUMNS - tight) / COLUMNS) ** 2 * 3 + ugly[j] + 1
                if parity == 0 and j < count and stay < best[j][1]:
                    best[j][1], came[j][1] = stay, (i, 0)
                close = stay + ugly[j] + 3  # a cue's end weighs more than a line's
                if close < best[j][0]:
                    best[j][0], came[j][0] = close, (i, parity)
    lines: list[tuple[str, int]] = []
    at, parity = count, 0
    while at:
        before, was = came[at][parity]
        lines.append(("".join(units[before:at]).strip(), was))
        at, parity = before, was
    found: list[list[str]] = []
    for line, was in reversed(lines):
        if was == 0:
            found.append([line])
        else:
            found[-1].append(line)
    return found


def _ugliness(units: Sequence[str], at: int) -> float:
    """Cost of a break before units[at]."""
    before, behind = units[at - 1].rstrip().rstrip(_CLOSING), units[at].strip().lower()
    if before.endswith(tuple(_SENTENCE)):
        return 0.0
    if before.endswith(tuple(_CLAUSE)):
        return 0.6
    if before.strip().lower() in _LEADING:
        return 4.0
    return 1.5 if behind in _JOINING else 2.5


def _units(text: str) -> list[str]:
    """What may not be torn: words with the space behind them, single wide characters with their punctuation."""
    units: list[str] = []
    for word in re.findall(r"\S+\s*", text):
        part = ""
        for character in word:
            wide = _width(character) == 2 and unicodedata.category(character)[0] == "L"
            if part and (wide or (_width(part[0]) == 2 and _narrow_word(character))) and not _opens(part):
                units.append(part)
                part = ""
            part += character
            if columns(part) >= COLUMNS:
                units.append(part)
                part = ""
        if part:
            units.append(part)
    return units


def _narrow_word(character: str) -> bool:
    return _width(character) == 1 and character.isalnum()


def _opens(part: str) -> bool:
    return all(unicodedata.category(character) in ("Ps", "Pi") for character in part)


def _safe(lines: Iterable[str]) -> str:
    return "\n".join(lines).replace("-->", "→")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
