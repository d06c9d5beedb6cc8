"""Idempotency-Key: the same request sent twice is done once, and answered twice with the same words.

The key belongs to the jobs, not to the HTTP answer: a repeated request finds the jobs of the first one and shapes their
result as the first was shaped, waiting for it if need be. A stream repeats as a stream that brings the whole result at
once. Ids and times in an answer under a key follow from its job, so that they repeat too.
"""

from __future__ import annotations

import contextvars
import hashlib
import random
import secrets
import string
import time
from collections.abc import Sequence

from fastapi import Request

from batch.errors import BadRequest
from batch.queue.hub import Hub, Ticket
from batch.queue.idempotency import Key
from batch.queue.jobs import Draft

HEADER = "idempotency-key"
LONGEST = 255
"""Characters of a key."""

_LETTERS = string.ascii_letters + string.digits
_job: contextvars.ContextVar[tuple[str, random.Random] | None] = contextvars.ContextVar("keyed_job", default=None)
"""The first job of the request under way, when it has a key, and the ids drawn for it."""


async def accept(request: Request, drafts: Sequence[Draft], fingerprint: str | None = None) -> list[Ticket]:
    """Put a request's jobs into the queue, or find those of an earlier request with the same Idempotency-Key.

    `fingerprint` digests what was asked; None: the body's bytes. Raises Unprocessable when the key was used for
    another request, and what Hub.submit raises.
    """
    hub: Hub = request.app.state.hub
    name = _key(request)
    if name is None:
        tickets: list[Ticket] = []
        try:
            for draft in drafts:
                tickets.append(await hub.submit(draft))
        except BaseException:
            for ticket in tickets:
                await ticket.cancel()
            raise
        return tickets
    if fingerprint is None:
        fingerprint = digest(await request.body())
    key = Key(drafts[0].kind, name, digest(request.url.path.encode(), fingerprint.encode()))
    found, request.state.replayed = await hub.submit_once(key, drafts)
    _job.set((found[0].id, random.Random(found[0].id)))
    return found


def digest(*parts: bytes) -> str:
    """sha256 of parts that cannot run into one another."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8) + part)
    return whole.hexdigest()


def random_id(prefix: str) -> str:
    """An id for an answer, or a part of one."""
    job = _job.get()
    draw = job[1].choice if job else secrets.choice
    return prefix + "".join(draw(_LETTERS) for _ in range(32))


def created() -> int:
    """When the answer under way was asked for, in Unix seconds."""
    job = _job.get()
    return int(job[0][:12], 16) // 1000 if job else int(time.time())


def _key(request: Request) -> str | None:
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    name = given[0].strip()
    if len(given) > 1 or not 1 <= len(name) <= LONGEST or not (name.isascii() and name.isprintable()):
        raise BadRequest(f"The Idempotency-Key header must be one line of 1 to {LONGEST} visible ASCII characters.")
    return name
