"""Writes the results of a batch's lines into its growing files, each once, and makes files of those at its end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast

from batch.batches.batch_store import BatchStore
from batch.batches.line_endpoint import JsonObject, LineEndpoint
from batch.batches.line_reader import parse_body
from batch.batches.line_store import TOGETHER_BYTES, EndedLine, LineStore, within_memory
from batch.batches.result_file import ResultFile
from batch.batches.result_lines import LineFailed, lost_line, response_line
from batch.batches.rows import (
    SERVER_ERROR,
    Batch,
    BatchLine,
    BatchStatus,
    Purpose,
    StoredFile,
    TokenCounts,
    new_public_id,
)
from batch.batches.stumbles import LineFault
from batch.errors import BatchError
from batch.payloads.job_payload import Result
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Job, State
from batch.queue.store import WRITE_REFUSED, Store

T = TypeVar("T")
logger = logging.getLogger("batch.batches")

WRITTEN_TOGETHER = 100
"""Most results that share a flush to the disk."""
GIVEN_UP = "The batch was given up before this line's answer was written."
FAULT = "The service made a mistake with this line; its log says more."


class ResultWriter:
    """One a home, on the service's asyncio loop."""

    def __init__(self, hub: Hub, endpoints: Mapping[str, LineEndpoint], folder: Path, store: Store | None = None) -> None:
        """`folder` holds the growing files. `store`: through which is written, where that is not the hub's own."""
        self._hub, self._endpoints, self._folder = hub, endpoints, folder
        self._store, self._lines = BatchStore(store or hub.store), LineStore(store or hub.store)
        self.whole: set[str] = set()
        """Batches whose growing files are known to be here."""

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await self._hub.in_thread(work)

    async def bodies(self, batch: Batch, lines: list[BatchLine]) -> list[JsonObject]:
        """The request bodies of lines, read from the batch's input. Raises OSError where that is gone."""
        return await asyncio.to_thread(self._read_bodies, batch, lines)

    def _read_bodies(self, batch: Batch, lines: list[BatchLine]) -> list[JsonObject]:
        bodies = []
        with self._hub.path(batch.input_sha256).open("rb") as file:
            for line in lines:
                file.seek(line.start)
                bodies.append(parse_body(file.read(line.length)))
        return bodies

    # -- results

    async def begin_again(self, batch: Batch) -> bool:
        """Where another service ran a batch, its growing files are there: have the lines written here once more, from the
        results of their jobs, which are not run again. False where all is here."""
        if not self._hub.store.is_shared or batch.id in self.whole:
            return False
        is_whole = await asyncio.to_thread(
            lambda: self._output(batch).has(batch.output_bytes) and self._errors(batch).has(batch.error_bytes)
        )
        if not is_whole:
            logger.warning("the results of batch %s are written again, as another service had begun them", batch.id)
            await self._in_thread(lambda: self._lines.write_again(batch))
        self.whole.add(batch.id)
        return not is_whole

    async def write_ended(self, batch: Batch) -> bool:
        """Write results of lines whose jobs have ended, as many as fit in memory; whether there were any.

        Raises LineFault for a line whose answer cannot be made.
        """
        ended = await self._in_thread(lambda: self._lines.ended_lines(batch, WRITTEN_TOGETHER))
        if not ended:
            return False
        ended = ended[: len(within_memory([one.line for one in ended]))]
        try:
            bodies = await self.bodies(batch, [one.line for one in ended])
        except OSError:
            if batch.failed_at is None:
                raise
            # The batch is given up, it may be for this very reason.
            await self.record(batch, [], [(one.line, lost_line(one.line, SERVER_ERROR, GIVEN_UP)) for one in ended])
            return True
        succeeded: list[tuple[BatchLine, bytes]] = []
        failed: list[tuple[BatchLine, bytes]] = []
        usage, model, lost, size = TokenCounts(), "", 0, 0
        for one, body in zip(ended, bodies, strict=True):
            if size > TOGETHER_BYTES:  # the others come with the next look
                break
            try:
                text, counts, name = await self._answer(batch, one, body)
            except LineFailed as error:
                failed.append((one.line, text := error.text))
                lost += error.is_lost
            except WRITE_REFUSED:
                raise
            except Exception as error:
                await self.record(batch, succeeded, failed, usage, model, lost)
                raise LineFault(one.line) from error
            else:
                succeeded.append((one.line, text))
                usage, model = usage + counts, name or model
            size += len(text)
        await self.record(batch, succeeded, failed, usage, model, lost)
        return True

    async def write_fault(self, batch: Batch, line: BatchLine) -> None:
        """Give a line up whose request or answer the service itself makes mistakes with."""
        endpoint = self._endpoints[batch.endpoint]
        await self.record(batch, [], [(line, response_line(line, BatchError.status, endpoint.to_error(BatchError(FAULT))))])

    async def _answer(self, batch: Batch, ended: EndedLine, body: JsonObject) -> tuple[bytes, TokenCounts, str]:
        """A line of the output file. Raises LineFailed with the line of the error file instead."""
        line, endpoint = ended.line, self._endpoints[batch.endpoint]
        if ended.state is State.CANCELLED or ended.state is None:
            if batch.expired_at is not None:
                raise LineFailed(
                    lost_line(line, "batch_expired", "The batch's time was over before this line had ended."), is_lost=True
                )
            if batch.failed_at is not None:
                raise LineFailed(lost_line(line, SERVER_ERROR, GIVEN_UP))
            if batch.status is BatchStatus.CANCELLING:
                raise LineFailed(
                    lost_line(line, "batch_cancelled", "The batch was cancelled before this line had ended."), is_lost=True
                )
            message = (
                "The line's job was cancelled." if ended.state else "The line's job was removed before its result was read."
            )
            raise LineFailed(lost_line(line, "request_cancelled", message))
        job = await self._in_thread(lambda: self._hub.store.job(line.job or ""))
        if job is None:
            raise LineFailed(lost_line(line, SERVER_ERROR, "The line's job was removed before its result was read."))
        if (failure := _failure(job)) is not None:
            raise LineFailed(response_line(line, failure.status, endpoint.to_error(failure)))
        try:
            response = await asyncio.to_thread(lambda: endpoint.to_response(body, cast(Result, job.result), job.id))
        except WRITE_REFUSED:
            raise
        except BatchError as error:
            raise LineFailed(response_line(line, error.status, endpoint.to_error(error))) from error
        text = response_line(line, 200, response.body)
        return text, response.usage, response.model

    async def write_unstarted(self, batch: Batch) -> bool:
        """Write lines of a batch that is over which never became jobs; whether there were any."""
        lines = await self._in_thread(lambda: self._lines.waiting_lines(batch, WRITTEN_TOGETHER * 10))
        if not lines:
            return False
        code, message = "batch_cancelled", "The batch was cancelled"
        if batch.failed_at is not None:
            code, message = SERVER_ERROR, "The batch was given up"
        elif batch.expired_at is not None:
            code, message = "batch_expired", "The batch's time was over"
        entries = [(line, lost_line(line, code, f"{message} before this line ran.")) for line in lines]
        await self.record(batch, [], entries, lost=0 if batch.failed_at is not None else len(entries))
        return True

    async def record(
        self,
        batch: Batch,
        succeeded: list[tuple[BatchLine, bytes]],
        failed: list[tuple[BatchLine, bytes]],
        usage: TokenCounts | None = None,
        model: str = "",
        lost: int = 0,
    ) -> None:
        """Flush lines to the result files, then account for them."""
        current = await self._in_thread(lambda: self._store.batch(batch.id))

        def write() -> tuple[int, int]:
            output = self._output(batch).append([text for _, text in succeeded], current.output_bytes)
            return output, self._errors(batch).append([text for _, text in failed], current.error_bytes)

        output_bytes, error_bytes = await asyncio.to_thread(write)
        lines = [line for line, _ in (*succeeded, *failed)]
        await self._in_thread(
            lambda: self._lines.record_written(
                batch,
                lines,
                completed=len(succeeded),
                failed=len(failed),
                lost=lost,
                output_bytes=output_bytes,
                error_bytes=error_bytes,
                usage=usage or TokenCounts(),
                model=model,
            )
        )

    async def publish(self, batch: Batch) -> tuple[StoredFile | None, StoredFile | None]:
        """The output and the error file of a batch whose lines have all ended, in the spool; None where it has no line.

        Raises OSError where a growing file is gone, DiskFull.
        """
        output = await self._publish(batch, self._output(batch), batch.output_bytes, "output")
        return output, await self._publish(batch, self._errors(batch), batch.error_bytes, "errors")

    async def remove(self, batch: Batch) -> None:
        """Delete the growing files of a batch that has ended."""
        await asyncio.to_thread(self._output(batch).remove)
        await asyncio.to_thread(self._errors(batch).remove)
        self.whole.discard(batch.id)

    async def _publish(self, batch: Batch, result: ResultFile, size: int, name: str) -> StoredFile | None:
        if not size:
            return None

        def keep() -> str:
            result.cut(size)
            with result.path.open("rb") as file:
                return self._hub.spool.keep_file(file, durable=True)[0]

        sha256 = await asyncio.to_thread(keep)
        now = int(time.time())
        return StoredFile(
            id=new_public_id("file-"),
            purpose=Purpose.BATCH_OUTPUT,
            filename=f"{batch.id}_{name}.jsonl",
            bytes=size,
            sha256=sha256,
            created_at=now,
            expires_at=None if batch.output_lifetime_s is None else now + batch.output_lifetime_s,
        )

    def _output(self, batch: Batch) -> ResultFile:
        return ResultFile(self._folder / f"{batch.id}.output.jsonl")

    def _errors(self, batch: Batch) -> ResultFile:
        return ResultFile(self._folder / f"{batch.id}.errors.jsonl")


def _failure(job: Job) -> BatchError | None:
    """Why an ended job has no result; None where it has one."""
    if job.state is State.FAILED:
        return BatchError.from_record(dict(job.error or {}))
    return BatchError("The line's job has no result.") if job.result is None else None
