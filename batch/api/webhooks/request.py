"""What clients send about webhook endpoints, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from batch.api.json_body import Body, quoted
from batch.errors import BadRequest
from batch.notifications.rows import EVENT_TYPES

EndpointName = Annotated[str, Meta(min_length=1, max_length=256)]
EventTypes = Annotated[list[str], Meta(min_length=1, max_length=100)]


class EndpointBody(Body, frozen=True, kw_only=True):
    """The body of POST /v1/webhook_endpoints."""

    name: EndpointName
    url: str
    event_types: EventTypes


class EndpointChanges(Body, frozen=True, kw_only=True):
    """The body of POST /v1/webhook_endpoints/{id}: what is sent is changed."""

    name: EndpointName | UnsetType = UNSET
    url: str | UnsetType = UNSET
    event_types: EventTypes | UnsetType = UNSET


class RotationBody(Body, frozen=True, kw_only=True):
    """The body of POST /v1/webhook_endpoints/{id}/rotate_secret."""

    keep_old_secret_active_for_24_hours: bool = False


class TrialBody(Body, frozen=True, kw_only=True):
    """The body of POST /v1/webhook_endpoints/{id}/test."""

    event_type: str


def check_event_types(types: Sequence[str], field: str = "event_types") -> list[str]:
    """The types, each once. Raises BadRequest for one that is never sent."""
    for type in types:
        if type not in EVENT_TYPES:
            raise BadRequest(f"'{field}': {quoted(type)} is never sent here; {', '.join(EVENT_TYPES)} are", param=field)
    return list(dict.fromkeys(types))
