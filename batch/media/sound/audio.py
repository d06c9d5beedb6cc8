"""Sound: whatever FFmpeg's libraries can read, decoded as a stream to what Whisper hears (16 kHz mono float32)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.stream import Disposition

from batch.errors import BadRequest, UnsupportedMedia
from batch.media.formats import SOUND_DEMUXERS
from batch.media.sound.audio_track import choose_track
from batch.media.sound.downmix import Downmix
from batch.media.sound.length import wav_seconds
from batch.media.sound.samples import MAX_HOURS, SAMPLE_RATE, Samples

MIN_SAMPLE_RATE = 1000
"""Samples a second below which a file is refused: a frame of it would become minutes, and hours fit into a few bytes."""

MAX_SAMPLE_RATE = 1_536_000
"""Samples a second above which a file is refused: the filter that brings them down takes memory by their ratio."""

MAX_CHANNELS = 64

MAX_BAD_PACKETS = 1000
"""Packets that break the decoder, not only themselves, after which the rest of a file counts as missing."""

MIN_GAP_S, MAX_GAP_S = 0.3, 3600.0
"""A clock that jumps ahead by so many seconds in the middle of a file tells of a gap, which is heard as silence, so that
times stay a player's. Smaller steps are a container's rounding, and larger ones are no gap but another clock."""

MAX_LEAD_S = 3600
"""Seconds of silence that may stand for sound that starts after its film."""

_MISSING_S = 1.0
"""Seconds that may be missing at the end before a file counts as truncated."""


class Sound:
    """One opened file. Use as a context manager, from one thread; `blocks` may be called once.

    Opening raises UnsupportedMedia (not sound) or BadRequest (empty, too long, no such track), with a sentence that
    names the file.
    """

    def __init__(self, path: Path, name: str | None = None, track: str | None = None) -> None:
        """`track`: a number, from 1, or a language; None: the file's default."""
        self.name = name or path.name
        self._path = path
        self.truncated: str | None = None
        """One sentence when the file broke off before its end; known once `blocks` has ended."""
        self.decoded = 0
        """Samples decoded so far, skipped ones too."""
        self._bad_packets = 0
        self._is_broken = False
        self._clock: float | None = None
        """Seconds by the container's timestamps at which the next frame is due."""
        if path.stat().st_size == 0:
            raise BadRequest(f"{self.name} is empty: it holds no sound.")
        try:
            options = {"protocol_whitelist": "file", "format_whitelist": ",".join(SOUND_DEMUXERS)}
            self._container: InputContainer = av.open(str(path), options=options, metadata_errors="replace")
        except (av.FFmpegError, ValueError, OSError) as problem:
            raise UnsupportedMedia(_why_unread(path, self.name)) from problem
        try:
            stream = choose_track(self._container, self.name, track)
            if stream is None:
                raise UnsupportedMedia(f"{self.name} holds no sound.")
            if stream.codec_context is None:
                raise UnsupportedMedia(f"{self.name} has sound in a coding that cannot be read.")
            self._stream = stream
            if stream.codec_context.sample_rate:
                self._check_shape(stream.codec_context.sample_rate, stream.codec_context.channels or 1)
            self.seconds: float | None = _length(self._container, stream, path)
            """Seconds the file says it has; None when it does not say."""
            self._is_counted = _is_counted(self._container.format.name, path)
            if self.seconds is not None and self.seconds > MAX_HOURS * 3600:
                raise self._too_long()
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()

    def blocks(self, skip: int = 0) -> Iterator[Samples]:
        """Float32 mono blocks at 16 kHz in order, each a second or less; those of the first `skip` samples are empty.

        A broken packet is left out; a broken end sets `truncated`. Raises UnsupportedMedia when nothing decodes.
        """
        has_sound = False
        for block in self._decoded_blocks():
            has_sound = True
            start = self.decoded
            self.decoded += len(block)
            if self.decoded > MAX_HOURS * 3600 * SAMPLE_RATE:
                raise self._too_long()
            yield block[max(0, skip - start) :]
        decoded_s = self.decoded / SAMPLE_RATE
        reached_s = max(decoded_s, (self._clock or 0.0) - (self._container.start_time or 0) / av.time_base)
        if not has_sound and (self._bad_packets or self.seconds):
            raise UnsupportedMedia(f"{self.name} holds no sound that can be decoded.")
        missing = self.seconds is not None and reached_s + max(_MISSING_S, 0.01 * self.seconds) < self.seconds
        if missing and self._is_counted:
            self.truncated = f"{self.name} breaks off after {decoded_s:.1f} of {self.seconds:.1f} seconds."
        elif self._is_broken or (self._container.format.name == "ogg" and _ogg_goes_on(self._path)):
            self.truncated = f"{self.name} breaks off after {decoded_s:.1f} seconds."

    def _too_long(self) -> BadRequest:
        return BadRequest(f"{self.name} is longer than {MAX_HOURS} hours: split it.")

    def _check_shape(self, rate: int, channels: int) -> None:
        if rate < MIN_SAMPLE_RATE:
            raise UnsupportedMedia(
                f"{self.name} has {rate} samples a second, too few for speech: at least {MIN_SAMPLE_RATE} are taken."
            )
        if rate > MAX_SAMPLE_RATE:
            raise UnsupportedMedia(f"{self.name} has {rate} samples a second: at most {MAX_SAMPLE_RATE} are taken.")
        if channels > MAX_CHANNELS:
            raise UnsupportedMedia(f"{self.name} has {channels} channels: at most {MAX_CHANNELS} are taken.")

    def _decoded_blocks(self) -> Iterator[Samples]:
        resampler: AudioResampler | None = None
        shape: tuple[str, str, int] | None = None
        downmix = Downmix()
        is_first = True
        for frame in self._frames():
            if is_first:
                is_first = False
                lead = _lead(self._container, self._stream, frame)
                yield from _silence(lead)  # sound that starts after the picture keeps its distance
            gap = self._gap_before(frame)
            if gap and resampler is not None:
                yield from _mono_blocks(resampler.resample(None), downmix)
                resampler, shape = None, None
                yield from _silence(gap)
            here = (frame.format.name, frame.layout.name, frame.sample_rate)
            if here != shape:  # some streams change in mid-flow
                self._check_shape(frame.sample_rate, frame.layout.nb_channels)
                if resampler is not None:
                    yield from _mono_blocks(resampler.resample(None), downmix)
                resampler, shape = _resampler(frame), here
            frame.pts = None  # gaps and jumps in the clock must not stop the resampler
            assert resampler is not None
            try:
                frames = resampler.resample(frame)
            except (av.FFmpegError, ValueError):  # an arrangement of channels that FFmpeg cannot mix
                resampler = AudioResampler(format="s16", layout=frame.layout, rate=SAMPLE_RATE)
                frames = resampler.resample(frame)
            yield from _mono_blocks(frames, downmix)
        if resampler is not None:
            yield from _mono_blocks(resampler.resample(None), downmix)

    def _gap_before(self, frame: av.AudioFrame) -> int:
        """Samples that are missing before a frame by the container's clock."""
        due, length_s = self._clock, frame.samples / max(1, frame.sample_rate)
        if frame.pts is None or frame.time_base is None:
            self._clock = None if due is None else due + length_s
            return 0
        time_s = float(frame.pts * frame.time_base)
        self._clock = time_s + length_s
        gap_s = 0.0 if due is None else time_s - due
        return round(gap_s * SAMPLE_RATE) if MIN_GAP_S <= gap_s <= MAX_GAP_S else 0

    def _frames(self) -> Iterator[av.AudioFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError):
                self._is_broken = True  # the container ends in the middle
                return
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                self._bad_packets += 1
                continue
            except (av.FFmpegError, ValueError):
                self._bad_packets += 1
                if self._bad_packets > MAX_BAD_PACKETS:
                    self._is_broken = True
                    return
                continue
            for frame in frames:
                if isinstance(frame, av.AudioFrame):
                    yield frame


