"""Whole words out of Whisper's tokens: where spaces stand, or a character each where a script has none."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from batch.media.scripts import is_unspaced
from batch.workers.speech.speech_activity import SpeechActivity
from batch.workers.speech.whisper.decoding import DecodedSegment, Token, whole_characters
from batch.workers.speech.word_alignment import Anchors, align

_OPENING = ("Ps", "Pi", "Sc")  # brackets, quotes, currency signs

DIGIT_LETTERS = 2.5
"""How many letters take as long as a digit, which is a word when it is said."""

CHARACTER_LETTERS = 2.5
"""How many letters take as long as a character of a script without spaces, which is a syllable."""

SYMBOL_LETTERS = 3.0
"""How many letters take as long as a sign that is said: %, $."""


@dataclass(slots=True)
class TimedWord:
    """A word of a segment; seconds in the chunk."""

    text: str
    """Without the space before it."""
    first: int
    """Its first character, among the segment's."""
    last: int
    """Its last one."""
    start: float = 0.0
    end: float = 0.0


@dataclass(frozen=True, slots=True)
class Character:
    """One character of a segment, with the tokens that it came from and what they know of its time."""

    text: str
    token: int
    """The token that completes it."""
    is_first: bool
    """Whether its token begins with it, so that the token's start is its own."""
    start: float | None
    end: float | None
    """Seconds by the model's attention."""


@dataclass(frozen=True, slots=True)
class TimedSegment:
    """A segment whose words have times. Start and end are those of its first and last word."""

    segment: DecodedSegment
    words: tuple[TimedWord, ...]
    token_times: tuple[tuple[float, float], ...]
    """Start and end of each token, within its word's."""


def time_words(
    segments: Sequence[DecodedSegment], activity: SpeechActivity, joints: Sequence[float], lags_s: Sequence[float]
) -> list[TimedSegment]:
    """The segments of one chunk with the times of their words, in order and without overlaps.

    `joints`: seconds where sound was left out, which no word stands across; `lags_s`: by how much the model's attention
    may be late. Words of a segment without words, such as "...", are what stands between its spaces.
    """
    characters = [list(_characters(segment.tokens)) for segment in segments]
    words = [_words(some) for some in characters]
    anchors = [
        _anchors(word, some, segment.tokens)
        for segment, some, timestamps in zip(segments, characters, words, strict=True)
        for word in timestamps
    ]
    times = iter(align(anchors, activity.speech, joints, lags_s))
    timed = []
    for segment, some, timestamps in zip(segments, characters, words, strict=True):
        for word in timestamps:
            word.start, word.end = next(times)
        if timestamps:
            segment = replace(segment, start=timestamps[0].start, end=timestamps[-1].end)
        timed.append(TimedSegment(segment, tuple(timestamps), _token_times(timestamps, some, segment)))
    return timed


def split_at_pauses(timed: TimedSegment, least_s: float, joints: Sequence[float]) -> list[TimedSegment]:
    """The segment cut between words that a joint, or a pause of at least so many seconds, stands between."""
    cuts = [
        i
        for i, (word, following) in enumerate(pairwise(timed.words), 1)
        if following.start - word.end >= least_s or any(word.end <= joint <= following.start for joint in joints)
    ]
    return split_before_words(timed, cuts)


def split_before_words(timed: TimedSegment, cuts: Sequence[int]) -> list[TimedSegment]:
    """The segment cut before these of its words; texts together, and tokens, stay what they were."""
    if not cuts:
        return [timed]
    characters = list(_characters(timed.segment.tokens))
    parts = []
    for first, last in pairwise([0, *cuts, len(timed.words)]):
        words = timed.words[first:last]
        begin = timed.words[first - 1].last + 1 if first else 0  # the space before a word comes with it
        end = words[-1].last + 1 if last < len(timed.words) else len(characters)
        first_token = _first_token(characters, begin) if first else 0
        last_token = _first_token(characters, end) if last < len(timed.words) else len(timed.segment.tokens)
        tokens = timed.segment.tokens[first_token:last_token]
        shifted = tuple(replace(word, first=word.first - begin, last=word.last - begin) for word in words)
        segment = replace(
            timed.segment,
            start=words[0].start,
            end=words[-1].end,
            text="".join(character.text for character in characters[begin:end]),
            tokens=tokens,
            avg_logprob=sum(token.plog for token in tokens) / max(1, len(tokens)),
            turn_next=timed.segment.turn_next and last == len(timed.words),
        )
        parts.append(TimedSegment(segment, shifted, timed.token_times[first_token:last_token]))
    return parts


