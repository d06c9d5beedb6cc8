"""llama-server's prompt_progress, for clients that ask for return_progress."""

from __future__ import annotations

import msgspec

from batch.payloads.events import Progress


class PromptProgress(msgspec.Struct):
    """How far a prompt is read."""

    total: int
    """Tokens of the prompt."""
    cache: int
    """Of them: those that stood in the prompt cache."""
    processed: int
    time_ms: int

    @classmethod
    def of(cls, event: Progress) -> PromptProgress:
        """From an event that an engine reports where return_progress is set."""
        return cls(int(event.total or event.done), event.cache or 0, int(event.done), event.time_ms or 0)
