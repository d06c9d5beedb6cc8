"""Quick questions to an engine that need no turn in its queue, and their answers."""

from __future__ import annotations

import msgspec

from batch.payloads.chat import ChatPayload, CompletionPayload


class _Question(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="question"):
    """Base of the questions."""


class Tokenize(_Question, tag="tokenize", frozen=True, kw_only=True):
    """Which tokens a text becomes; answered by Tokenized."""

    content: str | list[int | str]
    """Text, or token ids and texts mixed."""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False
    """Each token with its text."""


class TokenPiece(msgspec.Struct, frozen=True):
    """A token and its text."""

    id: int
    piece: str | list[int]
    """Bytes where they are no whole characters."""


class Tokenized(msgspec.Struct, frozen=True):
    """Tokens of a text, with their pieces if those were wanted."""

    tokens: list[int | TokenPiece]


class Detokenize(_Question, tag="detokenize", frozen=True, kw_only=True):
    """The text of tokens; answered by Detokenized."""

    tokens: list[int | str]


class Detokenized(msgspec.Struct, frozen=True):
    """The text of tokens."""

    content: str


class ApplyTemplate(_Question, tag="apply_template", frozen=True, kw_only=True):
    """The prompt that a conversation becomes; answered by TemplateApplied."""

    payload: ChatPayload


class TemplateApplied(msgspec.Struct, frozen=True):
    """A conversation as one text."""

    prompt: str


class CountTokens(_Question, tag="count", frozen=True, kw_only=True):
    """How long a job's prompt is, and whether its settings can run at all; answered by TokenCount."""

    payload: ChatPayload | CompletionPayload


class TokenCount(msgspec.Struct, frozen=True):
    """Tokens of a prompt, and the size of the context."""

    tokens: int
    n_ctx: int


class ReadEngineMetrics(_Question, tag="metrics", frozen=True, kw_only=True):
    """Figures for /metrics; answered by EngineMetrics."""


class EngineMetrics(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What an engine counts of itself since it was loaded."""

    cache_bytes: int = 0
    """Host memory that cached conversations take."""
    cache_conversations: int = 0
    """Conversations cached in host memory."""
    image_encodes: int = 0
    """Pictures that went through the vision encoder; a known one does not again."""


Question = Tokenize | Detokenize | ApplyTemplate | CountTokens | ReadEngineMetrics
Answer = Tokenized | Detokenized | TemplateApplied | TokenCount | EngineMetrics

ANSWER_TYPES: dict[type[Question], type[Answer]] = {
    Tokenize: Tokenized,
    Detokenize: Detokenized,
    ApplyTemplate: TemplateApplied,
    CountTokens: TokenCount,
    ReadEngineMetrics: EngineMetrics,
}