def token_texts(tokens: Sequence[Token]) -> list[str]:
    """The text of each token; a character that spans tokens stands with the one that completes it."""
    texts = [""] * len(tokens)
    for character in _characters(tokens):
        texts[character.token] += character.text
    return texts


def wrap(timed: TimedSegment, max_chars: int, *, at_words: bool) -> list[TimedSegment]:
    """The segment cut so that no part is longer than so many characters where that can be, as whisper.cpp does it:
    between tokens, or only before words that a space stands before. A character that spans tokens stays whole."""
    characters = list(_characters(timed.segment.tokens))
    owned: list[list[str]] = [[] for _ in timed.segment.tokens]
    for character in characters:
        owned[character.token].append(character.text)
    cuts, length, first = [], 0, 0
    for i in range(len(owned)):
        if _is_partial(timed.segment.tokens[first : i + 1]):
            continue  # the token ends inside a character, which the next one completes
        text = "".join(text for texts in owned[first : i + 1] for text in texts)
        if first and length and length + len(text) > max_chars and (not at_words or text.startswith(" ")):
            cuts.append(first)
            length = 0
        length += len(text)
        first = i + 1
    return _split_before_tokens(timed, cuts, owned)


def _split_before_tokens(timed: TimedSegment, cuts: Sequence[int], owned: Sequence[Sequence[str]]) -> list[TimedSegment]:
    parts = []
    for first, last in pairwise([0, *cuts, len(owned)]):
        tokens, times = timed.segment.tokens[first:last], timed.token_times[first:last]
        segment = replace(
            timed.segment,
            start=times[0][0] if times else timed.segment.start,
            end=times[-1][1] if times else timed.segment.end,
            text="".join("".join(texts) for texts in owned[first:last]),
            tokens=tokens,
            avg_logprob=sum(token.plog for token in tokens) / max(1, len(tokens)),
            turn_next=timed.segment.turn_next and last == len(owned),
        )
        within = sum(len(texts) for texts in owned[:first]), sum(len(texts) for texts in owned[:last])
        words = tuple(
            replace(word, first=word.first - within[0], last=word.last - within[0])
            for word in timed.words
            if within[0] <= word.first < within[1]
        )
        parts.append(TimedSegment(segment, words, times))
    return parts


def _words(characters: Sequence[Character]) -> list[TimedWord]:
    """Words in order; a mark stays with the word before it, an opening one with the word behind it."""
    words: list[TimedWord] = []
    has_space = True  # a space stands before the next character
    is_alone = False  # the current word is one character of an unspaced script
    for i, character in enumerate(characters):
        text = character.text
        if text.isspace():
            has_space = True
            continue
        category = unicodedata.category(text)
        opens = category in _OPENING
        is_mark = category[0] in "PSM" and not opens
        is_bare = is_unspaced(text) and not is_mark
        if not words or has_space:
            joins = False
        elif is_mark:
            joins = True
        else:
            joins = not (is_bare or is_alone) or (not opens and _only_opens(words[-1].text))
        if joins:
            words[-1].text += text
            words[-1].last = i
        else:
            words.append(TimedWord(text, i, i))
        has_space = False
        if not is_mark:
            is_alone = is_bare or (opens and is_alone and joins)
    return words


def _only_opens(text: str) -> bool:
    return all(unicodedata.category(character) in _OPENING for character in text)


def _anchors(word: TimedWord, characters: Sequence[Character], tokens: Sequence[Token]) -> Anchors:
    """What is known of a word's time: its length when it is said, attention, and the decoder's own guess."""
    sounds = [c for c in characters[word.first : word.last + 1] if c.text.isalnum()]
    first, last = (sounds[0], sounds[-1]) if sounds else (characters[word.first], characters[word.last])
    token = tokens[first.token]
    has_hint = first.is_first and token.start_hint is not None
    return Anchors(
        letters=sum(_letters(c.text) for c in characters[word.first : word.last + 1]),
        start=first.start,
        end=last.end,
        hint=token.start_hint if has_hint else None,
        hint_probability=token.hint_probability if has_hint else 0.0,
    )


