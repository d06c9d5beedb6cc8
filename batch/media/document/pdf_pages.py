"""The pages of a PDF, drawn by a helper process that is ended at a deadline."""

from __future__ import annotations

import asyncio
import contextlib

from batch.errors import BadRequest, TooLarge
from batch.media.document.document_process import reader_command, reader_environment
from batch.media.document.page_frames import TOO_MANY_PAGES_STATUS, frames_in, last_line

DEADLINE_S = 60.0
MAX_HELPERS = 2
"""Documents drawn at a time; the others wait for their turn."""
MAX_PAGES_AS_TEXT = 1000

_turns = asyncio.Semaphore(MAX_HELPERS)


async def page_pictures(document: bytes, *, sees: bool, max_pages: int) -> list[bytes | str]:
    """Every page as a PNG, or as its text when the model sees nothing.

    Raises BadRequest for a document that cannot be read, TooLarge for one of more than `max_pages` pages.
    """
    limit = max_pages if sees else MAX_PAGES_AS_TEXT
    mode = "pictures" if sees else "texts"
    async with _turns:
        status, output, problem = await _run_helper(document, mode, limit)
    if status == TOO_MANY_PAGES_STATUS:
        raise TooLarge(f"A document is too long: {problem}; this request has room for {limit} (limits.images).")
    if status != 0:
        raise BadRequest(f"A document cannot be read: {problem or 'it broke the program that draws it'}.")
    frames = frames_in(output)
    return list(frames) if sees else [frame.decode("utf-8", "replace") for frame in frames]


async def _run_helper(document: bytes, mode: str, max_pages: int) -> tuple[int, bytes, str]:
    """Exit status, standard output, and the sentence on standard error."""
    process = await asyncio.create_subprocess_exec(
        *reader_command("batch.media.document.pdf_renderer", mode, str(max_pages)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=reader_environment(),
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            output, problem = await process.communicate(document)
    except TimeoutError:
        return 1, b"", f"drawing its pages takes longer than {DEADLINE_S:.0f} seconds"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return process.returncode or 0, output, last_line(problem)
