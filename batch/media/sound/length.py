"""How long a sound is by its header, read without FFmpeg: that works in worker processes only, as a file may crash it."""

from __future__ import annotations

import struct
from pathlib import Path

USUAL_BYTES_PER_S = 8_000
"""Bytes a second of compressed sound, 64 kbit/s: speech comes in less, music and films in more."""

_UNKNOWN_SIZE_BYTES = 0x7FFFF000
"""Sizes of a data chunk from which on it may be what a program writes that cannot know the size: 0x7FFFF000 (SoX),
0x7FFFFFFF, 0x80000000, 0xFFFFFFFF (FFmpeg) and their neighbours."""


def wav_seconds(path: Path) -> float | None:
    """Length of a WAV's data by its header; None when it says "unknown" (streamed files) or is not there."""
    rate, size, there = _wav(path)
    if not rate or size <= 0 or size >= 0xFFFFFF00 or (size >= _UNKNOWN_SIZE_BYTES and size > there):
        return None
    return size / rate


def likely_seconds(path: Path) -> float:
    """About how long a file plays: WAV and FLAC by their headers, the others by their size."""
    with path.open("rb") as file:
        head = file.read(26)
    size = path.stat().st_size
    if head[:4] == b"fLaC":
        rate, samples = int.from_bytes(head[18:21]) >> 4, int.from_bytes(head[21:26]) & 0xF_FFFF_FFFF
        if rate and samples:
            return samples / rate
    rate, _, there = _wav(path)
    return there / rate if rate else size / USUAL_BYTES_PER_S


def _wav(path: Path) -> tuple[int, int, int]:
    """Of a WAV: bytes a second, bytes of data that its header promises and bytes that are there; else zeros."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0, 0, 0
        rate = 0
        for _ in range(64):
            chunk = file.read(8)
            if len(chunk) < 8:
                break
            kind, size = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            if kind == b"fmt ":
                body = file.read(min(size, 40))
                if len(body) < 16:
                    break
                rate = struct.unpack("<I", body[8:12])[0]
                file.seek(size + (size & 1) - len(body), 1)
            elif kind == b"data":
                return rate, size, path.stat().st_size - file.tell()
            else:
                file.seek(size + (size & 1), 1)
    return 0, 0, 0
