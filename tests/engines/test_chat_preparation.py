"""Pictures of bulk jobs are encoded in a thread while other jobs go on, and nothing else is different."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlm_setup
from batch.errors import BatchError, Cancelled, UnsupportedMedia
from batch.queue.jobs import Priority
from batch.workers.chat.bulk.claimed_jobs import PICTURES_AHEAD
from batch.workers.chat.engine import VlmEngine
from batch.workers.chat.images.image_chunk import ImageChunk
from batch.workers.chat.images.vision import Vision
from batch.workers.llama.context import ABORTED, DECODED
from batch.workers.stopping import Stopping
from scripted_work import ScriptedWork
from vlm_setup import bulk, bulk_resources, chat, content, drawn, part, run, together, written

ASK = {"type": "text", "text": "Describe this image."}
DEADLINE_S = 60.0
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmEngine]:
    engine = vlm_setup.loaded(tmp_path_factory.mktemp("home"), parallel=2)
    bulk_resources(engine).encodes_ahead = True
    yield engine
    engine.close()


@pytest.fixture
def vision(engine: VlmEngine) -> Vision:
    """With no picture in its cache."""
    assert engine._vision is not None
    engine._vision._images.clear()
    return engine._vision


class HeldEncoding:
    """Holds up the encoding of pictures in any thread but this one, from their first node on, until `release`."""

    def __init__(self, vision: Vision, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_begun = threading.Event()
        self.has_ended = threading.Event()
        """One was encoded, or left."""
        self.nodes = 0
        """Yield points that were passed in that thread."""
        self._may_go_on = threading.Event()
        self._here = threading.get_ident()
        self._encode = vision.encode_chunk
        monkeypatch.setattr(vision, "encode_chunk", self._encode_held)

    def release(self) -> None:
        self._may_go_on.set()

    def _encode_held(self, chunk: ImageChunk, yield_point: Callable[[], None]) -> None:
        if threading.get_ident() == self._here:
            return self._encode(chunk, yield_point)

        def held() -> None:
            self.nodes += 1
            self.has_begun.set()
            deadline = time.monotonic() + DEADLINE_S
            while not self._may_go_on.wait(0.001) and time.monotonic() < deadline:
                yield_point()
            yield_point()

        try:
            self._encode(chunk, held)
        finally:
            self.has_ended.set()


def caption(folder: Path, number: int, **more: Any) -> ScriptedWork:
    parts = [drawn(folder, 250 + number, 260, COLOURS[number % len(COLOURS)]), ASK]
    return bulk(folder, parts, enable_thinking=False, **more)


def story(folder: Path, tokens: int, **more: Any) -> ScriptedWork:
    return bulk(folder, "Tell me a story.", generation={"ignore_eos": True, "max_tokens": tokens}, **more)


def embeddings(vision: Vision) -> dict[str, np.ndarray[Any, Any]]:
    """Of the pictures in the cache, by their sha256."""
    return {
        image.sha256: np.concatenate(
            [c.encoding.embedding for c in image.chunks if c.encoding and c.encoding.embedding is not None]
        )
        for image in vision._images.images
    }


@pytest.mark.parametrize("is_as_on_a_gpu", [False, True], ids=["cpu", "as on a GPU"])
def test_jobs_write_the_same_as_where_each_picture_is_encoded_between_their_steps(
    engine: VlmEngine, vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_as_on_a_gpu: bool
) -> None:
    def works() -> list[ScriptedWork]:
        shown = [caption(tmp_path, number) for number in range(7)]
        two = bulk(tmp_path, [drawn(tmp_path, 270, 280, "red"), drawn(tmp_path, 290, 280, "blue"), ASK])
        return [*shown[:3], story(tmp_path, 30), two, *shown[3:], caption(tmp_path, 0, n=2)]

    monkeypatch.setattr(bulk_resources(engine), "encodes_ahead", False)
    expected, between = [written(work.result) for work in together(engine, works())], embeddings(vision)
    monkeypatch.undo()
    vision._images.clear()
    encoded, threads = vision.encoded_chunks, set[int]()
    encode = vision.encode_chunk

    def note(*given: Any) -> None:
        threads.add(threading.get_ident())
        encode(*given)

    monkeypatch.setattr(vision, "encode_chunk", note)
    if is_as_on_a_gpu:
        monkeypatch.setattr(bulk_resources(engine), "decodes_ahead", True)
        monkeypatch.setattr(bulk_resources(engine), "joint_prompt_tokens", 2048)
        monkeypatch.setattr(bulk_resources(engine), "joint_picture_tokens", 2048)
    assert [written(work.result) for work in together(engine, works())] == expected
    ahead = embeddings(vision)
    assert ahead.keys() == between.keys() and len(ahead) == 9
    assert all(np.array_equal(ahead[sha256], between[sha256]) for sha256 in ahead), "the same to the last bit"
    assert vision.encoded_chunks == encoded + 9, "each once"
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_jobs_go_on_while_a_picture_is_encoded_and_few_are_claimed_ahead(
    engine: VlmEngine, vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldEncoding(vision, monkeypatch)
    begin = {10: lambda: held.has_begun.wait(DEADLINE_S)}
    works = [story(tmp_path, 40, at=begin), *(caption(tmp_path, number) for number in range(8)), story(tmp_path, 5)]
    waiting: list[int] = []
    finish = works[0].finish

    def finish_story(result: Any) -> None:
        assert held.has_begun.is_set() and not held.has_ended.is_set(), "30 tokens came beside the picture"
        waiting.append(len(works[0].waiting))
        held.release()
        finish(result)

    works[0].finish = finish_story  # type: ignore[method-assign]
    together(engine, works)
    assert waiting == [len(works) - 1 - (2 - 1) - PICTURES_AHEAD]
    assert [content(work.result) for work in works[1:4]] == ["a red circle", "a blue circle", "a green circle"]


def test_a_broken_picture_ends_its_job_alone_with_the_sentence_that_it_has_everywhere(
    engine: VlmEngine, vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def works() -> list[ScriptedWork]:
        broken = [part(tmp_path, b"not a picture at all"), ASK]
        gone = [{"type": "image", "blob": "0" * 64}, ASK]
        return [caption(tmp_path, 0), bulk(tmp_path, broken), bulk(tmp_path, gone), caption(tmp_path, 1)]

    monkeypatch.setattr(bulk_resources(engine), "encodes_ahead", False)
    expected = [str(work.error) for work in together(engine, works())]
    monkeypatch.undo()
    done = together(engine, works())
    assert [str(work.error) for work in done] == expected
    assert isinstance(done[1].error, UnsupportedMedia) and done[2].error is not None
    assert [content(done[i].result) for i in (0, 3)] == ["a red circle", "a blue circle"]


def test_a_fault_of_the_projector_ends_the_job_alone(
    engine: VlmEngine, vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = vision.encode_chunk, []

    def fail_second(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise BatchError("The image could not be encoded (staged).")
        encode(*given)

    monkeypatch.setattr(vision, "encode_chunk", fail_second)
    works = together(engine, [caption(tmp_path, number) for number in range(4)])
    assert [str(work.error) for work in works if work.error] == ["The image could not be encoded (staged)."]
    assert sum(work.result is not None for work in works) == 3


def test_a_job_cancelled_while_its_picture_is_encoded_leaves_the_thread_to_the_next(
    engine: VlmEngine, vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldEncoding(vision, monkeypatch)

    def cancel() -> None:
        assert held.has_begun.wait(DEADLINE_S)
        held._may_go_on.set()
        raise Cancelled()

    works = [caption(tmp_path, 0, at={2: cancel}), caption(tmp_path, 1), story(tmp_path, 10), caption(tmp_path, 2)]
    together(engine, works)
    assert isinstance(works[0].error, Cancelled) and works[0].result is None and len(works[0].units) == 2
    assert [content(works[i].result) for i in (1, 3)] == ["a blue circle", "a green circle"]
    assert not engine._scheduler.preparations._waiting  # type: ignore[union-attr]


def test_a_clients_request_with_a_picture_is_answered_while_one_is_encoded_which_waits(
    engine: VlmEngine, vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldEncoding(vision, monkeypatch)
    answers: list[str] = []

    def urgent() -> None:
        assert held.has_begun.wait(DEADLINE_S)
        held.release()

        def look() -> None:
            passed.append(held.nodes)

        passed: list[int] = []
        parts = [drawn(tmp_path, 340, 350, "orange"), ASK]
        answers.append(content(run(engine, chat(tmp_path, parts, enable_thinking=False, at=dict.fromkeys((3, 9), look)))))
        assert passed[0] <= passed[1] <= passed[0] + 1, "no more than the nodes that were under way"

    works = together(engine, [caption(tmp_path, 0, at={2: urgent}), caption(tmp_path, 1), story(tmp_path, 10)])
    assert [work.error for work in works] == [None] * 3
    assert answers == ["an orange circle"]
    assert [content(work.result) for work in works[:2]] == ["a red circle", "a blue circle"]


def test_where_a_picture_takes_milliseconds_a_clients_picture_waits_for_the_projector_and_no_other_is_loaded(
    engine: VlmEngine, vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, whose pictures are encoded in one piece."""
    projector = vision._projectors[0]
    monkeypatch.setattr(vision, "_can_wait", True)
    monkeypatch.setattr(vision, "_projectors", [projector])
    has_begun, is_client_here = threading.Event(), threading.Event()
    encode, here, answers = projector.encode, threading.get_ident(), list[str]()

    def encode_in_one_piece(encoding: Any, width: int, _: Any) -> Any:
        if threading.get_ident() != here:
            has_begun.set()
            assert is_client_here.wait(DEADLINE_S)
        return encode(encoding, width, lambda: None)

    def urgent() -> None:
        assert has_begun.wait(DEADLINE_S)
        is_client_here.set()
        parts = [drawn(tmp_path, 345, 350, "orange"), ASK]
        answers.append(content(run(engine, chat(tmp_path, parts, enable_thinking=False))))

    monkeypatch.setattr(projector, "encode", encode_in_one_piece)
    works = together(engine, [caption(tmp_path, 0, at={2: urgent}), caption(tmp_path, 1)])
    assert answers == ["an orange circle"] and len(vision._projectors) == 1
    assert [content(work.result) for work in works] == ["a red circle", "a blue circle"]


