"""One sequence of the KV, and what is known of what stands in it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from batch.workers.chat.kv.checkpoints import Checkpoints
from batch.workers.chat.kv.stored_conversation import StoredConversation
from batch.workers.chat.kv.token_sequence import TokenSequence
from batch.workers.llama.context import State


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence of the KV and what stands in it."""

    seq: int
    checkpoints: Checkpoints
    tokens: TokenSequence = field(default_factory=TokenSequence)
    is_busy: bool = False
    is_blank: bool = True
    """Whether nothing can stand in its sequence: removing nothing passes over all cells too, of which bulk jobs have many."""
    is_bulk: bool = False
    """Whether what stands here comes from a bulk job."""
    parked: State | None = None
    """Its KV while it waits in host memory, because another job needed the room."""
    last_used: int = 0
    prefixes: Sequence[str] = ()
    """Digests of beginnings of the last job's prompt, once that is computed."""
    checkpoint_at: list[int] = field(default_factory=list)
    """After how many tokens of the job's prompt to make checkpoints, ascending."""
    unsaved: list[int] = field(default_factory=list)
    """After how many tokens checkpoints are yet to be saved, though more tokens stand here: what they hold is still there."""
    unsaved_end: int = sys.maxsize
    """From more tokens than that on, what they hold may be overwritten."""
    copy: StoredConversation | None = None
    """A copy of all that stands here, made ahead of the request that will need it."""
