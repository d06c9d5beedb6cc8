"""Which files a delivery puts into the outbox, and what each of them holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from msgspec import UNSET

from batch.batches.batch_store import BatchStore
from batch.batches.file_store import FileStore
from batch.errors import BatchError
from batch.folder.file_names import (
    BATCH_ERRORS_ENDING,
    BATCH_OUTPUT_ENDING,
    ERROR_ENDING,
    one_line,
    result_endings,
    result_stem,
)
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.rows import Content, Delivery, ErrorRecord, FileState
from batch.folder.outbox.result_document import (
    ResultDocument,
    batch_document,
    failure_document,
    line_of,
    render,
    result_document,
)
from batch.folder.pipeline import BATCH, CAPTION, TRANSCRIPT, result_of
from batch.media.subtitles import to_srt, to_vtt
from batch.payloads.speech import TranscriptionResult, TranscriptSegment
from batch.queue.jobs import Job
from batch.queue.spool import Spool

logger = logging.getLogger("batch.folder")

PIECE_BYTES = 1 << 20
Render = Callable[[], Iterable[bytes]]


@dataclass(slots=True)
class ResultFiles:
    """What is to be done in the outbox for one file."""

    delivery: Delivery
    state: FileState
    """What the file is afterwards: done, linked or failed."""
    stem: str
    """Path below the outbox, without endings."""
    parts: list[tuple[str, Render]]
    """(ending, content) in order of appearance: the last one says that all are there."""
    stale_endings: tuple[str, ...]
    """Endings that an earlier state of the source may have left."""
    mark: bytes = b""
    """Stands in the first bytes of a last part that holds this very result."""
    error: OSError | None = None
    is_written: bool = False
    """It was written already, by a service that was killed before it could record it."""

    @property
    def folder(self) -> str:
        """The folder of the results, below the outbox."""
        return self.stem.rpartition("/")[0]

    def name(self, ending: str) -> str:
        """A result's name in its folder."""
        return self.stem.rpartition("/")[2] + ending

    def temporary_name(self, ending: str) -> str:
        """What a result is called until it is whole: always the same, so that a killed service's is written over."""
        return f".batch-{self.delivery.id}{ending}.tmp"


class ResultPlanner:
    """Makes ResultFiles of deliveries. Blocking."""

    def __init__(self, ledger: Ledger, spool: Spool) -> None:
        self._ledger = ledger
        self._spool = spool

    def plan(self, delivery: Delivery) -> ResultFiles:
        """The files of a delivery: its results, or its error where there are none."""
        content, error = delivery.content, delivery.error
        if error is None and content is not None:
            error = content.error
            if error is None:
                try:
                    if content.step == BATCH:
                        return self._batch_results(delivery, content)
                    return self._results(delivery, content)
                except (BatchError, FileNotFoundError, ValueError) as problem:
                    logger.warning("The result of %s cannot be read: %s", one_line(delivery.path), problem)
                    error = BatchError("The result is no longer kept: drop the file again.").record()
        return _failure(delivery, error or {})

    def _results(self, delivery: Delivery, content: Content) -> ResultFiles:
        jobs: dict[str, Job] = {}
        for step, id in content.jobs.items():
            job = self._ledger.store.job(id)
            if job is None or job.result_json is None:
                raise BatchError(f"job {id} has no result")
            jobs[step] = job
        document, rows = result_document(delivery, content, jobs, self._spool)
        parts = [(f".{name}", content) for name, content in _texts(document, jobs).items() if name in delivery.rules.formats]
        parts.append((".json", partial(render, document, rows)))
        return _result_files(delivery, parts, line_of(document, "jobs"))

    def _batch_results(self, delivery: Delivery, content: Content) -> ResultFiles:
        """A batch's result files as they are, and what became of it."""
        store = self._ledger.store
        batch = BatchStore(store).batch(content.job)
        parts: list[tuple[str, Render]] = []
        for ending, id in ((BATCH_OUTPUT_ENDING, batch.output_file), (BATCH_ERRORS_ENDING, batch.error_file)):
            if id is not None:
                path = self._spool.path(FileStore(store).file(id).sha256)
                path.stat()
                parts.append((ending, partial(_pieces, path)))
        document = batch_document(delivery, content, batch)
        parts.append((".json", partial(render, document)))
        return _result_files(delivery, parts, line_of(document, "batch"))


def _result_files(delivery: Delivery, parts: list[tuple[str, Render]], line: bytes) -> ResultFiles:
    """The files of a source that is done, in place of all others that it may have had; `line` of the JSON names the work."""
    endings = {ending for ending, _ in parts}
    return ResultFiles(
        delivery,
        FileState.LINKED if delivery.linked else FileState.DONE,
        result_stem(delivery.path),
        parts,
        (ERROR_ENDING, *(ending for ending in result_endings(delivery.path) if ending not in endings)),
        mark=line + b",\n",
    )


def _pieces(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _texts(document: ResultDocument, jobs: dict[str, Job]) -> dict[str, Render]:
    """By format: what is written beside the JSON."""
    if CAPTION in jobs or document.format is not UNSET:
        return {"txt": partial(_encoded, document.text + "\n")}
    if TRANSCRIPT not in jobs:
        return {}
    result = result_of(jobs[TRANSCRIPT])
    segments = result.segments if isinstance(result, TranscriptionResult) else []
    lines = [f"{segment.text}\n" for segment in document.segments or [] if segment.text]
    return {
        "txt": partial(_encoded, "".join(lines)),
        "srt": partial(_subtitles, to_srt, segments),
        "vtt": partial(_subtitles, to_vtt, segments),
    }


def _failure(delivery: Delivery, error: ErrorRecord) -> ResultFiles:
    document = failure_document(delivery, error)
    return ResultFiles(
        delivery,
        FileState.FAILED,
        result_stem(delivery.path),
        [(ERROR_ENDING, partial(render, document))],
        () if delivery.is_redo else result_endings(delivery.path),
        mark=line_of(document, "job") + b"\n" if document.job else b"",
    )


def _encoded(text: str) -> list[bytes]:
    return [text.encode("utf-8", "replace")]


def _subtitles(write: Callable[[Sequence[TranscriptSegment]], str], segments: Sequence[TranscriptSegment]) -> list[bytes]:
    return _encoded(write(segments))
