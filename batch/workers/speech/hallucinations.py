"""What Whisper writes when nobody says it: loops of a stuck decoder, and names of noises.

A word is dropped only where there is no speech for it: people do say the same thing three times, and some put their
words into brackets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from batch.media.scripts import is_unspaced
from batch.workers.speech.speech_activity import SpeechActivity
from batch.workers.speech.whisper.decoding import DecodedSegment, Token

LEAST_RUN = 3
"""Identical segments in a row that may be a loop."""

LONGEST_LOOPED_S = 5.0
"""A longer segment that comes again in another chunk was said again. A chunk knows nothing of the one before, so only
the short phrases that Whisper makes of noise come back in many."""

LEAST_ROUNDS, LEAST_LOOP_TOKENS = 4, 24
"""A segment's end may be a loop when it says the same so many times over, in so many tokens."""

LEAST_S_PER_LETTER = 0.03
"""Seconds of speech that a letter takes when somebody speaks as fast as can be."""

LEAST_SPOKEN_S = 0.1
"""Seconds of speech without which nobody spoke."""

MAX_ANNOTATION_WORDS, MAX_ANNOTATION_CHARACTERS = 4, 6
"""What stands in brackets and is longer is no name of a noise; characters count in scripts without spaces."""

_BRACKETS = {"[": "]", "(": ")", "（": "）", "【": "】", "〔": "〕", "［": "］", "*": "*", "♪": "♪", "♫": "♫"}

# The words by which Whisper names sounds that are no speech, in the languages it does so in most. Others in brackets go
# where nobody speaks, so the list need not be long.
_SOUND_WORDS = (
    "music musik musique música musica muzyka muziek müzik musiikki музыка музика 音乐 音樂 音楽 음악 موسيقى संगीत "
    "applause applauding clapping applaus applaudissements aplausos applausi аплодисменты 掌声 掌聲 拍手 박수 "
    "laughter laughing laughs laugh chuckles chuckling giggles lachen gelächter rires risas risate смех 笑 笑声 笑聲 笑い 웃음 "
    "cheering cheers jubel silence stille silencio silenzio тишина 沉默 無音 blank_audio no_audio "
    "noise noises geräusch geräusche bruit bruits ruido шум 噪音 inaudible unintelligible indistinct unverständlich static "
    "beep beeping buzzing clicking typing coughs coughing cough sneezes sniffs sniffling sighs sigh sighing gasps gasping "
    "breathing sobbing crying groans groaning screams screaming whistling whistles snoring humming singing sings gesang"
)
_SOUND_NAMES = frozenset(_SOUND_WORDS.split())


def is_wordless(text: str) -> bool:
    """Whether a text has neither letters nor digits: "...", "♪"."""
    return not any(character.isalnum() for character in text)


def is_annotation(text: str) -> bool:
    """Whether a text only names sounds, in brackets: "[Music]", "(upbeat music)", "[Applause] (laughs)"."""
    inside = _bracketed(text)
    return inside is not None and all(_names_sound(part) for part in inside)


def is_bracketed(text: str) -> bool:
    """Whether all words of a text stand in brackets, whatever they say."""
    return _bracketed(text) is not None


def without_noises(segments: Iterable[DecodedSegment], activity: SpeechActivity) -> list[DecodedSegment]:
    """The segments that say something: names of sounds go, and other brackets where nobody speaks."""
    return [
        segment
        for segment in segments
        if not is_wordless(segment.text)
        and not is_annotation(segment.text)
        and not (is_bracketed(segment.text) and activity.spoken_s(segment.start, segment.end) < LEAST_SPOKEN_S)
    ]


def may_loop(segments: Sequence[DecodedSegment]) -> bool:
    """Whether the decoder may have been stuck: in one of the segments, or giving the same one again and again."""
    return any(_rounds(segment.tokens) for segment in segments) or any(
        all(_is_same(segments[at].text, segments[at + i].text) for i in range(1, LEAST_RUN))
        for at in range(len(segments) - LEAST_RUN + 1)
    )


