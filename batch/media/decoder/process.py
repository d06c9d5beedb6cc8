"""Decoding in a process of its own: what a hostile or broken file does there ends that file, not the worker.

A worker keeps one decoder warm. A decoder that hangs is killed at a deadline, one that crashes is replaced; the file
gets the blame in a sentence, and the model stays loaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from batch.errors import BadRequest, BatchError, UnsupportedMedia
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
from batch.media.decoder.pixel_memory import PixelMemory, Pixels
from batch.media.decoder.running_pids import running_pids
from batch.media.sound.samples import SAMPLE_RATE, Samples

SILENCE_LIMIT_S = 60.0
"""Seconds within which a decoder has to give the next second of sound."""

IMAGE_LIMIT_S = 30.0
"""Seconds within which a picture has to be decoded: the largest that is taken needs a few."""

KEPT_PIXEL_BYTES = 64 << 20
"""A decoder whose shared memory has grown beyond this is replaced, which gives it back."""

START_LIMIT_S = 60.0
"""Seconds that are waited for a decoder to end."""

TICK_S = 0.5
"""Seconds after which whoever waits for sound gets an empty block, so as to look up."""

IMAGE_TICK_S = 2.0
"""The same for a picture, of which most are there at once."""

CREDIT_BLOCKS = 32
"""Blocks, of about a second, that are decoded ahead."""

_PIPE_BYTES = 1 << 20
"""So that decoding ahead does not wait for the pipe: about 16 seconds of sound."""

Purpose = Literal["sound", "image"]


class DecoderProcess:
    """One process, started when it is first needed, replaced when it is lost. For one thread, one file at a time."""

    def __init__(self, purpose: Purpose) -> None:
        self._purpose = purpose
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: FrameReader | None = None
        self._memory: PixelMemory | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that runs now, if any."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process unless it runs; returns before it has loaded its libraries."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        command = [sys.executable, "-m", "batch.media.decoder.main", self._purpose]
        # One thread each: their pools reserve memory for every core of the machine.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        shared: tuple[int, ...] = ()
        if self._purpose == "image":
            self._memory = PixelMemory.create()
            shared = (self._memory.descriptor,)
            command.append(str(self._memory.descriptor))
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            pass_fds=shared,
        )
        assert process.stdout is not None
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._process, self._reader = process, FrameReader(process.stdout.fileno(), Reply)
        running_pids.add(process.pid)

    def close(self) -> None:
        """End the process, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            running_pids.discard(self._process.pid)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._process = self._reader = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def send(self, request: Request, data: bytes = b"") -> None:
        """Raises PipeClosed when the process is gone."""
        if self._process is None or self._process.stdin is None:
            raise PipeClosed
        write_frame(self._process.stdin.fileno(), request, data)

    def receive(self, timeout_s: float) -> tuple[Reply, bytearray]:
        """The next reply and its data. Raises PipeClosed, TimeoutError."""
        if self._reader is None:
            raise PipeClosed
        reply: Reply
        reply, data = self._reader.read(timeout_s)
        return reply, data

    def is_ready(self, timeout_s: float) -> bool:
        """Whether a reply, or the end of the process, can be received after waiting for so long at most."""
        return self._reader is None or self._reader.is_ready(timeout_s)

    def blame(self, name: str) -> UnsupportedMedia:
        """The error for a file that ended the process; the next file gets a new one."""
        status = self._process.wait(START_LIMIT_S) if self._process is not None else 0
        self.close()
        ending = f"status {status}"
        if status < 0:
            with contextlib.suppress(ValueError):
                ending = signal.Signals(-status).name
        return UnsupportedMedia(f"{name} cannot be decoded: it ended the decoder ({ending}), so it is probably damaged.")

    def image(
        self,
        source: bytes | str | os.PathLike[str],
        max_pixels: int,
        max_bytes: int,
        look_up: Callable[[], object] = lambda: None,
        least_side: int | None = None,
    ) -> Pixels:
        """The first frame, upright, as RGB values (height, width, 3); transparency lies on white. A very large one is made
        smaller by `shrink_factor`, a JPEG by `least_side` as `open_image` does. They stand in memory that the next picture of
        this decoder overwrites.

        `look_up` is called every other second while it waits, and may raise to give the picture up. Raises what `open_image`
        raises, and UnsupportedMedia or BadRequest for a picture that ends the decoder or takes it too long.
        """
        self.begin_image(source, max_pixels, max_bytes, least_side)
        return self.end_image(look_up)

    def begin_image(
        self, source: bytes | str | os.PathLike[str], max_pixels: int, max_bytes: int, least_side: int | None = None
    ) -> None:
        """Have a picture decoded while the caller goes on; `end_image` is called next, or `close`. Raises nothing that is the
        picture's."""
        path = None if isinstance(source, bytes) else os.fspath(source)
        data = source if isinstance(source, bytes) else b""
        self.start()
        try:
            with contextlib.suppress(PipeClosed):  # `end_image` finds it so too
                self.send(OpenImage(path=path, max_pixels=max_pixels, max_bytes=max_bytes, least_side=least_side), data)
        except BaseException:
            self.close()
            raise

    def end_image(self, look_up: Callable[[], object] = lambda: None) -> Pixels:
        """The picture that was begun, as `image` returns it. Raises what `image` does."""
        try:
            self._await_reply(IMAGE_LIMIT_S, look_up)
            reply, _ = self.receive(IMAGE_LIMIT_S)
            pixels = self._pixels(reply)
        except PipeClosed:
            raise self.blame("The image") from None
        except TimeoutError:
            self.close()
            raise BadRequest(
                f"The image takes longer to decode than {IMAGE_LIMIT_S:.0f} seconds: save it anew, or smaller."
            ) from None
        except BaseException:  # a BatchError too: the job was cancelled
            self.close()  # a reply may be under way, and the next request must not read it
            raise
        if isinstance(pixels, BatchError):
            raise pixels
        if pixels.nbytes > KEPT_PIXEL_BYTES:
            self.close()
        return pixels

    def _pixels(self, reply: Reply) -> Pixels | BatchError:
        """What a picture's reply stands for."""
        if isinstance(reply, Failed):
            return BatchError.from_record(reply.error)
        assert isinstance(reply, ImageDecoded) and self._memory is not None
        return self._memory.read(reply.width, reply.height)

    def _await_reply(self, limit_s: float, look_up: Callable[[], object]) -> None:
        """Wait for the next reply; what `look_up` does meanwhile takes nothing from its time. Raises TimeoutError."""
        waited_s = 0.0
        while waited_s < limit_s:
            started = time.monotonic()
            if self.is_ready(min(IMAGE_TICK_S, limit_s - waited_s)):
                return
            waited_s += time.monotonic() - started
            look_up()
        raise TimeoutError


