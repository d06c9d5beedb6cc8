"""Ids and times inside an answer. Under an Idempotency-Key they follow from its job, so that a repeated answer repeats them."""

from __future__ import annotations

import contextvars
import random
import secrets
import time

ID_BITS = 128


class _KeyedJob:
    """The first job of a request that bears a key, and the ids drawn from it."""

    def __init__(self, job: str) -> None:
        self.created = int(job[:12], 16) // 1000
        self.draw_bits = random.Random(job).getrandbits


_keyed_job: contextvars.ContextVar[_KeyedJob | None] = contextvars.ContextVar("keyed_job", default=None)


def follow_job(job: str) -> None:
    """From here on, let the ids and times of the request under way follow from this job."""
    _keyed_job.set(_KeyedJob(job))


def random_id(prefix: str) -> str:
    """An id for an answer, or a part of one: the prefix and 32 hexadecimal digits."""
    job = _keyed_job.get()
    return f"{prefix}{job.draw_bits(ID_BITS) if job else secrets.randbits(ID_BITS):032x}"


def creation_time() -> int:
    """When the request under way came in, in Unix seconds."""
    job = _keyed_job.get()
    return job.created if job else int(time.time())
