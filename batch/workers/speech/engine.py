"""Speech to text: a spooled sound or video file in, a transcript with times out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from batch import catalog
from batch.errors import BadRequest, NotSupported
from batch.media import language as languages
from batch.media.audio import Sound
from batch.queue.jobs import Kind
from batch.settings import Settings
from batch.workers.speech.transcription import Transcription
from batch.workers.speech.voice_activity import SileroDetector
from batch.workers.speech.whisper import RATE, Decoding, WhisperModel
from batch.workers.untyped_engine import UntypedWork as Work


class SpeechEngine:
    """One Whisper model. See batch.workers.engine.Engine."""

    has_short_steps = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model: WhisperModel | None = None
        self._vad: Path | None = None
        self._facts: dict[str, Any] = {}
        self._stop = threading.Event()
        self._usual: str | None = None  # the language detected last: a guess for the next file, never an answer

    def load(self, report: Callable[[float], None]) -> Mapping[str, Any]:
        report(0.0)
        found = catalog.resolve(self._settings, Kind.STT)
        self._vad = catalog.vad(self._settings)
        if self._vad is not None:
            SileroDetector(self._vad).close()
        model = self._model = WhisperModel(found.path, gpu=self._settings.stt.gpu_layers != 0)
        self._facts = {
            "model": found.name,
            "path": str(found.path),
            "size": found.path.stat().st_size,
            "n_ctx": model.n_text_ctx,
            "n_ctx_train": model.n_text_ctx,
            "n_vocab": model.n_vocab,
            "n_embd": model.n_embd,
            "type": model.size_name,
            "multilingual": model.multilingual,
            "languages": list(model.codes),
            "vad": str(self._vad) if self._vad else None,
            "vision": False,
        }
        report(1.0)
        return self._facts

    def run(self, work: Work) -> Mapping[str, Any]:
        assert self._model is not None
        began = time.monotonic()
        request = work.request
        options = {key: value for key, value in (request.get("options") or {}).items() if value is not None}
        how = self._decoding(options)
        if request.get("words") or options.get("token_timestamps"):
            how = replace(how, token_timestamps=True)
        job = Transcription(self._model, work, how, options, self._stop, self._vad, self._usual)
        with Sound(work.spool_path(request["blob"]), request.get("filename") or "The file") as sound:
            job.run(sound)
            seconds = sound.decoded / RATE
            if job.cut_off:
                seconds = max(seconds, sound.seconds or 0.0)
            truncated = sound.truncated
        self._usual = job.detected or self._usual
        result: dict[str, Any] = {
            "text": "".join(f"{segment['text']}\n" for segment in job.segments),
            "language": job.language,
            "language_name": languages.name(job.language),
            "duration": round(seconds, 3),
            "segments": job.segments,
            "ms": (time.monotonic() - began) * 1000,
        }
        if job.shares:
            result["language_probabilities"] = job.shares
        if truncated:
            result["truncated"] = truncated
        return result

    def ask(self, question: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        raise NotSupported(f'The speech model does not answer "{question}".')

    def interrupt(self) -> None:
        self._stop.set()

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
            self._model = None

    def _decoding(self, options: Mapping[str, Any]) -> Decoding:
        """The request's options as decoding parameters. Raises BadRequest for a language the model cannot do."""
        assert self._model is not None
        known = {f.name for f in fields(Decoding)}
        how = Decoding(**{key: value for key, value in options.items() if key in known})
        wanted = str(options.get("language", "en"))
        code = languages.normalise(wanted)
        if code is None:
            raise BadRequest(f'language "{wanted}" is not one that Whisper knows: use a code such as en, zh or auto.')
        if options.get("detect_language"):
            code = languages.AUTO
        if not self._model.multilingual and code not in ("en", languages.AUTO):
            raise BadRequest(
                f"language {code} ({languages.name(code)}) cannot be done by {self._facts['model']}, "
                "which knows English only: choose a multilingual model."
            )
        if code != languages.AUTO and code not in self._model.codes:
            raise BadRequest(f"language {code} ({languages.name(code)}) is not known to {self._facts['model']}.")
        if code == languages.AUTO and not self._model.multilingual:
            code = "en"
        return replace(how, language=code)
