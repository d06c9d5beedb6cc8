"""The text that a file's jobs found in it, and its vectors."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from batch.errors import BatchError
from batch.folder.pipeline import PAGE_GAP, page_of, page_text, result_of
from batch.payloads.embedding import EmbeddingPayload, EmbeddingResult
from batch.queue.jobs import Job, UnreadableJob
from batch.queue.spool import Spool


def pages_text(jobs: Mapping[str, Job | None]) -> str:
    """The text of a document from the jobs of its pages, by step; raises BatchError where one is no longer kept."""
    return PAGE_GAP.join(pages_of(jobs))


def pages_of(jobs: Mapping[str, Job | None]) -> list[str]:
    """What each page of a document says, from the jobs of its pages."""
    pages = []
    for step, job in jobs.items():
        if page_of(step) is None:
            continue
        if job is None:
            raise BatchError("A page of the document is no longer kept: drop the file again.")
        pages.append(page_text(result_of(job)))
    return pages


def text_in(job: Job, spool: Spool) -> str:
    """The text that an embedding job was made of."""
    payload = job.payload
    if not isinstance(payload, EmbeddingPayload):
        raise UnreadableJob()
    if payload.blob is not None:
        return str(json.loads(spool.read(payload.blob))[0])
    return str((payload.inputs or [""])[0])


def vector_bytes(result: EmbeddingResult, spool: Spool) -> bytes:
    """The vectors of an embedding job, one behind the other as little-endian float32; many of them lie in the spool."""
    return base64.b64decode(result.vectors) if result.vectors is not None else spool.read(result.blob or "")
