"""How a stretch of sound is decoded, and what comes out: Whisper's parameters, tokens and segments."""

from __future__ import annotations

from dataclasses import dataclass, fields

import msgspec

from batch.payloads.speech import TranscriptionOptions

MAX_PROMPT_BYTES = 1344
"""Bytes of a prompt's end that whisper.cpp is given: six for each of the 224 tokens that count."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """Parameters of one call; names and defaults are whisper-server's."""

    language: str = "en"
    """A code that the model knows, or "auto"."""
    translate: bool = False
    temperature: float = 0.0
    temperature_inc: float = 0.2
    prompt: str = ""
    carry_initial_prompt: bool = False
    best_of: int = 2
    beam_size: int = -1
    audio_ctx: int = 0
    max_context: int = -1
    word_thold: float = 0.01
    entropy_thold: float = 2.4
    logprob_thold: float = -1.0
    no_speech_thold: float = 0.6
    suppress_nst: bool = False
    tinydiarize: bool = False
    no_timestamps: bool = False
    align: bool = False
    """Whether tokens get the times at which the model's attention leaves them."""

    @classmethod
    def of(cls, options: TranscriptionOptions, language: str) -> Decoding:
        """What a request's options ask for, in a language."""
        names = {field.name for field in fields(cls)} - {"language", "align"}
        parameters = {
            name: value for name, value in msgspec.structs.asdict(options).items() if name in names and value is not None
        }
        return cls(language=language, **parameters)


@dataclass(frozen=True, slots=True)
class Token:
    """One text token."""

    id: int
    text: bytes
    """May be a part of a character."""
    start_hint: float | None
    """Seconds at which the decoder would have put a time stamp before it; None where it had no idea."""
    hint_probability: float
    attention_end: float | None
    """Seconds at which the attention went on to the next token, with `Decoding.align`."""
    p: float
    plog: float


@dataclass(frozen=True, slots=True)
class DecodedSegment:
    """What stands between two of Whisper's time stamps."""

    start: float
    end: float
    """Seconds from the first sample."""
    text: str
    tokens: tuple[Token, ...]
    """Text tokens only."""
    avg_logprob: float
    no_speech_prob: float
    turn_next: bool


def whole_characters(raw: bytes) -> int:
    """Length of `raw` without a UTF-8 character that its end cuts off."""
    for back in range(1, min(4, len(raw)) + 1):
        byte = raw[-back]
        if byte & 0xC0 == 0x80:
            continue
        need = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return len(raw) if need <= back else len(raw) - back
    return len(raw)


def prompt_end(prompt: str) -> str:
    """What counts of a prompt. whisper.cpp's tokeniser reads it whole first, in cubic time and by recursion: a word of
    2,000 Chinese characters takes seconds, and one of 15,000 the process."""
    raw = prompt.encode("utf-8", "replace")
    if len(raw) <= MAX_PROMPT_BYTES:
        return prompt
    end = raw[-MAX_PROMPT_BYTES:].decode("utf-8", "ignore")
    return end[next((i for i, c in enumerate(end[:64]) if c.isspace()), 0) :]
