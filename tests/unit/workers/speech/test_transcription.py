"""batch/workers/speech/transcription: what a restart of a long recording takes up."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from batch.payloads.speech import TranscriptionPayload
from batch.queue.jobs import Kind
from batch.workers.speech.transcription import Transcription
from batch.workers.speech.voice_activity import EnergyDetector
from batch.workers.speech.whisper.decoding import Decoding
from batch.workers.speech.whisper.model import WhisperModel
from scripted_work import ScriptedWork


def test_a_restart_hears_what_follows_a_doubtful_chunk_in_the_windows_that_it_would_have_been_heard_in(tmp_path: Path) -> None:
    payload = TranscriptionPayload(blob="0" * 64, filename="sound.wav")
    work = ScriptedWork(tmp_path, Kind.STT, "transcribe", payload)
    model = cast("WhisperModel", SimpleNamespace(codes=("en",)))

    def transcription() -> Transcription:
        return Transcription(model, work, payload, Decoding(), threading.Event(), EnergyDetector, None)

    before = transcription()
    before._contexts.whole_windows = 3
    before._save([])
    after = transcription()
    after.resume()
    assert after._contexts.whole_windows == 3
