"""Which jobs' pictures go into the KV in one decode."""

from __future__ import annotations

from collections.abc import Iterable

from batch.workers.chat.bulk.job import BulkJob
from batch.workers.llama.context import Rows


class PictureBatch:
    """Slices of encoded pictures, of as many jobs as there is room for."""

    def __init__(self, jobs: Iterable[BulkJob], most_tokens: int) -> None:
        """Of jobs whose next step is such a slice that may be in a decode with others."""
        chosen: list[tuple[BulkJob, tuple[Rows, int, int]]] = []
        shareable = [(job, part) for job in jobs if (part := job.shareable_picture) is not None]
        # The largest first, so that in the end small rests are left that share one.
        for job, part in sorted(shareable, key=lambda one: -len(one[1][0])):
            if len(part[0]) <= most_tokens:
                chosen.append((job, part))
                most_tokens -= len(part[0])
        chosen.sort(key=lambda one: one[1][2])
        self.jobs = [job for job, _ in chosen]
        self.parts = [part for _, part in chosen]
        """For the context: (rows, position, sequence), in the order of the sequences."""
