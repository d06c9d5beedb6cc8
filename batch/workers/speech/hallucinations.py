"""What Whisper writes when nobody says it: loops of a stuck decoder, and names of noises."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile

from batch.workers.speech.whisper import Segment, Token

NEIGHBOURS = 3
"""Identical segments in a row from which on they are one."""

SHORT = 5.0
"""Seconds: a longer segment that comes again in another chunk was said again. A chunk knows nothing of the one before,
so only the short phrases that Whisper makes of noise come back in many."""

ROUNDS, LENGTH = 4, 24
"""A segment's end is a loop when it says the same at least ROUNDS times over and LENGTH tokens."""

_NOISE = re.compile(r"\s*(?:\[[^\]]*\]|\*[^*]*\*|【[^】]*】|[(（](?:[^)）\s]+\s?){0,4}[)）]|[♪♫♬.…\s]+)\s*", re.DOTALL)


def is_noise(text: str) -> bool:
    """Whether a text only names a sound: "[Music]", "(upbeat music)", "♪"."""
    return _NOISE.fullmatch(text) is not None


def looped(segments: Sequence[Segment]) -> bool:
    """Whether the decoder was stuck in one of the segments, or gave the same one too often in a row."""
    return any(new.text != old.text for new, old in zip(map(_unwound, segments), segments, strict=True)) or any(
        all(_same(segments[at].text, segments[at + i].text) for i in range(1, NEIGHBOURS))
        for at in range(len(segments) - NEIGHBOURS + 1)
    )


def without_loops(segments: Iterable[Segment], before: Sequence[str] = ()) -> list[Segment]:
    """The segments with loops said once; `before` are the texts of the two segments said last."""
    kept: list[Segment] = []
    runs: list[int] = []
    for segment in map(_unwound, segments):
        if kept and _same(kept[-1].text, segment.text):
            runs[-1] += 1
            kept.append(segment)
        else:
            runs.append(1)
            kept.append(segment)
    found: list[Segment] = []
    at = 0
    for run in runs:
        same = kept[at : at + run]
        at += run
        earlier = 0 if found or same[0].end - same[0].start >= SHORT else _said_last(same[0].text, before)
        if earlier and earlier + run >= NEIGHBOURS:
            continue  # the one that stands for all of them is out already
        if run >= NEIGHBOURS:
            same = [replace(same[0], end=same[-1].end)]
        found += same
    return found


def _said_last(text: str, before: Sequence[str]) -> int:
    """How often in a row."""
    return sum(1 for _ in takewhile(lambda said: _same(said, text), reversed(before)))


def _same(one: str, other: str) -> bool:
    return one.strip().casefold() == other.strip().casefold() != ""


def _unwound(segment: Segment) -> Segment:
    ids = [token.id for token in segment.tokens]
    for period in range(1, len(ids) // ROUNDS + 1):
        rounds = 1
        while ids[-period * (rounds + 1) : len(ids) - period * rounds] == ids[-period:]:
            rounds += 1
        if rounds >= ROUNDS and rounds * period >= LENGTH:
            tokens: tuple[Token, ...] = segment.tokens[: len(ids) - period * (rounds - 1)]
            return replace(segment, tokens=tokens, text=b"".join(t.text for t in tokens).decode("utf-8", "replace"))
    return segment
