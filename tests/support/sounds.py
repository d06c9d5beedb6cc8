"""Sounds for tests: the one recorded sample, silence, music, and files of any format made of them."""

from __future__ import annotations

import io
import wave
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from batch.media.sound.audio import load
from batch.media.sound.samples import SAMPLE_RATE as RATE
from paths import DATA

JFK = DATA / "jfk.wav"
JFK_SAYS = "And so my fellow Americans ask not what your country can do for you ask what you can do for your country"

Samples = np.ndarray[Any, np.dtype[np.float32]]


@lru_cache(maxsize=1)
def _decoded_jfk() -> Samples:
    return load(JFK)


def jfk() -> Samples:
    """Eleven seconds of speech."""
    return _decoded_jfk().copy()


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


def music(seconds: float) -> Samples:
    """A plucked chord, twice a second."""
    t = np.arange(round(seconds * RATE)) / RATE
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220.0, 277.2, 329.6, 440.0))
    return (0.08 * chord * np.clip(1 - (t * 2) % 1, 0, 1)).astype(np.float32)


def wav(pcm: bytes) -> bytes:
    """A WAV file of these samples of 16 bits."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm)
    return out.getvalue()


def write_wav(path: Path, samples: Samples) -> Path:
    path.write_bytes(wav((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()))
    return path


def encode(
    path: Path,
    samples: Samples,
    codec: str,
    rate: int,
    *,
    layout: str = "mono",
    container: str | None = None,
    picture: bool = False,
    **options: str,
) -> Path:
    """Write the samples in another format, with a still video track when `picture`."""
    with av.open(str(path), "w", format=container, options=options) as file:
        video = file.add_stream("mpeg4", rate=5) if picture else None
        if video is not None:
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        sound = file.add_stream(codec, rate=rate)
        sound.layout = layout
        if codec == "wmav2":  # it has no bit rate of its own
            sound.bit_rate = 64_000
        if video is not None:
            for at in range(int(5 * len(samples) / RATE)):
                still = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
                still.pts = at
                file.mux(video.encode(still))
            file.mux(video.encode(None))
        channels = 2 if layout == "stereo" else 1
        pcm = np.repeat((samples * 32767).astype(np.int16), channels)[None]
        whole = av.AudioFrame.from_ndarray(pcm, format="s16", layout=layout)
        whole.sample_rate, whole.pts = RATE, 0
        resampler = av.AudioResampler(
            format=sound.format, layout=layout, rate=rate, frame_size=sound.codec_context.frame_size or None
        )
        for frame in (*resampler.resample(whole), *resampler.resample(None)):
            file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    return path
