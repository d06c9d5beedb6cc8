"""Sound: whatever FFmpeg's libraries can read, decoded as a stream to what Whisper hears (16 kHz mono float32)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from batch.errors import BadRequest, UnsupportedMedia
from batch.media.length import wav_seconds

RATE = 16_000
"""Samples a second of everything that comes out of here."""

MAX_HOURS = 48
"""Longest sound taken; more is a mistake or a bomb."""

MIN_RATE = 1000
"""Samples a second below which a file is refused: a frame of it would become minutes, and hours fit into a few bytes."""

EXTENSIONS = frozenset(
    {
        ".wav",
        ".w64",
        ".mp3",
        ".mp2",
        ".m4a",
        ".m4b",
        ".aac",
        ".ac3",
        ".eac3",
        ".ogg",
        ".oga",
        ".opus",
        ".flac",
        ".wma",
        ".aif",
        ".aiff",
        ".aifc",
        ".caf",
        ".amr",
        ".au",
        ".wv",
        ".ape",
        ".tta",
        ".mpc",
        ".mka",
        ".webm",
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".avi",
        ".wmv",
        ".asf",
        ".3gp",
        ".3g2",
        ".mpg",
        ".mpeg",
        ".ts",
        ".m2ts",
        ".flv",
    }
)
"""File names that the inbox takes for sound or for video with sound."""

Samples = NDArray[np.float32]

# Demuxers that read one self-contained file. Playlists (hls, concat, dash, sdp) are left out: they make FFmpeg open
# other files and addresses that a caller names.
_FORMATS = (
    "wav,w64,mp3,aac,flac,ogg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,aiff,caf,amr,amrnb,amrwb,mpeg,mpegts,"
    "mpegvideo,flv,au,ac3,eac3,wv,ape,tta,mpc,mpc8,adts,loas,dts,spdif,live_flv,oma,dsf,iff,rm,nut,gxf,mxf,voc,tak"
)

_MISSING = 1.0  # seconds that may be missing at the end before a file counts as truncated


class Sound:
    """One opened file. Use as a context manager, from one thread; `blocks` may be called once.

    Opening raises UnsupportedMedia (not sound) or BadRequest (empty), with a sentence that names the file.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.name = name or path.name
        self._path = path
        self.truncated: str | None = None
        """One sentence when the file broke off before its end; known once `blocks` has ended."""
        self.decoded = 0
        """Samples decoded so far, skipped ones too."""
        if path.stat().st_size == 0:
            raise BadRequest(f"{self.name} is empty: it holds no sound.")
        try:
            options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
            self._container = av.open(str(path), options=options, metadata_errors="replace")
        except (av.FFmpegError, ValueError, OSError) as problem:
            raise UnsupportedMedia(_why_unread(path, self.name)) from problem
        streams = self._container.streams.audio
        if not streams:
            self._container.close()
            raise UnsupportedMedia(f"{self.name} holds no sound.")
        self._stream = streams[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise UnsupportedMedia(f"{self.name} has sound in a coding that cannot be read.")
        if 0 < (self._stream.codec_context.sample_rate or 0) < MIN_RATE:
            self._container.close()
            raise self._too_slow(self._stream.codec_context.sample_rate)
        self.seconds: float | None = _length(self._container, self._stream, path)
        """Seconds the file says it has; None when it does not say."""
        self._counted = _counted(self._container.format.name, path)
        if self.seconds is not None and self.seconds > MAX_HOURS * 3600:
            self._container.close()
            raise BadRequest(f"{self.name} is longer than {MAX_HOURS} hours: split it.")

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()

    def blocks(self, skip: int = 0) -> Iterator[Samples]:
        """Float32 mono blocks at 16 kHz in order, each a second or less; those of the first `skip` samples are empty.

        A broken packet is left out; a broken end sets `truncated`. Raises UnsupportedMedia when nothing decodes.
        """
        heard = False
        for block in self._decode():
            heard = True
            start = self.decoded
            self.decoded += len(block)
            if self.decoded > MAX_HOURS * 3600 * RATE:
                raise BadRequest(f"{self.name} is longer than {MAX_HOURS} hours: split it.")
            yield block[max(0, skip - start) :]
        got = self.decoded / RATE
        if not heard and (self._bad or self.seconds):
            raise UnsupportedMedia(f"{self.name} holds no sound that can be decoded.")
        if self.seconds is not None and self._counted and got + max(_MISSING, 0.01 * self.seconds) < self.seconds:
            self.truncated = f"{self.name} breaks off after {got:.1f} of {self.seconds:.1f} seconds."
        elif self._broken or (self._container.format.name == "ogg" and _ogg_goes_on(self._path)):
            self.truncated = f"{self.name} breaks off after {got:.1f} seconds."

    def _too_slow(self, rate: int) -> UnsupportedMedia:
        return UnsupportedMedia(f"{self.name} has {rate} samples a second, too few for speech: at least {MIN_RATE} are taken.")

    _bad = 0
    _broken = False

    def _decode(self) -> Iterator[Samples]:
        resampler: Any = None
        shape: tuple[Any, ...] = ()
        first = True
        for frame in self._frames():
            if first:
                first = False
                lead = _lead(self._container, self._stream, frame)
                while lead > 0:  # sound that starts after the picture keeps its distance
                    yield np.zeros(min(lead, RATE), np.float32)
                    lead -= RATE
            here = (frame.format.name, frame.layout.name, frame.sample_rate)
            if frame.sample_rate < MIN_RATE:
                raise self._too_slow(frame.sample_rate)
            if here != shape:  # some streams change in mid-flow
                if resampler is not None:
                    yield from _samples(resampler.resample(None))
                # s16, not flt: swresample's float downmix to mono comes out 3 dB louder
                resampler, shape = av.AudioResampler(format="s16", layout="mono", rate=RATE), here
            frame.pts = None  # gaps and jumps in the clock must not stop the resampler
            yield from _samples(resampler.resample(frame))
        if resampler is not None:
            yield from _samples(resampler.resample(None))

    def _frames(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError):
                self._broken = True  # the container ends in the middle
                return
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                self._bad += 1
                continue
            except (av.FFmpegError, ValueError):
                self._bad += 1
                if self._bad > 1000:
                    self._broken = True
                    return
                continue
            yield from frames


def load(path: Path, name: str | None = None) -> Samples:
    """A whole short file at once; for long ones use `Sound`."""
    with Sound(path, name) as sound:
        parts = list(sound.blocks())
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _samples(frames: Any) -> Iterator[Samples]:
    for frame in frames:
        pcm = frame.to_ndarray().reshape(-1)
        for start in range(0, len(pcm), RATE):
            yield pcm[start : start + RATE].astype(np.float32) / np.float32(32768)


def _lead(container: Any, stream: Any, frame: Any) -> int:
    """Samples by which the sound starts after the file's start; encoder delays (under 0.2 s) count as none."""
    if frame.pts is None or frame.time_base is None or not container.streams.video:
        return 0
    start = (container.start_time or 0) / av.time_base
    lead = float(frame.pts * frame.time_base) - start
    return round(lead * RATE) if 0.2 <= lead <= 3600 else 0


def _length(container: Any, stream: Any, path: Path) -> float | None:
    """Seconds by the file's own account. FFmpeg cuts a WAV's to what is there, so its header is read again."""
    promised = wav_seconds(path) if container.format.name == "wav" else None
    if promised is not None:
        return promised
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _counted(format_name: str, path: Path) -> bool:
    """Whether the length stands in the file; for the others FFmpeg guesses it from the bit rate."""
    if format_name == "mp3":
        with path.open("rb") as file:
            head = file.read(1 << 16)
        return any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))
    return format_name not in ("aac", "mpegts", "mpeg", "amr", "ac3", "eac3", "dts", "loas", "ogg")


def _ogg_goes_on(path: Path) -> bool:
    """Whether the last page of an Ogg file is not marked as the last: then the rest is missing."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 17)))  # a page has 64 KB at most
        tail = file.read()
    at = tail.rfind(b"OggS")
    return at >= 0 and not (tail[at + 5 : at + 6] or b"\0")[0] & 4


def _why_unread(path: Path, name: str) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return f"{name} cannot be read: its index is missing, so it was probably cut short while it was written."
    return f"{name} is not a sound or video file that can be read."