def _letters(character: str) -> float:
    """How many letters of an alphabet take as long to say."""
    if character.isdigit():
        return DIGIT_LETTERS
    if is_unspaced(character) and character.isalnum():
        return CHARACTER_LETTERS
    if character.isalpha():
        return 1.0
    return SYMBOL_LETTERS if unicodedata.category(character)[0] == "S" else 0.0


def _characters(tokens: Sequence[Token]) -> Iterator[Character]:
    """Each character with its share of its token's time; one that spans tokens has the time of all of them."""
    pending = b""
    since: float | None = None
    previous_end: float | None = None
    started = 0
    for i, token in enumerate(tokens):
        if not pending:
            since, started = previous_end, i
        pending += token.text
        whole = whole_characters(pending)
        text, pending = pending[:whole].decode("utf-8", "replace"), pending[whole:]
        if i == len(tokens) - 1:
            text, pending = text + pending.decode("utf-8", "replace"), b""
        end = token.attention_end
        sounds = sum(not c.isspace() for c in text) or len(text)
        passed = 0
        for place, character in enumerate(text):
            is_sound = not character.isspace() or sounds == len(text)
            start_share, end_share = passed / sounds, (passed + is_sound) / sounds
            passed += is_sound
            is_first = started == i and not text[:place].strip()
            yield Character(character, i, is_first, _between(since, end, start_share), _between(since, end, end_share))
        previous_end = end
        if text:
            since = end


def _between(start: float | None, end: float | None, share: float) -> float | None:
    if share == 1.0 or start is None:
        return end if share == 1.0 else start
    return None if end is None else start + (max(start, end) - start) * share


def _first_token(characters: Sequence[Character], place: int) -> int:
    """The token of a character; for one in a token's middle the next token, so that tokens are never doubled."""
    token = characters[place].token
    return token if place == 0 or characters[place - 1].token != token else token + 1


def _is_partial(tokens: Sequence[Token]) -> bool:
    """Whether tokens, of which the first begins a character, end inside one."""
    raw = b"".join(token.text for token in tokens)
    return whole_characters(raw) != len(raw)


def _token_times(
    words: Sequence[TimedWord], characters: Sequence[Character], segment: DecodedSegment
) -> tuple[tuple[float, float], ...]:
    """Start and end of every token of a segment: words' times, shared by their tokens."""
    count = len(segment.tokens)
    starts: list[float | None] = [None] * count
    ends: list[float | None] = [None] * count
    for word in words:
        length = word.last - word.first + 1
        for at in range(word.first, word.last + 1):
            token = characters[at].token
            share = (word.end - word.start) / length
            begin = word.start + share * (at - word.first)
            first, last = starts[token], ends[token]
            starts[token] = begin if first is None else min(first, begin)
            ends[token] = begin + share if last is None else max(last, begin + share)
    # a token without a character of its own (a part of one, a space) lies at the edge of its neighbour
    times: list[tuple[float, float]] = []
    clock = segment.start
    for i in range(count):
        start, end = starts[i], ends[i]
        begin = max(clock, clock if start is None else start)
        clock = max(begin, begin if end is None else end)
        times.append((begin, clock))
    return _without_empty(times, segment.end)


LEAST_TOKEN_S = 0.01
"""Seconds that every token has at least, taken from its neighbours where it has none of its own."""


def _without_empty(times: list[tuple[float, float]], end: float) -> tuple[tuple[float, float], ...]:
    """Times in order in which nothing is without length, as far as there is room before `end`."""
    if not times:
        return ()
    start = times[0][0]
    least = min(LEAST_TOKEN_S, max(end - start, 0.001 * len(times)) / len(times))
    latest = max(end, start + least * len(times))
    fixed: list[tuple[float, float]] = []
    clock = start
    for i, (begin, stop) in enumerate(times):
        room = latest - least * (len(times) - i)
        begin = min(max(begin, clock), max(room, clock))
        clock = min(max(stop, begin + least), max(latest - least * (len(times) - i - 1), begin + least))
        fixed.append((begin, clock))
    return tuple(fixed)
