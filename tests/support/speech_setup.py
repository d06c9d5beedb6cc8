"""What the speech tests share: the models, sounds made of the one recorded sample, works, word error rate."""

from __future__ import annotations

import re
import wave
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

import batch
from batch.media.audio import RATE, load
from batch.queue.jobs import Kind
from batch.settings import Settings, SttSettings, default_models_dir
from batch.workers.speech.engine import SpeechEngine
from paths import DATA
from scripted_work import ScriptedWork

JFK = DATA / "jfk.wav"
JFK_SAYS = "And so my fellow Americans ask not what your country can do for you ask what you can do for your country"
BASE = default_models_dir() / "ggml-base.bin"
TINY_EN = default_models_dir() / "ggml-tiny.en.bin"
SILERO = Path(batch.__file__).parent / "data" / "silero-vad" / "ggml-silero-v6.2.0.bin"

Samples = np.ndarray[Any, np.dtype[np.float32]]


def loaded(model: Path, **stt: Any) -> SpeechEngine:
    """The engine with this model, and without a VAD model unless one is named."""
    chosen = SttSettings(model=str(model), threads=1, **{"vad_model": "none", **stt})
    engine = SpeechEngine(Settings(stt=chosen, models_dir=DATA))
    engine.load(lambda _: None)
    return engine


def jfk() -> Samples:
    """Eleven seconds of speech."""
    return load(JFK)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


def music(seconds: float) -> Samples:
    """A plucked chord, twice a second."""
    t = np.arange(round(seconds * RATE)) / RATE
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220.0, 277.2, 329.6, 440.0))
    return (0.08 * chord * np.clip(1 - (t * 2) % 1, 0, 1)).astype(np.float32)


def write_wav(path: Path, samples: Samples) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
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


def work(
    folder: Path,
    samples: Samples | Path,
    *,
    words: bool = False,
    filename: str = "sound.wav",
    at: Mapping[int, Callable[[], object]] | None = None,
    checkpoints: Sequence[Mapping[str, Any]] = (),
    **options: Any,
) -> ScriptedWork:
    """A transcribe job whose sound lies in `folder`."""
    path = samples if isinstance(samples, Path) else write_wav(folder / f"{abs(hash(samples.tobytes())):x}", samples)
    request = {"blob": path.name, "filename": filename, "options": options, "words": words}
    return ScriptedWork(path.parent, Kind.STT, "transcribe", request, at=at, checkpoints=checkpoints)


def spoken(text: str) -> list[str]:
    return re.sub(r"[^\w\s']", " ", text).lower().split()


def word_errors(heard: str, said: str) -> float:
    """Word error rate: edits a word of `said`."""
    a, b = spoken(heard), spoken(said)
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1] / len(b)