def test_captions_of_a_higher_priority_go_first_in_the_thread(engine: VlmEngine, vision: Vision, tmp_path: Path) -> None:
    ended: list[str] = []

    def note(works: list[ScriptedWork], name: str) -> list[ScriptedWork]:
        for work in works:

            def finish(result: Any, work: ScriptedWork = work) -> None:
                ended.append(name)
                work.result = result

            work.finish = finish  # type: ignore[method-assign]
        return works

    def batch_lines() -> None:
        together(engine, note([caption(tmp_path, 20 + number, priority=Priority.BATCH) for number in range(3)], "batch"))

    works = note([caption(tmp_path, number) for number in range(4)], "inbox")
    works[0].at = {1: batch_lines}
    together(engine, works)
    assert ended == ["batch"] * 3 + ["inbox"] * 4
    assert all(content(work.result).startswith("a ") for work in works)


def test_a_worker_that_stops_in_the_middle_of_a_picture_ends_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = vlm_setup.loaded(tmp_path, parallel=2)
    bulk_resources(engine).encodes_ahead = True
    assert engine._vision is not None
    held = HeldEncoding(engine._vision, monkeypatch)

    def stop() -> None:
        assert held.has_begun.wait(DEADLINE_S)
        raise Stopping()

    work = caption(tmp_path, 0, at={2: stop})
    work.waiting = [caption(tmp_path, 1), caption(tmp_path, 2)]
    with pytest.raises(Stopping):
        engine.run(work)
    assert held.has_ended.wait(DEADLINE_S), "the encoding is left at its next node"
    scheduler = engine._scheduler
    assert scheduler is not None
    thread = scheduler.preparations._thread
    assert thread is not None and thread.is_alive()
    engine.close()
    assert not thread.is_alive()
    engine.close()


