"""Stored responses, items and conversations. Times are whole Unix seconds."""

from __future__ import annotations

from typing import Literal

import msgspec

Item = dict[str, object]
"""An input or output item in OpenAI's form; "id" and "type" are always set."""

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ENDED: tuple[ResponseStatus, ...] = ("completed", "incomplete", "failed", "cancelled")


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One response."""

    sequence: int
    id: str
    status: ResponseStatus
    data: bytes
    """The Response object as JSON, as far as it is known."""
    request: bytes
    """The request's body as JSON, without its input."""
    created_at: int
    used_at: int
    """When it was last fetched or continued."""
    kept: bool
    """Whether its client asked for it to be stored; a background response that is not goes soon after its end."""
    background: bool
    streamed: bool
    expires_at: int | None = None
    conversation: str | None = None
    job: str | None = None

    @property
    def is_ended(self) -> bool:
        """Whether nothing of it changes any more."""
        return self.status in ENDED


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A list of items that responses go on from and add to."""

    id: str
    created_at: int
    metadata: dict[str, str]
