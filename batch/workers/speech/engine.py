"""Speech to text: a spooled sound or video file in, a transcript with times out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from batch import catalog
from batch.errors import BadRequest, BatchError, NotSupported
from batch.media import language as languages
from batch.media.decoder.pool import DecoderPool
from batch.media.decoder.process import SoundStream
from batch.media.sound.samples import SAMPLE_RATE
from batch.memory.machine import require_gpu_memory, require_memory
from batch.payloads.job_payload import Result
from batch.payloads.model_info import SpeechModelInfo
from batch.payloads.questions import Answer, Question
from batch.payloads.speech import TranscriptionOptions, TranscriptionPayload, TranscriptionResult
from batch.queue.jobs import Kind, Priority
from batch.settings import Settings
from batch.workers.engine import OwnWork, Work
from batch.workers.speech.bulk.lanes import Lanes
from batch.workers.speech.bulk.models import ModelCopies, needed_bytes
from batch.workers.speech.transcription import Transcription
from batch.workers.speech.voice_activity import Detector, EnergyDetector, SileroDetector
from batch.workers.speech.whisper.decoding import Decoding
from batch.workers.speech.whisper.devices import used_gpu
from batch.workers.speech.whisper.model import WhisperModel

logger = logging.getLogger("batch.worker")


class SpeechEngine:
    """One Whisper model. See batch.workers.engine.Engine."""

    has_short_steps = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model: WhisperModel | None = None
        self._vad_path: Path | None = None
        self._info = SpeechModelInfo(model="")
        self._decoders = DecoderPool("sound")
        self._stop = threading.Event()
        self._copies: ModelCopies | None = None
        self._bulk: Lanes | None = None
        """The bulk jobs under way, inside which a more urgent one may run."""
        self.last_language: str | None = None
        """The language that was detected last: a guess for the next file, never an answer."""

    def load(self, report: Callable[[float], None]) -> SpeechModelInfo:
        """Load the model. Raises ModelProblem with a sentence that names the file."""
        report(0.0)
        entry = catalog.resolve(self._settings, Kind.STT)
        self._vad_path = catalog.vad(self._settings)
        if self._vad_path is not None:
            SileroDetector(self._vad_path).close()
        gpu = used_gpu() if self._settings.stt.gpu_layers != 0 else None
        need = needed_bytes(entry.path, on_gpu=gpu is not None)
        if gpu is None:
            require_memory(entry.name, need, "stt.model")
        else:
            require_gpu_memory(entry.name, need, "stt", gpu.usable_bytes)
            logger.info("%s is loaded onto %s", entry.name, gpu.summary)
        model = self._model = WhisperModel(entry.path, gpu=gpu is not None)
        if gpu is not None:
            model.warm_up()
        self._copies = ModelCopies(model, entry, self._settings.stt, on_gpu=gpu is not None)
        self._decoders.start()
        self._info = SpeechModelInfo(
            model=entry.name,
            path=str(entry.path),
            size=entry.path.stat().st_size,
            n_ctx=model.n_text_ctx,
            n_ctx_train=model.n_text_ctx,
            n_vocab=model.n_vocab,
            n_embd=model.n_embd,
            type=model.size_name,
            multilingual=model.multilingual,
            languages=list(model.codes),
            vad=str(self._vad_path) if self._vad_path else None,
        )
        report(1.0)
        return self._info

    def run(self, work: Work) -> Result | None:
        """Transcribe one file, or a bulk job together with those that wait behind it, which are ended then. Raises BatchError
        for what is no sound, or wants what the model cannot do."""
        assert self._model is not None and self._copies is not None
        if (bulk := self._bulk) is not None:
            with bulk.inner_job() as model:
                return self._transcribe(work, model, self._stop)
        if work.job.priority >= Priority.INTERACTIVE or self._copies.width == 1:
            return self._transcribe(work, self._model, self._stop)
        self._bulk = Lanes(self._copies, self._transcribe, work)
        try:
            self._bulk.run()
        finally:
            self._bulk = None
        return None

    def _transcribe(self, work: OwnWork, model: WhisperModel, stop: threading.Event) -> TranscriptionResult:
        payload = work.payload
        if not isinstance(payload, TranscriptionPayload):
            raise BatchError(f"The speech model has no task {type(payload).__name__}.")
        started = time.monotonic()
        decoding = Decoding.of(payload.options, self._language(payload.options))
        job = Transcription(model, work, payload, decoding, stop, self._new_detector, self.last_language)
        job.resume()
        with self._decoders.lend() as decoder:
            name = payload.filename or "The file"
            path = work.spool_path(payload.blob)
            with SoundStream(decoder, path, name, payload.options.audio_track, job.start) as sound:
                job.run(sound)
                seconds = sound.decoded / SAMPLE_RATE
                if job.is_cut_off:
                    seconds = max(seconds, sound.seconds or 0.0)
                truncated = sound.truncated
        self.last_language = job.detected or self.last_language
        return TranscriptionResult(
            text="".join(f"{segment.text}\n" for segment in job.segments),
            language=job.language,
            language_name=languages.name(job.language),
            duration=round(seconds, 3),
            segments=job.segments,
            language_probabilities=job.shares or None,
            truncated=truncated,
            ms=(time.monotonic() - started) * 1000,
        )

    def ask(self, question: Question) -> Answer:
        """Raises NotSupported: there is nothing to ask."""
        raise NotSupported(f"The speech model does not answer {type(question).__name__}.")

    def follow_prefixes(self) -> None:
        """No prompt is kept here."""

    def settle(self) -> bool:
        """Nothing can be done ahead."""
        return False

    def interrupt(self) -> None:
        """Stop the native call in flight, all of them where bulk jobs are heard; harmless when nothing runs."""
        self._stop.set()
        if (bulk := self._bulk) is not None:
            bulk.interrupt()

    def close(self) -> None:
        """Free the model and end the decoders."""
        self._decoders.close()
        if self._copies is not None:
            self._copies.close()
            self._model = self._copies = None

    def _new_detector(self) -> Detector:
        return SileroDetector(self._vad_path) if self._vad_path is not None else EnergyDetector()

    def _language(self, options: TranscriptionOptions) -> str:
        """The code that the model is to decode in, or "auto". Raises BadRequest for what the model cannot do."""
        assert self._model is not None
        tag = options.language or "en"
        code = languages.normalise(tag)
        if code is None:
            raise BadRequest(f'language "{tag}" is not one that Whisper knows: use a code such as en, zh or auto.')
        if options.detect_language:
            code = languages.AUTO
        if not self._model.multilingual and code not in ("en", languages.AUTO):
            raise BadRequest(
                f"language {code} ({languages.name(code)}) cannot be done by {self._info.model}, "
                "which knows English only: choose a multilingual model."
            )
        if code != languages.AUTO and code not in self._model.codes:
            raise BadRequest(f"language {code} ({languages.name(code)}) is not known to {self._info.model}.")
        return "en" if code == languages.AUTO and not self._model.multilingual else code
