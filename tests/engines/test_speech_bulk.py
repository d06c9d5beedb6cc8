"""Sound files heard beside each other, with a real Whisper model: each as it would be alone, whatever happens to the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch.errors import BadRequest, BatchError, Cancelled, ModelProblem
from batch.media.sound.samples import SAMPLE_RATE as RATE
from batch.queue.jobs import Priority
from batch.workers.speech.bulk.models import ModelCopies
from batch.workers.speech.engine import SpeechEngine
from batch.workers.stopping import Stopping
from scripted_work import ScriptedWork
from sounds import JFK_SAYS, jfk, silence
from speech_setup import TINY_EN, loaded, spoken, transcribe, word_errors, work

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def engine() -> Iterator[SpeechEngine]:
    engine = loaded(TINY_EN, parallel=2)
    yield engine
    engine.close()


def long_sound() -> Any:
    return np.concatenate([jfk(), silence(20), jfk(), silence(25), jfk()])


def bulk(folder: Path, sound: Any, **more: Any) -> ScriptedWork:
    return work(folder, sound, priority=Priority.BATCH, threads=2, **more)


def text_of(job: ScriptedWork) -> list[str]:
    assert job.error is None, job.error
    return spoken(job.result.text)


def lanes() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lane"]


def test_two_files_are_heard_beside_each_other_and_each_as_if_it_were_alone(engine: SpeechEngine, tmp_path: Path) -> None:
    order: list[str] = []
    both: list[ScriptedWork] = []
    for name in ("first", "second"):
        at = {number: lambda name=name: order.append(name) for number in range(1, 100)}
        both.append(bulk(tmp_path, long_sound(), at=at))
    first, second = both
    first.waiting = [second]
    assert engine.run(first) is None, "the engine has ended them itself"
    alone = transcribe(engine, work(tmp_path, long_sound()))
    for job in both:
        assert word_errors(job.result.text, alone.text) < 0.05 and len(job.saved) == 3
        assert job.result.duration == alone.duration
    assert order.index("second") < len(order) - 1 - order[::-1].index("first"), "the second began before the first had ended"
    assert not lanes()


def test_more_files_than_may_be_heard_at_once_take_turns(engine: SpeechEngine, tmp_path: Path) -> None:
    mates = [bulk(tmp_path, jfk()) for _ in range(3)]
    lead = bulk(tmp_path, jfk(), mates=mates)
    engine.run(lead)
    for job in (lead, *mates):
        assert word_errors(job.result.text, JFK_SAYS) < 0.1
    assert not lead.waiting


def test_a_request_runs_inside_a_lane_and_changes_no_file(engine: SpeechEngine, tmp_path: Path) -> None:
    answers: list[Any] = []

    def ask() -> None:
        answers.append(transcribe(engine, work(tmp_path, jfk()[: 4 * RATE], prompt="Bananas!", max_len=9)))

    second = bulk(tmp_path, long_sound(), at={2: ask})
    first = bulk(tmp_path, long_sound(), at={1: ask, 3: ask}, mates=[second])
    engine.run(first)
    alone = transcribe(engine, work(tmp_path, long_sound()))
    assert len(answers) == 3 and answers[0].segments == answers[1].segments == answers[2].segments != []
    assert all(word_errors(job.result.text, alone.text) < 0.05 for job in (first, second))


@pytest.mark.parametrize("number", [0, 1], ids=["the first", "the second"])
def test_a_cancelled_file_leaves_the_other_to_its_end(engine: SpeechEngine, tmp_path: Path, number: int) -> None:
    def cancel() -> None:
        raise Cancelled

    scripts: list[dict[int, Any]] = [{}, {}]
    scripts[number] = {2: cancel}
    second = bulk(tmp_path, long_sound(), at=scripts[1])
    first = bulk(tmp_path, long_sound(), at=scripts[0], mates=[second])
    engine.run(first)
    jobs = (first, second)
    assert isinstance(jobs[number].error, Cancelled) and jobs[number].result is None
    assert word_errors(jobs[1 - number].result.text, " ".join([JFK_SAYS] * 3)) < 0.05


def test_a_file_that_is_no_sound_fails_alone(engine: SpeechEngine, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("Dear Sir, this is no sound at all." * 100)
    second = bulk(tmp_path, tmp_path / "letter", filename="letter.wav")
    first = bulk(tmp_path, jfk(), mates=[second])
    engine.run(first)
    assert isinstance(second.error, BatchError) and "letter.wav" in str(second.error)
    assert word_errors(first.result.text, JFK_SAYS) < 0.1


def test_a_stop_ends_all_lanes_at_once_and_no_job(engine: SpeechEngine, tmp_path: Path) -> None:
    def stop() -> None:
        raise Stopping

    second = bulk(tmp_path, long_sound())
    first = bulk(tmp_path, long_sound(), at={3: stop}, mates=[second])
    with pytest.raises(Stopping):
        engine.run(first)
    assert not lanes()
    assert all(job.result is None and job.error is None for job in (first, second)), "the worker puts them back"
    assert word_errors(transcribe(engine, work(tmp_path, jfk())).text, JFK_SAYS) < 0.1


def test_an_interrupt_lets_both_files_hear_their_chunk_again(engine: SpeechEngine, tmp_path: Path) -> None:
    second = bulk(tmp_path, jfk())
    first = bulk(tmp_path, jfk(), mates=[second])
    timer = threading.Timer(0.7, engine.interrupt)
    timer.start()
    engine.run(first)
    timer.join()
    assert all(word_errors(job.result.text, JFK_SAYS) < 0.1 for job in (first, second))


def test_where_a_copy_of_the_model_finds_no_memory_files_are_heard_one_after_the_other(
    engine: SpeechEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(copies: ModelCopies, number: int) -> Any:
        if number > 0:
            raise ModelProblem("There is no memory for it.")
        return copies._models[0]

    monkeypatch.setattr(ModelCopies, "model", no_memory)
    second = bulk(tmp_path, jfk())
    first = bulk(tmp_path, jfk(), mates=[second])
    copies = engine._copies
    assert copies is not None
    engine.run(first)
    assert second.returned == 1 and second.result is None and "fellow" in text_of(first)
    assert copies.width == 1
    copies.width = 2


def test_a_copy_needs_twice_its_memory_free(monkeypatch: pytest.MonkeyPatch, engine: SpeechEngine) -> None:
    from batch.memory.machine import MachineMemory

    size = TINY_EN.stat().st_size
    copies = ModelCopies(engine._model, engine._copies._entry, engine._settings.stt, on_gpu=False)  # type: ignore[arg-type, union-attr]
    monkeypatch.setattr("batch.workers.speech.bulk.models.machine_memory", lambda: MachineMemory(8 << 30, 2 * size))
    with pytest.raises(ModelProblem, match=r"another copy of ggml-tiny\.en needs about 0\.1 GB"):
        copies.model(1)


def test_a_job_is_refused_in_its_lane_as_it_is_alone(engine: SpeechEngine, tmp_path: Path) -> None:
    job = bulk(tmp_path, jfk(), language="de")
    engine.run(job)
    assert isinstance(job.error, BadRequest) and "English only" in str(job.error)
