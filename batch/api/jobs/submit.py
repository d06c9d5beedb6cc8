"""Submitting a request's jobs, once for each Idempotency-Key: the same request sent twice is done once.

The key belongs to the jobs, not to the HTTP answer: a repeated request finds the jobs of the first one and shapes their
result as the first was shaped, waiting for it if need be. A stream repeats as a stream that brings the whole result at
once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import Request

from batch.api.http.content_digest import digest
from batch.api.jobs.answer_ids import follow_job
from batch.errors import BadRequest
from batch.queue.hub.hub import Hub
from batch.queue.hub.ticket import Ticket
from batch.queue.jobs import Draft
from batch.queue.store import Key

KEY_HEADER = "idempotency-key"
MAX_KEY_CHARS = 255

SMALL_BODY_BYTES = 16 << 10
"""A body up to this size makes a small payload, if nothing else goes into it."""


async def submit(
    request: Request, drafts: Sequence[Draft], fingerprint: str | None = None, *, is_small: bool = False
) -> list[Ticket]:
    """Put a request's jobs into the queue, or find those of an earlier request with the same Idempotency-Key.

    `fingerprint` digests the request's content; None: the body's bytes. `is_small`: no payload has more than
    SMALL_BODY_BYTES. Raises Unprocessable when the key was used for another request, and what Hub.submit raises.
    """
    hub: Hub = request.app.state.hub
    name = read_key(request)
    if name is None:
        return await _submit_all(hub, drafts, is_small=is_small)
    if fingerprint is None:
        body = await request.body()
        fingerprint = await asyncio.to_thread(digest, body)
    key = Key(drafts[0].kind, name, digest(request.url.path.encode(), fingerprint.encode()))
    tickets, request.state.replayed = await hub.submit_once(key, drafts)
    follow_job(tickets[0].id)
    return tickets


async def _submit_all(hub: Hub, drafts: Sequence[Draft], *, is_small: bool) -> list[Ticket]:
    tickets: list[Ticket] = []
    try:
        for draft in drafts:
            tickets.append(await hub.submit(draft, is_small=is_small))
    except BaseException:
        for ticket in tickets:
            await ticket.cancel()
        raise
    return tickets


def read_key(request: Request) -> str | None:
    """The request's Idempotency-Key; None where it has none. Raises BadRequest for one that is no line of visible ASCII."""
    values = request.headers.getlist(KEY_HEADER)
    if not values:
        return None
    name = values[0].strip()
    if len(values) > 1 or not 1 <= len(name) <= MAX_KEY_CHARS or not (name.isascii() and name.isprintable()):
        raise BadRequest(f"The Idempotency-Key header must be one line of 1 to {MAX_KEY_CHARS} visible ASCII characters.")
    return name