def without_loops(
    segments: Sequence[DecodedSegment], activity: SpeechActivity, before: Sequence[str] = ()
) -> list[DecodedSegment]:
    """The segments with what was not said again taken out; `before` are the texts of the two segments said last."""
    unwound = [_unwound(segment, activity) for segment in segments]
    remaining: list[DecodedSegment] = []
    for at, run in enumerate(_runs(unwound)):
        earlier = 0 if at or run[0].end - run[0].start >= LONGEST_LOOPED_S else _repeated_last(run[0].text, before)
        if len(run) + earlier < LEAST_RUN:
            remaining += run
            continue
        spoken_run = [segment for segment in run if _has_speech_for(segment, activity)]
        # of a run that nobody said, the first stands for all, unless one before does already
        remaining += spoken_run or ([] if earlier else [replace(run[0], end=run[-1].end)])
    return remaining


def _runs(segments: Iterable[DecodedSegment]) -> Iterator[list[DecodedSegment]]:
    """Neighbours of the same text together."""
    run: list[DecodedSegment] = []
    for segment in segments:
        if run and not _is_same(run[-1].text, segment.text):
            yield run
            run = []
        run.append(segment)
    if run:
        yield run


def _repeated_last(text: str, before: Sequence[str]) -> int:
    """How many of the texts before are the same, counted from the last."""
    return sum(1 for _ in takewhile(lambda previous: _is_same(previous, text), reversed(before)))


def _is_same(one: str, other: str) -> bool:
    return one.strip().casefold() == other.strip().casefold() != ""


def _letters(text: str) -> int:
    return sum(character.isalnum() for character in text)


def _has_speech_for(segment: DecodedSegment, activity: SpeechActivity) -> bool:
    """Whether somebody may have said all of a segment where it stands. A stuck decoder leaves its words no time."""
    least = max(LEAST_SPOKEN_S, LEAST_S_PER_LETTER * _letters(segment.text))
    ends = [token.attention_end for token in segment.tokens if token.attention_end is not None]
    if len(ends) > 1 and ends[-1] - ends[0] < least / 2:
        return False
    return activity.spoken_s(segment.start, segment.end) >= least


def _rounds(tokens: Sequence[Token]) -> tuple[int, int] | None:
    """Tokens of one round, and how many rounds, of the loop that a segment may end in; None where there is none."""
    ids = [token.id for token in tokens]
    for period in range(1, len(ids) // LEAST_ROUNDS + 1):
        rounds = 1
        while ids[-period * (rounds + 1) : len(ids) - period * rounds] == ids[-period:]:
            rounds += 1
        if rounds >= LEAST_ROUNDS and rounds * period >= LEAST_LOOP_TOKENS:
            return period, rounds
    return None


def _unwound(segment: DecodedSegment, activity: SpeechActivity) -> DecodedSegment:
    """The segment with as many rounds of the loop at its end as there is speech for, one at least."""
    if (loop := _rounds(segment.tokens)) is None or _has_speech_for(segment, activity):
        return segment
    period, rounds = loop
    tokens = segment.tokens[: len(segment.tokens) - period * (rounds - 1)]
    return replace(segment, tokens=tokens, text=b"".join(token.text for token in tokens).decode("utf-8", "replace"))


def _bracketed(text: str) -> list[str] | None:
    """What stands between a text's brackets; None where a word stands outside them, or none is closed."""
    inside: list[str] = []
    opened, closing = -1, ""
    for at, character in enumerate(text):
        if closing:
            if character == closing:
                inside.append(text[opened + 1 : at])
                closing = ""
        elif character in _BRACKETS:
            opened, closing = at, _BRACKETS[character]
        elif character.isalnum():
            return None
    return inside if inside and not closing else None


def _names_sound(text: str) -> bool:
    words = [word.strip(".,!?:;-…~\"'") for word in text.lower().split()]
    characters = sum(is_unspaced(character) for character in text)
    if len(words) > MAX_ANNOTATION_WORDS or characters > MAX_ANNOTATION_CHARACTERS:
        return False
    if characters and any(name in text for name in _SOUND_NAMES if is_unspaced(name[0])):
        return True
    return is_wordless(text) or not _SOUND_NAMES.isdisjoint(words)
