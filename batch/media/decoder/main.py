"""The decoder process: files of strangers are decoded here, where a crash or a hang costs nothing but that file.

    python -m batch.media.decoder.main sound
    python -m batch.media.decoder.main image DESCRIPTOR

Requests come on standard input, replies go to standard output (frames.py), pixels into the shared memory behind the inherited
descriptor (pixel_memory.py). It ends when its input closes.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from batch.errors import BatchError, NotSupported, TooLarge, UnsupportedMedia
from batch.media.decoder.frames import (
    CloseSound,
    Failed,
    FrameReader,
    ImageDecoded,
    MoreBlocks,
    OpenImage,
    OpenSound,
    PipeClosed,
    Reply,
    Request,
    SoundBlock,
    SoundClosed,
    SoundEnded,
    SoundOpened,
    write_frame,
)
from batch.media.sound.samples import SAMPLE_RATE

if TYPE_CHECKING:
    from batch.media.decoder.pixel_memory import PixelMemory
    from batch.media.sound.audio import Sound

MEMORY_BYTES = 6 << 30
"""Address space that decoding may take: a bomb meets this bound instead of the machine's."""

CPU_LIMIT_S = 120
"""Seconds of computing without a reply after which the system ends this process, also when nobody is left to do so."""


def main() -> None:
    """Serve requests until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever a library prints must not get between the frames.
    replies = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    warnings.simplefilter("ignore")
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    if sys.argv[1:2] == ["sound"]:
        pass
    memory = None
    if sys.argv[1:2] == ["image"]:
        from batch.media.decoder.pixel_memory import PixelMemory

        memory = PixelMemory(int(sys.argv[2]))
    _Decoder(FrameReader(0, Request), replies, memory).serve()


class _Decoder:
    def __init__(self, requests: FrameReader, replies: int, memory: PixelMemory | None) -> None:
        self._requests, self._replies, self._memory = requests, replies, memory

    def serve(self) -> None:
        with contextlib.suppress(PipeClosed):
            while True:
                request, data = self._requests.read()
                self._allow_computing()
                try:
                    match request:
                        case OpenSound():
                            self._sound(request)
                        case OpenImage():
                            self._image(request, data)
                        case CloseSound():
                            self._send(SoundClosed())
                        case MoreBlocks():
                            pass  # for a file that has ended meanwhile
                except PipeClosed:
                    raise
                except BatchError as error:
                    self._send(Failed(error=error.record()))
                except MemoryError:
                    self._send(Failed(error=TooLarge("The file needs more memory than decoding may take.").record()))
                except Exception as problem:  # a library's own; the file is to blame
                    reason = " ".join(str(problem).split())[:200] or type(problem).__name__
                    self._send(Failed(error=UnsupportedMedia(f"The file cannot be decoded: {reason}.").record()))

    def _sound(self, request: OpenSound) -> None:
        from batch.media.sound.audio import Sound

        credit = request.credit
        with Sound(Path(request.path), request.name, request.track) as sound:
            self._send(SoundOpened(seconds=sound.seconds))
            for samples in _gathered(sound, request.skip):
                self._send(SoundBlock(decoded=sound.decoded), samples)
                self._allow_computing()
                credit -= 1
                while credit <= 0 or self._requests.is_ready():
                    order, _ = self._requests.read()
                    if isinstance(order, CloseSound):
                        self._send(SoundClosed())
                        return
                    if isinstance(order, MoreBlocks):
                        credit += order.credit
            self._send(SoundEnded(truncated=sound.truncated))

    def _image(self, request: OpenImage, data: bytearray) -> None:
        from batch.media.image import open_image, shrink_factor

        if self._memory is None:
            raise NotSupported("This decoder was started for sound.")
        source = request.path if request.path is not None else bytes(data)
        image = open_image(source, request.max_pixels, request.max_bytes, request.least_side)
        if (factor := shrink_factor(image.width, image.height)) > 1:
            image = image.reduce(factor)
        self._memory.write(image.tobytes())
        self._send(ImageDecoded(width=image.width, height=image.height))

    def _send(self, reply: Reply, data: bytes | memoryview = b"") -> None:
        write_frame(self._replies, reply, data)

    def _allow_computing(self) -> None:
        """Put the limit of computing time ahead of what was used so far."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        limit = int(used.ru_utime + used.ru_stime) + CPU_LIMIT_S
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _gathered(sound: Sound, skip: int) -> Iterator[bytes]:
    """The samples as bytes, a second or a little more at a time; none for what is skipped."""
    parts: list[bytes] = []
    decoded_seconds = 0
    for block in sound.blocks(skip):
        parts.append(block.tobytes())
        if sound.decoded - decoded_seconds >= SAMPLE_RATE:
            yield b"".join(parts)
            parts, decoded_seconds = [], sound.decoded
    if parts:
        yield b"".join(parts)


if __name__ == "__main__":
    main()
