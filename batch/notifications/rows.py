"""Who is told of what, and each telling of one event to one of them. Times are Unix seconds."""

from __future__ import annotations

from enum import StrEnum

import msgspec

EVENT_TYPES = (
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "response.completed",
    "response.failed",
    "response.incomplete",
    "response.cancelled",
    "file.completed",
    "file.failed",
    "service.degraded",
)
"""Everything that can be told; the first eight are OpenAI's."""
COMMAND_TARGET = "command"
"""The id under which the command hook stands among the targets."""


class DeliveryState(StrEnum):
    """Where a delivery is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Every attempt failed, or its endpoint was switched off."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook endpoint, or the command hook."""

    id: str
    name: str
    url: str
    """Empty for the command."""
    event_types: list[str]
    """Empty: all."""
    created_at: int
    updated_at: int
    is_from_settings: bool = False
    is_enabled: bool = True
    """False once its receiver answered 410."""


class EventDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event on its way to one target."""

    sequence: int
    event: str
    """Id, the same in every attempt."""
    type: str
    object: str
    """Id of what the event is about."""
    created_at: int
    target: str
    state: DeliveryState
    attempts: int
    next_attempt_at: float
    last_status: int | None = None
    """HTTP status, or a command's exit status."""
    last_error: str | None = None
