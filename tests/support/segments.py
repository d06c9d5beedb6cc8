"""Whisper's tokens and segments without Whisper."""

from __future__ import annotations

from collections.abc import Sequence

from batch.workers.speech.whisper.decoding import DecodedSegment, Token


def token_of(text: str | bytes, end: float | None = None, hint: float | None = None, id: int = 0) -> Token:
    """A token that attention leaves at `end`, before which the decoder would have put a time stamp at `hint`."""
    raw = text if isinstance(text, bytes) else text.encode()
    return Token(id, raw, hint, 0.5 if hint is not None else 0.0, end, 0.9, -0.1)


def segment_of(
    text: str, tokens: Sequence[Token] | None = None, start: float = 0.0, end: float = 1.0, ids: Sequence[int] = ()
) -> DecodedSegment:
    """A segment of these tokens; without them one of tokens with these ids, or one token."""
    if tokens is None:
        tokens = [token_of(f" w{id}", id=id) for id in ids] or [token_of(text)]
    return DecodedSegment(start, end, text, tuple(tokens), -0.1, 0.0, False)


def said(*words: tuple[str, float]) -> DecodedSegment:
    """A segment of words, each a token with the second at which attention leaves it."""
    tokens = [token_of(word, end) for word, end in words]
    return segment_of("".join(word for word, _ in words), tokens, 0.0, words[-1][1])
