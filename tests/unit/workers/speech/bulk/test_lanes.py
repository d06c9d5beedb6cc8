"""batch/workers/speech/bulk: who computes with how many threads, and who rests; what a lane hears is played."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from batch.payloads.speech import TranscriptionOptions, TranscriptionPayload, TranscriptionResult
from batch.queue.jobs import Kind, Priority
from batch.workers.engine import OwnWork
from batch.workers.speech.bulk.lanes import Lanes
from batch.workers.speech.bulk.models import ModelCopies
from batch.workers.speech.whisper.model import Aborted, WhisperModel
from batch.workers.stopping import Stopping
from scripted_work import ScriptedWork

pytestmark = pytest.mark.timeout(30)

THREADS = 4
WAIT_S = 10.0


class Copies:
    """Models that are only told apart."""

    def __init__(self, width: int) -> None:
        self.width = width

    def model(self, number: int) -> WhisperModel:
        return cast(WhisperModel, number)


class Stage:
    """Chunks that last as long as a test wants. `computing` tells the threads of each job's native call in flight."""

    def __init__(self, chunks: int = 3) -> None:
        self.computing: dict[str, int] = {}
        self.most = 0
        self.broken_off: list[str] = []
        self.during: Callable[[str], object] = lambda job: None
        """Called within each native call."""
        self._chunks = chunks
        self._lock = threading.Lock()

    def transcribe(self, work: OwnWork, model: WhisperModel, stop: threading.Event) -> TranscriptionResult:
        chunk = 0
        while chunk < self._chunks:
            stop.clear()
            threads = work.yield_point(float(chunk), float(self._chunks), "seconds")
            try:
                self._compute(work.job.id, threads, stop)
            except Aborted:
                self.broken_off.append(work.job.id)
                continue
            chunk += 1
        return TranscriptionResult(text=str(model), language="en", language_name="english", duration=1.0, segments=[], ms=0.0)

    def _compute(self, job: str, threads: int, stop: threading.Event) -> None:
        with self._lock:
            self.computing[job] = threads
            self.most = max(self.most, sum(self.computing.values()))
        try:
            self.during(job)
            if stop.wait(0.01):
                raise Aborted
        finally:
            with self._lock:
                del self.computing[job]


def job(folder: Path, **more: Any) -> ScriptedWork:
    payload = TranscriptionPayload(blob="x", options=TranscriptionOptions())
    return ScriptedWork(folder, Kind.STT, "transcribe", payload, threads=THREADS, priority=Priority.BATCH, **more)


def lanes_of(stage: Stage, lead: ScriptedWork, width: int = 2) -> Lanes:
    return Lanes(cast(ModelCopies, Copies(width)), stage.transcribe, lead)


def test_jobs_beside_each_other_never_have_more_threads_than_there_are(tmp_path: Path) -> None:
    stage, mates = Stage(chunks=8), [job(tmp_path) for _ in range(5)]
    lead = job(tmp_path, mates=mates)
    lanes_of(stage, lead).run()
    assert stage.most == THREADS
    assert {work.result.text for work in (lead, *mates)} == {"0", "1"}, "each lane has a model of its own"


def test_a_job_by_itself_has_all_threads_and_shares_them_when_another_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.workers.speech.bulk.lanes.CLAIM_INTERVAL_S", 0.001)
    stage, second = Stage(chunks=4), job(tmp_path)
    lead = job(tmp_path)
    shares: list[int] = []

    def during(name: str) -> None:
        if name == lead.job.id:
            shares.append(stage.computing[name])
            lead.waiting = [second] if len(shares) == 2 else lead.waiting

    stage.during = during
    lanes_of(stage, lead).run()
    assert shares[0] == THREADS and second.result is not None and stage.most <= THREADS


def test_with_one_thread_two_jobs_take_turns(tmp_path: Path) -> None:
    stage, second = Stage(chunks=4), job(tmp_path)
    lead = job(tmp_path, mates=[second])
    lead.threads = second.threads = 1
    lanes_of(stage, lead).run()
    assert stage.most == 1 and lead.result is not None and second.result is not None


def test_a_more_urgent_job_begins_once_no_lane_computes_any_more(tmp_path: Path) -> None:
    stage = Stage(chunks=6)
    second = job(tmp_path)
    computing: list[dict[str, int]] = []

    def more_urgent() -> None:
        with run.inner_job() as model:
            assert cast(int, model) in (0, 1)
            computing.append(dict(stage.computing))

    is_inside = threading.Event()

    def during(name: str) -> None:
        if name == second.job.id:
            is_inside.set()
        elif len(lead.units) == 2:
            assert is_inside.wait(WAIT_S), "both compute when the first comes to its next yield point"

    stage.during = during
    lead = job(tmp_path, at={3: more_urgent}, mates=[second])
    run = lanes_of(stage, lead)
    run.run()
    assert computing == [{}]
    assert lead.result is not None and second.result is not None


def test_a_stop_leaves_no_lane_behind_and_ends_no_job(tmp_path: Path) -> None:
    def stop() -> None:
        raise Stopping

    stage, second = Stage(chunks=1000), job(tmp_path)
    lead = job(tmp_path, at={5: stop}, mates=[second])
    with pytest.raises(Stopping):
        lanes_of(stage, lead).run()
    assert not stage.computing and not [t for t in threading.enumerate() if t.name == "lane" and t.is_alive()]
    assert all(work.result is None and work.error is None for work in (lead, second))


def test_a_client_whose_job_was_claimed_with_bulk_jobs_goes_first(tmp_path: Path) -> None:
    stage = Stage()
    order: list[str] = []
    stage.during = order.append
    urgent = job(tmp_path)
    urgent.job = replace(urgent.job, priority=Priority.INTERACTIVE)
    lead = job(tmp_path, mates=[urgent])
    lanes_of(stage, lead).run()
    first = order.index(urgent.job.id)
    assert order[first : first + 3] == [urgent.job.id] * 3, "nobody computed in between"
    assert urgent.result is not None and lead.result is not None