def load(path: Path, name: str | None = None) -> Samples:
    """A whole short file at once; for long ones use `Sound`."""
    with Sound(path, name) as sound:
        parts = list(sound.blocks())
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _resampler(frame: av.AudioFrame) -> AudioResampler:
    """What brings frames of this shape to 16 kHz. As s16, not flt: swresample's float downmix comes out 3 dB louder."""
    layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
    return AudioResampler(format="s16", layout=layout, rate=SAMPLE_RATE)


def _mono_blocks(frames: list[av.AudioFrame], downmix: Downmix) -> Iterator[Samples]:
    for frame in frames:
        pcm = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
        for start in range(0, len(pcm), SAMPLE_RATE):
            block = pcm[start : start + SAMPLE_RATE].astype(np.float32) / np.float32(32768)
            yield downmix.mono(block) if block.shape[1] == 2 else block.mean(axis=1)


def _silence(length: int) -> Iterator[Samples]:
    for start in range(0, length, SAMPLE_RATE):
        yield np.zeros(min(SAMPLE_RATE, length - start), np.float32)


def _lead(container: InputContainer, stream: av.AudioStream, frame: av.AudioFrame) -> int:
    """Samples by which the sound starts after its film; encoder delays (under 0.2 s) count as none."""
    films = [video for video in container.streams.video if not video.disposition & Disposition.attached_pic]
    if frame.pts is None or frame.time_base is None or not films:
        return 0
    start = (container.start_time or 0) / av.time_base
    lead = float(frame.pts * frame.time_base) - start
    return round(lead * SAMPLE_RATE) if 0.2 <= lead <= MAX_LEAD_S else 0


def _length(container: InputContainer, stream: av.AudioStream, path: Path) -> float | None:
    """Seconds by the file's own account. FFmpeg cuts a WAV's to what is there, so its header is read again."""
    promised = wav_seconds(path) if container.format.name == "wav" else None
    if promised is not None:
        return promised
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _is_counted(format_name: str, path: Path) -> bool:
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
