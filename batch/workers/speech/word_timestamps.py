"""Whole words out of Whisper's tokens: where spaces stand, or a character each where a script has none."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from batch.media.scripts import is_unspaced
from batch.workers.speech.whisper import Segment, Token, whole_characters

_OPENING = ("Ps", "Pi", "Sc")  # brackets, quotes, currency signs


@dataclass(slots=True)
class Word:
    text: str
    start: float
    end: float
    """Seconds, as the tokens' are."""


def words(tokens: Iterable[Token]) -> list[Word]:
    """Words in order; a mark stays with the word before it, an opening one with the word behind it."""
    found: list[Word] = []
    spaced = True  # a space stands before the next character
    alone = False  # the current word is one character of an unspaced script
    for character, start, end in _characters(tokens):
        if character.isspace():
            spaced = True
            continue
        kind = unicodedata.category(character)
        opens = kind in _OPENING
        mark = kind[0] in "PSM" and not opens
        bare = is_unspaced(character) and not mark
        if not found or spaced:
            joins = False
        elif mark:
            joins = True
        else:
            joins = not (bare or alone) or (not opens and _only_opens(found[-1].text))
        if joins:
            found[-1].text += character
            found[-1].end = max(found[-1].end, end)
        else:
            found.append(Word(character, start, max(start, end)))
        spaced = False
        if not mark:
            alone = bare or (opens and alone and joins)
    return found


def apart(segment: Segment, joints: Sequence[float]) -> list[Segment]:
    """The segment cut at the joints (seconds) it runs over, between words; tokens must have times."""
    within = [joint for joint in joints if segment.start + 0.3 < joint < segment.end - 0.3]
    if not within or not segment.tokens:
        return [segment]
    tokens = segment.tokens
    cuts = [0]
    for joint in within:
        starts = [i for i in range(cuts[-1] + 1, len(tokens)) if _begins_word(tokens[i])]
        if starts:
            cuts.append(min(starts, key=lambda i: _distance(tokens[i - 1], tokens[i], joint)))
    bounds = [segment.start, *within[: len(cuts) - 1], segment.end]
    parts = []
    for i, (first, last) in enumerate(zip(cuts, [*cuts[1:], len(tokens)], strict=True)):
        some = tokens[first:last]
        text = b"".join(token.text for token in some).decode("utf-8", "replace")
        share = sum(token.plog for token in some) / max(1, len(some))
        parts.append(replace(segment, start=bounds[i], end=bounds[i + 1], text=text, tokens=some, avg_logprob=share))
    return parts


def _distance(before: Token, behind: Token, joint: float) -> float:
    """Seconds between a joint and the gap of two tokens. Their times are some tenths off, so a mark counts too."""
    marked = before.text[-1:] in b".,?!;:" or before.text.endswith(("。".encode(), "，".encode(), "？".encode()))
    return abs((before.end + behind.start) / 2 - joint) - (0.5 if marked else 0.0)


def _begins_word(token: Token) -> bool:
    text = token.text.decode("utf-8", "replace")
    return text[:1].isspace() or (text[:1] != "\ufffd" and is_unspaced(text[0]) if text else False)


def _only_opens(text: str) -> bool:
    return all(unicodedata.category(c) in _OPENING for c in text)


def _characters(tokens: Iterable[Token]) -> Iterable[tuple[str, float, float]]:
    """Each character with its share of its token's time; one that spans tokens has the time of all of them."""
    held, since = b"", 0.0
    for token in tokens:
        if not held:
            since = token.start
        held += token.text
        whole = whole_characters(held)
        text, held = held[:whole].decode("utf-8", "replace"), held[whole:]
        sounds = [c for c in text if not c.isspace()] or list(text)
        span = max(0.0, token.end - since) / max(1, len(sounds))
        at = since
        for character in text:
            step = 0.0 if character.isspace() and sounds != list(text) else span
            yield character, at, at + step
            at += step
        since = token.end if held and text else since
