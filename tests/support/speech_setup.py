"""What the speech tests share: the models, transcription jobs, word error rate."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import batch
from batch.payloads.speech import TranscriptionOptions, TranscriptionPayload, TranscriptionResult
from batch.queue.jobs import Kind, Priority
from batch.settings import Settings, SttSettings, default_models_dir
from batch.workers.speech.engine import SpeechEngine
from batch.workers.speech.transcription import TranscriptCheckpoint
from paths import DATA
from scripted_work import ScriptedWork
from sounds import Samples, write_wav

BASE = default_models_dir() / "ggml-base.bin"
TINY_EN = default_models_dir() / "ggml-tiny.en.bin"
SILERO = Path(batch.__file__).parent / "data" / "silero-vad" / "ggml-silero-v6.2.0.bin"


def loaded(model: Path, **stt: Any) -> SpeechEngine:
    """The engine with this model, and without a VAD model unless one is named."""
    chosen = SttSettings(model=str(model), threads=1, **{"vad_model": "none", **stt})
    engine = SpeechEngine(Settings(stt=chosen, models_dir=DATA))
    engine.load(lambda _: None)
    return engine


def work(
    folder: Path,
    samples: Samples | Path,
    *,
    words: bool = False,
    logprobs: bool = False,
    filename: str = "sound.wav",
    at: Mapping[int, Callable[[], object]] | None = None,
    checkpoints: Sequence[TranscriptCheckpoint] = (),
    mates: Sequence[ScriptedWork] = (),
    priority: Priority = Priority.INTERACTIVE,
    threads: int = 1,
    **options: Any,
) -> ScriptedWork:
    """A transcribe job whose sound lies in `folder`, and those that wait behind it."""
    path = samples if isinstance(samples, Path) else write_wav(folder / f"{abs(hash(samples.tobytes())):x}", samples)
    payload = TranscriptionPayload(
        blob=path.name, filename=filename, options=TranscriptionOptions(**options), words=words, logprobs=logprobs
    )
    return ScriptedWork(
        path.parent,
        Kind.STT,
        "transcribe",
        payload,
        at=at,
        checkpoints=checkpoints,
        mates=mates,
        priority=priority,
        threads=threads,
    )


def transcribe(engine: SpeechEngine, job: ScriptedWork) -> TranscriptionResult:
    """Run a job to its end."""
    result = engine.run(job)
    assert isinstance(result, TranscriptionResult)
    return result


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
