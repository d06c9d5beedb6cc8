"""Pictures of bulk jobs are encoded on one of the cores that decodes have else, where a model is small."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlm_setup
from batch.queue.jobs import Priority
from batch.workers.chat import engine as engine_module
from batch.workers.chat.engine import VlmEngine
from batch.workers.chat.images.image_chunk import ImageChunk
from batch.workers.llama.openmp import can_limit_cores, limit_to_one_core
from scripted_work import ScriptedWork
from vlm_setup import bulk, bulk_resources, drawn, together, written

pytestmark = pytest.mark.skipif(not can_limit_cores(), reason="llama.cpp was built without OpenMP")
DEADLINE_S = 60.0
THREADS = 2
ASK = {"type": "text", "text": "Describe this image."}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "has_cores_to_prepare", lambda threads: False)
        engine = vlm_setup.loaded(tmp_path_factory.mktemp("home"), parallel=4, threads=THREADS)
    yield engine
    engine.close()


def with_threads(work: ScriptedWork) -> ScriptedWork:
    work.threads = THREADS
    return work


def caption(folder: Path, number: int) -> ScriptedWork:
    return with_threads(
        bulk(folder, [drawn(folder, 250 + number, 260, ("red", "blue")[number % 2]), ASK], enable_thinking=False)
    )


def test_captions_are_the_same_as_where_each_picture_is_encoded_between_the_steps(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources, vision = bulk_resources(engine), engine._vision
    assert vision is not None and resources.encodes_ahead and resources.shares_cores

    def captions() -> tuple[list[Any], dict[str, Any]]:
        vision._images.clear()
        works = together(engine, [caption(tmp_path, number) for number in range(11)])
        assert [work.error for work in works] == [None] * len(works)
        embeddings = {sha256: image.chunks[0].rows for sha256, image in vision._images.items()}
        return [written(work.result) for work in works], embeddings

    threads: set[int] = set()
    encode = vision.encode_chunk

    def note(chunk: ImageChunk, yield_point: Callable[[], None]) -> None:
        threads.add(threading.get_ident())
        encode(chunk, yield_point)

    monkeypatch.setattr(vision, "encode_chunk", note)
    ahead, rows_ahead = captions()
    assert len(threads) == 1 and threading.get_ident() not in threads
    monkeypatch.setattr(resources, "encodes_ahead", False)
    between, rows_between = captions()
    assert ahead == between
    assert rows_ahead.keys() == rows_between.keys() and len(rows_ahead) == 11
    assert all(np.array_equal(rows_ahead[sha256], rows_between[sha256]) for sha256 in rows_ahead), "to the last bit"


def test_a_decode_leaves_one_thread_to_a_picture_that_is_encoded_and_has_all_afterwards(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vision, context = engine._vision, bulk_resources(engine).context
    assert vision is not None
    encode, decode = vision.encode_chunk, context.decode_parts
    has_begun, may_end = threading.Event(), threading.Event()
    beside: list[int] = []
    afterwards: list[int] = []

    def held(chunk: ImageChunk, yield_point: Callable[[], None]) -> None:
        has_begun.set()
        assert may_end.wait(DEADLINE_S)
        encode(chunk, yield_point)

    def note(parts: Sequence[Any]) -> int:
        if has_begun.is_set():
            (afterwards if may_end.is_set() else beside).append(context.threads)
            if len(beside) == 5:
                may_end.set()
        return decode(parts)

    monkeypatch.setattr(vision, "encode_chunk", held)
    monkeypatch.setattr(context, "decode_parts", note)
    begin = {10: lambda: has_begun.wait(DEADLINE_S)}
    stories = [
        bulk(tmp_path, f"{number} ping", generation={"ignore_eos": True, "max_tokens": 120}, at=begin if not number else None)
        for number in range(2)
    ]
    together(engine, [*map(with_threads, stories), caption(tmp_path, 20)])
    assert beside[1:] == [THREADS - 1] * 4, "the first may have been about to begin"
    assert afterwards[-1] == THREADS


def test_a_large_job_that_runs_inside_others_has_all_cores_and_their_pictures_wait(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = engine._scheduler
    assert scheduler is not None
    monkeypatch.setattr(engine, "fits_bulk", lambda task: len(task.prompt) < 400)
    held_up: list[bool] = []
    large = with_threads(bulk(tmp_path, "red " * 500, priority=Priority.BATCH, generation={"max_tokens": 3}))
    large.at = dict.fromkeys(range(3, 6), lambda: held_up.append(not scheduler.preparations._may_go_on))
    story = with_threads(bulk(tmp_path, "ping", generation={"ignore_eos": True, "max_tokens": 40}))
    story.at = {10: lambda: together(engine, [large])}
    works = [story, *(caption(tmp_path, 30 + number) for number in range(5))]
    together(engine, works)
    assert [work.error for work in (large, *works)] == [None] * 7 and all(work.result for work in (large, *works))
    assert held_up == [True] * 3


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system lists no threads there")
def test_what_a_thread_with_one_core_computes_starts_no_other_threads(engine: VlmEngine, tmp_path: Path) -> None:
    vision = engine._vision
    assert vision is not None
    pixels = np.full((240, 320, 3), 200, np.uint8)
    started: dict[bool, int] = {}

    def encode(is_limited: bool) -> None:
        limit_to_one_core(is_limited)
        image = vision.tokenize_image(f"limited {is_limited}", lambda: pixels)
        before = len(os.listdir("/proc/self/task"))
        vision.encode_chunk(image.chunks[0], lambda: None)
        started[is_limited] = len(os.listdir("/proc/self/task")) - before

    for is_limited in (True, False):
        thread = threading.Thread(target=encode, args=(is_limited,))
        thread.start()
        thread.join()
    assert started == {True: 0, False: THREADS - 1}