class SoundStream:
    """A file whose sound is decoded in another process. As `batch.media.sound.audio.Sound`, but `blocks` also gives an empty
    block now and then while it waits."""

    def __init__(
        self, decoder: DecoderProcess, path: Path, name: str | None = None, track: str | None = None, skip: int = 0
    ) -> None:
        """Raises what `Sound` raises, and what `blocks` raises. `skip`: samples at the start that are not wanted."""
        self.name = name or path.name
        self.truncated: str | None = None
        """One sentence when the file broke off before its end; known once `blocks` has ended."""
        self.decoded = 0
        """Samples decoded so far, skipped ones too."""
        self._decoder = decoder
        self._is_open = False
        self._waited_s = 0.0
        decoder.start()
        request = OpenSound(path=str(path), name=self.name, track=track, skip=skip, credit=CREDIT_BLOCKS)
        try:
            decoder.send(request)
            reply, _ = decoder.receive(SILENCE_LIMIT_S)
        except PipeClosed:
            raise decoder.blame(self.name) from None
        except TimeoutError:
            raise self._give_up() from None
        except BaseException:
            decoder.close()
            raise
        if isinstance(reply, Failed):
            raise BatchError.from_record(reply.error)
        assert isinstance(reply, SoundOpened)
        self.seconds = reply.seconds
        """Seconds the file says it has; None when it does not say."""
        self._is_open = True

    def __enter__(self) -> SoundStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def blocks(self) -> Iterator[Samples]:
        """Float32 mono blocks at 16 kHz in order, each about a second; empty ones where samples are skipped, and
        every half second while nothing comes.

        Raises UnsupportedMedia or BadRequest when nothing decodes, or the file ends the decoder or holds it up.
        """
        received = 0
        while self._is_open:
            started = time.monotonic()
            while not self._decoder.is_ready(TICK_S):
                waited = time.monotonic() - started
                # What decodes more slowly than it plays is no recording, whatever it gives now and then.
                if waited > SILENCE_LIMIT_S or self._waited_s + waited > SILENCE_LIMIT_S + self.decoded / SAMPLE_RATE:
                    raise self._give_up()
                yield np.zeros(0, np.float32)
            try:
                reply, data = self._decoder.receive(SILENCE_LIMIT_S)
            except PipeClosed:
                self._is_open = False
                raise self._decoder.blame(self.name) from None
            except TimeoutError:
                raise self._give_up() from None
            self._waited_s += time.monotonic() - started
            match reply:
                case SoundBlock():
                    self.decoded = reply.decoded
                    received += 1
                    if received % (CREDIT_BLOCKS // 2) == 0:
                        with contextlib.suppress(PipeClosed):  # the next reply says why
                            self._decoder.send(MoreBlocks(credit=CREDIT_BLOCKS // 2))
                    yield np.frombuffer(data, np.float32)
                case SoundEnded():
                    self._is_open = False
                    self.truncated = reply.truncated
                case Failed():
                    self._is_open = False
                    raise BatchError.from_record(reply.error)
                case _:
                    raise AssertionError(f"{reply} in the middle of a file")

    def close(self) -> None:
        """Stop decoding; the decoder is ready for another file behind this."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._decoder.send(CloseSound())
            deadline = time.monotonic() + TICK_S * 10
            while not isinstance(self._decoder.receive(max(0.0, deadline - time.monotonic()))[0], SoundClosed):
                pass
        except (PipeClosed, TimeoutError):
            self._decoder.close()

    def _give_up(self) -> BadRequest:
        self._is_open = False
        self._decoder.close()
        return BadRequest(
            f"{self.name} takes too long to decode, after {self.decoded / SAMPLE_RATE:.0f} seconds of its sound: "
            "it is damaged, or was made to be slow."
        )
