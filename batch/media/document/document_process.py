"""Programs that read documents for the inbox, each run once, with its end at a deadline.

A document chooses what its reading costs, and PDFium is native code: so nothing of it happens in the service's own process.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from typing import NamedTuple

from batch.errors import BadRequest, TooLarge
from batch.media.document.page_frames import TOO_MANY_PAGES_STATUS, frames_in, last_line

DEADLINE_S = 120.0
_READ_BYTES = 1 << 20
_MAX_PROBLEM_BYTES = 1 << 16


class _Output(NamedTuple):
    status: int
    data: bytes
    problem: str
    """Its last line on standard error."""


def pdf_page_texts(document: int, name: str, *, max_pages: int, max_bytes: int) -> list[str]:
    """The text of each page of a PDF, given as an open descriptor; pages that are mere pictures have none.

    Raises BadRequest for what cannot be read, TooLarge for more than `max_pages` pages or `max_bytes` of text.
    """
    output = _run(["batch.media.document.pdf_renderer", "texts", str(max_pages)], document, name, max_bytes)
    if output.status == TOO_MANY_PAGES_STATUS:
        raise TooLarge(f"{name} is too long: {output.problem}; at most {max_pages} are read (limits.document_pages).")
    return [frame.decode("utf-8", "replace") for frame in frames_in(_successful(output, name))]


def pdf_page_picture(document: int, name: str, page: int) -> bytes:
    """One page of a PDF, counted from 0, as a PNG."""
    output = _run(["batch.media.document.pdf_renderer", "pictures", "0", str(page)], document, name, 256 << 20)
    (picture,) = frames_in(_successful(output, name))
    return picture


def docx_text(document: int, name: str, *, max_bytes: int) -> str:
    """The text of a Word document."""
    output = _run(["batch.media.document.docx_reader"], document, name, max_bytes)
    return _successful(output, name).decode("utf-8", "replace")


def _successful(output: _Output, name: str) -> bytes:
    if output.status != 0:
        reason = output.problem or "it breaks the program that reads it"
        raise BadRequest(f"{name} cannot be read: {reason}.")
    return output.data


def _run(module: list[str], document: int, name: str, max_bytes: int) -> _Output:
    """Run a module with a document on its standard input; raises TooLarge where it prints more than `max_bytes`."""
    os.lseek(document, 0, os.SEEK_SET)
    process = subprocess.Popen(
        reader_command(*module),
        stdin=document,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=reader_environment(),
        close_fds=True,
    )
    try:
        output, problem = _read_both(process, name, max_bytes)
        status = process.wait(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    return _Output(status, output, last_line(problem))


def _read_both(process: subprocess.Popen[bytes], name: str, max_bytes: int) -> tuple[bytes, bytes]:
    assert process.stdout is not None and process.stderr is not None
    parts: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    limits = {process.stdout.fileno(): max_bytes, process.stderr.fileno(): _MAX_PROBLEM_BYTES}
    until = time.monotonic() + DEADLINE_S
    with selectors.DefaultSelector() as selector:
        for descriptor in parts:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            seconds_left = until - time.monotonic()
            ready = selector.select(max(0.0, seconds_left)) if seconds_left > 0 else []
            if not ready:
                raise BadRequest(f"{name} cannot be read: that takes longer than {DEADLINE_S:.0f} seconds.")
            for key, _ in ready:
                chunk = os.read(key.fd, _READ_BYTES)
                if not chunk:
                    selector.unregister(key.fd)
                parts[key.fd] += chunk
                if len(parts[key.fd]) > limits[key.fd]:
                    raise TooLarge(f"{name} holds more than {max_bytes:,} bytes of text (limits.text_bytes).")
    output, problem = parts.values()
    return bytes(output), bytes(problem)


def reader_command(module: str, *arguments: str) -> list[str]:
    """Runs a module as a program, in which nothing from the current folder passes for Python's modules."""
    return [sys.executable, "-P", "-m", module, *arguments]


def reader_environment() -> dict[str, str]:
    """This process's, and where this package lies, for a service that runs from a checkout."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH", ""))))}
