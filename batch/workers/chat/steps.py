"""The steps of a generation: what it needs computed next, in one native call each."""

from __future__ import annotations

from dataclasses import dataclass

from batch.workers.chat.images.image_chunk import ImageChunk

LOST = -2
"""Sent to a generation instead of a row: an aborted decode destroyed what stood in its sequence, which is empty now."""


@dataclass(slots=True)
class PromptSlice:
    """Tokens of the prompt go into the KV."""

    tokens: list[int]
    position: int
    needs_logits: bool
    """Whether the logits behind the last token are wanted: it is the prompt's last."""

    @property
    def n_tokens(self) -> int:
        """How many tokens it adds to the KV."""
        return len(self.tokens)


@dataclass(slots=True)
class EncodeImage:
    """The projector computes a picture's embedding."""

    chunk: ImageChunk

    @property
    def n_tokens(self) -> int:
        """None: the KV stays as it is."""
        return 0


@dataclass(slots=True)
class DecodeImage:
    """An encoded picture goes into the KV."""

    chunk: ImageChunk
    position: int

    @property
    def n_tokens(self) -> int:
        """How many tokens it adds to the KV."""
        return self.chunk.n_tokens


@dataclass(slots=True)
class NextToken:
    """A generated token goes into the KV; the logits behind it decide on the next one."""

    token: int
    position: int

    @property
    def n_tokens(self) -> int:
        """It adds itself to the KV."""
        return 1


Step = PromptSlice | EncodeImage | DecodeImage | NextToken