@pytest.mark.parametrize("is_interrupted", [False, True], ids=["undisturbed", "interrupted"])
def test_pictures_that_are_ready_go_into_the_kv_in_one_decode_where_the_model_attends_to_them_as_to_text(
    engine: VlmEngine, vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_interrupted: bool
) -> None:
    """As on a GPU with a model that does: not the tiny one, so what it says means nothing, but it stays what it is."""
    resources, context = bulk_resources(engine), bulk_resources(engine).context
    monkeypatch.setattr(vision, "_can_slice", True)

    def works() -> list[ScriptedWork]:
        uncached = {"cache_prompt": False, "max_tokens": 6, "ignore_eos": True}
        return [caption(tmp_path, number, generation=uncached) for number in range(4)]

    expected = [written(work.result) for work in together(engine, works())]  # one by one, as each comes from the thread
    parts: list[tuple[int, int]] = []
    decode = context.decode_embeddings

    def note(given: Any) -> int:
        if is_interrupted and len(given) > 1 and all(count == 1 for count, _ in parts):
            engine.interrupt()
        parts.append((len(given), decode(given)))
        return parts[-1][1]

    monkeypatch.setattr(context, "decode_embeddings", note)
    monkeypatch.setattr(resources, "joint_prompt_tokens", 2048)
    monkeypatch.setattr(resources, "joint_picture_tokens", 2048)
    monkeypatch.setattr(resources, "encodes_ahead", False)  # from the thread they might come one by one
    done = together(engine, works())  # the embeddings are cached, so that two are there at once
    assert [work.error for work in done] == [None] * 4
    assert [written(work.result) for work in done] == expected
    assert parts[0] == (2, ABORTED if is_interrupted else DECODED)
    cache = resources.cache
    assert not any(slot.is_busy or slot.parked is not None for slot in cache._slots)


def test_rows_of_two_pictures_in_one_decode_are_those_of_two(engine: VlmEngine, vision: Vision, tmp_path: Path) -> None:
    together(engine, [caption(tmp_path, number) for number in range(2)])
    context = bulk_resources(engine).context
    pictures = [chunk.rows for image in vision._images.images for chunk in image.chunks]
    sequences = [context.sequences - 2, context.sequences - 1]

    def logits() -> list[np.ndarray[Any, Any]]:
        behind = []
        for seq, rows in zip(sequences, pictures, strict=True):
            assert context.decode_token(5, len(rows), seq) == DECODED
            behind.append(context.logits().copy())
            context.forget(seq)
        return behind

    bulk_resources(engine).cache._move_all_idle_out(None)
    for seq, rows in zip(sequences, pictures, strict=True):
        assert context.decode_embeddings([(rows, 0, seq)]) == DECODED
    alone = logits()
    assert context.decode_embeddings([(rows, 0, seq) for seq, rows in zip(sequences, pictures, strict=True)]) == DECODED
    shared = logits()
    assert max(np.abs(a - b).max() for a, b in zip(alone, shared, strict=True)) < 1e-3
    assert np.abs(alone[0] - alone[1]).max() > 0.1, "two pictures, not the same twice"
