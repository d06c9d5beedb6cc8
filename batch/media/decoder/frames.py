"""What a worker and its decoder process say to each other over two pipes: a header of JSON, then bytes."""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Any

import msgspec

_LENGTHS = struct.Struct(">IQ")
"""Bytes of the header's JSON, bytes of data behind it."""

MAX_HEADER_BYTES = 1 << 20


class _Header(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="type"):
    """Base of all headers."""


class OpenSound(_Header, tag="open_sound", frozen=True, kw_only=True):
    """Decode a sound or video file; SoundOpened and SoundBlocks come back, then SoundEnded or Failed."""

    path: str
    name: str
    """For messages."""
    track: str | None = None
    skip: int = 0
    """Samples at the start whose values are not wanted."""
    credit: int
    """Blocks that may be sent before the next MoreBlocks."""


class MoreBlocks(_Header, tag="more_blocks", frozen=True, kw_only=True):
    """So many more blocks may be sent."""

    credit: int


class CloseSound(_Header, tag="close_sound", frozen=True, kw_only=True):
    """Stop decoding; SoundClosed comes back behind what was sent before, whatever it was."""


class OpenImage(_Header, tag="open_image", frozen=True, kw_only=True):
    """Decode a picture, from a file or from the data of this frame; ImageDecoded or Failed comes back."""

    path: str | None = None
    max_pixels: int
    max_bytes: int
    least_side: int | None = None
    """As `open_image` takes it."""


class SoundOpened(_Header, tag="sound_opened", frozen=True, kw_only=True):
    """The file is open."""

    seconds: float | None = None
    """By the file's own account."""


class SoundBlock(_Header, tag="sound_block", frozen=True, kw_only=True):
    """Float32 samples, as the frame's data; none where they were to be skipped."""

    decoded: int
    """Samples so far, skipped ones too."""


class SoundEnded(_Header, tag="sound_ended", frozen=True, kw_only=True):
    """The file has no more sound."""

    truncated: str | None = None
    """One sentence, when it broke off before its end."""


class SoundClosed(_Header, tag="sound_closed", frozen=True, kw_only=True):
    """The answer to CloseSound."""


class ImageDecoded(_Header, tag="image_decoded", frozen=True, kw_only=True):
    """A picture's RGB bytes stand in the shared memory."""

    width: int
    height: int


class Failed(_Header, tag="failed", frozen=True, kw_only=True):
    """The file cannot be decoded."""

    error: dict[str, Any]
    """What BatchError.record gave."""


Request = OpenSound | MoreBlocks | CloseSound | OpenImage
Reply = SoundOpened | SoundBlock | SoundEnded | SoundClosed | ImageDecoded | Failed


class PipeClosed(Exception):
    """The other side has ended."""


class FrameReader:
    """Frames of one pipe, each within a deadline."""

    def __init__(self, descriptor: int, types: Any) -> None:
        """`types`: the union of headers that may come."""
        self._descriptor = descriptor
        self._decoder = msgspec.json.Decoder(types)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN | select.POLLHUP)

    def is_ready(self, timeout_s: float = 0.0) -> bool:
        """Whether something can be read, after waiting for so long at most."""
        return bool(self._poll.poll(timeout_s * 1000))

    def read(self, timeout_s: float | None = None) -> tuple[Any, bytearray]:
        """The next header and its data. Raises PipeClosed, TimeoutError when it has not come whole in time."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        lengths = self._read_exactly(_LENGTHS.size, deadline)
        header_bytes, data_bytes = _LENGTHS.unpack(lengths)
        if header_bytes > MAX_HEADER_BYTES:
            raise PipeClosed
        header = self._decoder.decode(self._read_exactly(header_bytes, deadline))
        return header, self._read_exactly(data_bytes, deadline)

    def _read_exactly(self, size: int, deadline: float | None) -> bytearray:
        buffer = bytearray(size)
        view, filled = memoryview(buffer), 0
        while filled < size:
            seconds_left = None if deadline is None else deadline - time.monotonic()
            if seconds_left is not None and (seconds_left <= 0 or not self.is_ready(seconds_left)):
                raise TimeoutError
            count = os.readv(self._descriptor, [view[filled:]])
            if count == 0:
                raise PipeClosed
            filled += count
        return buffer


def write_frame(descriptor: int, header: Request | Reply, data: bytes | bytearray | memoryview = b"") -> None:
    """Write a whole frame, waiting while the pipe is full. Raises PipeClosed when nobody reads it any more."""
    text = msgspec.json.encode(header)
    try:
        _write_all(descriptor, _LENGTHS.pack(len(text), len(data)) + text)
        _write_all(descriptor, data)
    except (BrokenPipeError, ConnectionResetError):
        raise PipeClosed from None


def _write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]
