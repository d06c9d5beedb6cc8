"""Which beginnings of prompts the prompt cache holds, for the services that choose among several workers."""

from __future__ import annotations

from itertools import chain, islice

from batch.payloads.chat import Timings
from batch.payloads.job_payload import Payload
from batch.queue.remote.prompt_prefix import MAX_HELD_PREFIXES, HeldPrefixes, ends_of, prefixes_of
from batch.workers.chat.kv.prompt_cache import PromptCache
from batch.workers.chat.task_params import TaskParams

_MIN_MEASURED_TOKENS = 32
"""A shorter prompt says little of how long one takes."""
_NEWEST_SHARE = 0.3
"""How much the latest prompt weighs in the mean."""


class PrefixRecord:
    """`read` may be called from any thread, the rest from the engine's alone."""

    def __init__(self, cache: PromptCache) -> None:
        self._cache = cache
        self._held = HeldPrefixes()

    def read(self) -> HeldPrefixes:
        """What the cache held after the last job."""
        return self._held

    def name(self, task: TaskParams, payload: Payload) -> None:
        """Give a job's prompt the names of its prefixes."""
        if prefixes := prefixes_of(payload):
            task.prefixes, task.prompt_bytes = ends_of(prefixes), prefixes[-1].size

    def update(self, task: TaskParams, timings: Timings) -> None:
        """A job is done: look at what the cache holds now."""
        ms_per_kib = self._held.ms_per_kib
        if task.prompt_bytes and timings.prompt_n >= _MIN_MEASURED_TOKENS:
            measured = timings.prompt_ms / timings.prompt_n * len(task.prompt) / task.prompt_bytes * 1024
            share = _NEWEST_SHARE if ms_per_kib else 1.0
            ms_per_kib = round(ms_per_kib + share * (measured - ms_per_kib), 3)
        digests = dict.fromkeys(chain.from_iterable(self._cache.held_prefixes))
        self._held = HeldPrefixes(ms_per_kib, list(islice(digests, MAX_HELD_PREFIXES)))
