"""What `pdf_renderer` says to whoever runs it: a frame a page on standard output, a sentence on standard error."""

from __future__ import annotations

import struct

TOO_MANY_PAGES_STATUS = 3
"""Its exit status for a document of more pages than wanted."""

_LENGTH = struct.Struct(">I")
_MAX_SENTENCE_CHARS = 200


def to_frame(data: bytes) -> bytes:
    """A page's bytes behind their number."""
    return _LENGTH.pack(len(data)) + data


def frames_in(output: bytes) -> list[bytes]:
    """The pages in what it wrote."""
    frames: list[bytes] = []
    at = 0
    while at < len(output):
        (size,) = _LENGTH.unpack_from(output, at)
        at += _LENGTH.size
        frames.append(output[at : at + size])
        at += size
    return frames


def last_line(problem: bytes) -> str:
    """What is wrong, from all that a program wrote on standard error; "" for nothing."""
    lines = problem.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:_MAX_SENTENCE_CHARS] if lines else ""
