"""A conversation that was moved out of the KV into host memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from batch.workers.chat.kv.checkpoints import Checkpoints
from batch.workers.chat.kv.token_sequence import TokenSequence
from batch.workers.llama.context import State


@dataclass(slots=True, eq=False)
class StoredConversation:
    """A conversation in host memory."""

    tokens: TokenSequence
    state: State
    first: int
    """The oldest position that all layers hold in `state`."""
    checkpoints: Checkpoints
    is_bulk: bool
    number: int = 0
    """Higher in conversations that were stored later."""
    repeated_by: int = 0
    """Number of a later one that repeats this one for the most part; 0: none does."""
    prefixes: Sequence[str] = ()
    """Digests of beginnings of its last job's prompt."""
    unsaved: Sequence[int] = ()
    """After how many tokens checkpoints are yet to be made: `state` holds what they would."""
    size: int = field(init=False)
    """Bytes in all."""

    def __post_init__(self) -> None:
        self.size = len(self.state) + self.checkpoints.size
