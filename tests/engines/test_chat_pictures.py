"""Pictures of every size and number, and what may happen while one is looked at."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vlm_setup
from batch.errors import BadRequest, BatchError, Cancelled, ContextExceeded, TooLarge, UnsupportedMedia
from batch.media.decoder import process as decoder_process
from batch.queue.jobs import Priority
from batch.workers.chat.engine import VlmEngine
from batch.workers.chat.images import projector
from batch.workers.chat.images.vision import mtmd
from batch.workers.chat.step_runner import MAX_ABORTS
from batch.workers.llama.context import ABORTED, DECODED
from batch.workers.llama.library import lib
from hostile_media import progressive_jpeg
from vlm_setup import bulk_resources, chat, content, count_tokens, drawn, part, picture, rendered, run

ASK = {"type": "text", "text": "Describe this image."}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmEngine]:
    """Its projector stops as often as a large one does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projector, "SMALL_FILE_BYTES", 0)
        engine = vlm_setup.loaded(tmp_path_factory.mktemp("home"))
    bulk_resources(engine).encodes_ahead = False
    yield engine
    engine.close()


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (64, 64), (640, 480), (3000, 2000), (40, 4000), (4000, 40)], ids=str)
def test_a_picture_of_any_size_costs_70_to_1120_tokens(engine: VlmEngine, tmp_path: Path, size: tuple[int, int]) -> None:
    alone = count_tokens(engine, {"messages": [{"role": "user", "content": [ASK]}]})
    result = engine.run(chat(tmp_path, [drawn(tmp_path, *size), ASK], generation={"max_tokens": 30}))
    assert 40 <= result.usage.prompt_tokens - alone <= 1130


@pytest.mark.parametrize(
    "size", [(40_000, 100), (100, 60_000), (24_000, 250), (30_000, 1), (1, 30_000), (65_000, 1500)], ids=str
)
def test_a_picture_that_is_very_long_is_squeezed_and_harms_nobody(
    engine: VlmEngine, tmp_path: Path, size: tuple[int, int]
) -> None:
    """Beyond the projector's positions llama.cpp would end the process."""
    image = drawn(tmp_path, *size)
    alone = count_tokens(engine, {"messages": [{"role": "user", "content": [ASK]}]})
    result = engine.run(chat(tmp_path, [image, ASK], generation={"max_tokens": 3}))
    assert 40 <= result.usage.prompt_tokens - alone <= 1130
    assert content(engine.run(chat(tmp_path, [drawn(tmp_path, 256, 256), ASK], enable_thinking=False))) == "a red circle"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_a_picture_of_any_format_is_seen(engine: VlmEngine, tmp_path: Path, form: str) -> None:
    result = engine.run(chat(tmp_path, [drawn(tmp_path, 256, 256, form=form), ASK], enable_thinking=False))
    assert content(result) == "a red circle"


def test_several_pictures_are_read_as_llama_cpps_own_helper_reads_them(engine: VlmEngine, tmp_path: Path) -> None:
    """The tiny model was trained on one picture a chat, so what it says of two proves little: its logits do."""
    names = ("sample-red-circle.png", "sample-blue-triangle.png")
    parts = [picture(tmp_path, name) for name in names]
    messages = [
        {"role": "user", "content": [parts[0], ASK]},
        {"role": "assistant", "content": "a red circle"},
        {"role": "user", "content": [ASK, parts[1], parts[0]]},
    ]
    result = engine.run(chat(tmp_path, None, messages=messages, generation={"max_tokens": 1}))
    ours = engine._resources.context.logits().copy()
    text = rendered(engine, {"messages": messages}).removeprefix("<bos>")
    n, theirs = by_the_helper(engine, text, [names[0], names[1], names[0]])
    assert n == result.usage.prompt_tokens
    assert np.abs(ours - theirs).max() < 0.02
    assert ours.argmax() == theirs.argmax()


def by_the_helper(engine: VlmEngine, text: str, names: list[str]) -> tuple[int, np.ndarray[Any, Any]]:
    """Tokens and last logits of a prompt, by mtmd_tokenize and mtmd_helper_eval_chunks."""
    vision, context = engine._vision, engine._resources.context
    assert vision is not None
    bitmaps = (ctypes.c_void_p * len(names))()
    for i, name in enumerate(names):
        pixels = np.ascontiguousarray(np.asarray(Image.open(vlm_setup.DATA / name).convert("RGB")))
        data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmaps[i] = mtmd.mtmd_bitmap_init(pixels.shape[1], pixels.shape[0], data)
    chunks = mtmd.mtmd_input_chunks_init()
    data = text.encode()
    wanted = mtmd.mtmd_input_text(data, len(data), True, True)
    assert mtmd.mtmd_tokenize(vision.handle, chunks, ctypes.byref(wanted), bitmaps, len(names)) == 0
    last = engine._resources.context.sequences - 1
    engine._resources.cache._move_all_idle_out(None)
    end = ctypes.c_int32()
    assert mtmd.mtmd_helper_eval_chunks(vision.handle, context.handle, chunks, 0, last, 2048, True, ctypes.byref(end)) == 0
    logits = context.logits().copy()
    n = int(mtmd.mtmd_helper_get_n_tokens(chunks))
    context.forget(last)
    mtmd.mtmd_input_chunks_free(chunks)
    for bitmap in bitmaps:
        mtmd.mtmd_bitmap_free(bitmap)
    return n, logits


def test_pictures_in_another_order_share_no_prefix(engine: VlmEngine, tmp_path: Path) -> None:
    red, blue = picture(tmp_path), picture(tmp_path, "sample-blue-triangle.png")
    first = engine.run(chat(tmp_path, [red, blue, ASK], generation={"max_tokens": 5}))
    swapped = engine.run(chat(tmp_path, [blue, red, ASK], generation={"max_tokens": 5}))
    assert first.usage.prompt_tokens == swapped.usage.prompt_tokens
    assert swapped.usage.prompt_tokens_details.cached_tokens < 20


def test_a_picture_in_the_system_message_is_rendered_or_refused(engine: VlmEngine, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": [picture(tmp_path)]}, {"role": "user", "content": "What is it?"}]
    result = engine.run(chat(tmp_path, None, messages=messages, generation={"max_tokens": 5}))
    assert result.usage.prompt_tokens > 70


def test_bytes_that_are_no_picture_and_pictures_too_large_are_refused(engine: VlmEngine, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMedia):
        engine.run(chat(tmp_path, [part(tmp_path, b"not a picture at all"), ASK]))
    limited = vlm_setup.settings(tmp_path)
    small = VlmEngine(limited.model_copy(update={"limits": limited.limits.model_copy(update={"image_pixels": 1000})}))
    small.load(lambda _: None)
    try:
        with pytest.raises(TooLarge):
            small.run(chat(tmp_path, [picture(tmp_path), ASK]))
    finally:
        small.close()


def test_a_job_stopped_between_encoding_and_reading_a_picture_leaves_the_engine_well(engine: VlmEngine, tmp_path: Path) -> None:
    def cancel() -> None:
        raise Cancelled()

    image = drawn(tmp_path, 300, 300, "purple")
    for unit in (1, 2, 3):
        with pytest.raises(Cancelled):
            engine.run(chat(tmp_path, [image, ASK], at={unit: cancel}))
    assert content(engine.run(chat(tmp_path, [image, ASK], enable_thinking=False))) == "a purple circle"


def test_a_picture_that_takes_too_long_to_decode_ends_its_job_at_a_deadline_and_leaves_the_model_loaded(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """99 scans are no more than are taken, and each one goes over 99.8 million pixels."""
    slow, model = part(tmp_path, progressive_jpeg(9990, 9990, 99)), engine._model
    monkeypatch.setattr(decoder_process, "IMAGE_LIMIT_S", 1.0)
    with pytest.raises(BadRequest, match="takes longer to decode than 1 seconds"):
        engine.run(chat(tmp_path, [slow, ASK]))
    monkeypatch.undo()
    image = drawn(tmp_path, 330, 300, "red")
    assert content(engine.run(chat(tmp_path, [image, ASK], enable_thinking=False))) == "a red circle"
    assert engine._model is model is not None


def test_a_picture_that_ends_its_decoder_fails_its_job_alone(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "IMAGE_TICK_S", 0.1)
    slow = part(tmp_path, progressive_jpeg(9990, 9990, 99))
    decoder = engine._pictures._decoders._idle[0]

    def crash() -> None:
        assert decoder.pid is not None
        os.kill(decoder.pid, signal.SIGSEGV)

    with pytest.raises(UnsupportedMedia, match=r"ended the decoder \(SIGSEGV\)"):
        engine.run(chat(tmp_path, [slow, ASK], at={1: crash}))
    image = drawn(tmp_path, 345, 310, "blue")
    assert content(engine.run(chat(tmp_path, [image, ASK], enable_thinking=False))) == "a blue circle"


def test_while_a_slow_picture_is_decoded_others_pass_and_its_job_can_be_cancelled(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "IMAGE_TICK_S", 0.1)
    slow = part(tmp_path, progressive_jpeg(9990, 9990, 99))
    seen: list[str] = []

    def urgent() -> None:
        image = drawn(tmp_path, 340, 300, "green")
        seen.append(content(engine.run(chat(tmp_path, [image, ASK], enable_thinking=False))))

    def cancel() -> None:
        raise Cancelled()

    work = chat(tmp_path, [slow, ASK], priority=Priority.INBOX, at={1: urgent, 2: cancel})
    with pytest.raises(Cancelled):
        run(engine, work)
    assert seen == ["a green circle"]


def test_an_interrupt_while_a_picture_is_read_changes_nothing(engine: VlmEngine, tmp_path: Path) -> None:
    image = drawn(tmp_path, 320, 300, "green")
    work = chat(tmp_path, [image, ASK], enable_thinking=False, at=dict.fromkeys(range(1, 8), engine.interrupt))
    assert content(engine.run(work)) == "a green circle"


def test_urgent_pictures_between_a_bulk_jobs_pictures(engine: VlmEngine, tmp_path: Path) -> None:
    bulk = [drawn(tmp_path, 310, 300, "blue"), ASK]
    seen: list[str] = []

    def urgent() -> None:
        image = drawn(tmp_path, 300 + len(seen), 350, "orange")
        seen.append(content(engine.run(chat(tmp_path, [image, ASK], enable_thinking=False))))

    work = chat(tmp_path, bulk, enable_thinking=False, priority=Priority.INBOX, at=dict.fromkeys(range(1, 7), urgent))
    assert content(run(engine, work)) == "a blue circle"
    assert seen == ["an orange circle"] * 6


def embeddings(engine: VlmEngine) -> list[np.ndarray[Any, Any]]:
    """Of the pictures in the engine's cache, the newest last."""
    assert engine._vision is not None
    encodings = [chunk.encoding for image in engine._vision._images.images for chunk in image.chunks]
    return [one.embedding for one in encodings if one is not None and one.embedding is not None]


def test_a_picture_is_encoded_piece_by_piece_and_urgent_pictures_come_between(engine: VlmEngine, tmp_path: Path) -> None:
    """Its embeddings are the same to the last bit, whoever came between."""
    image = drawn(tmp_path, 394, 386, "blue")
    uncached: dict[str, Any] = {"cache_prompt": False}
    quiet = chat(tmp_path, [image, ASK], enable_thinking=False, priority=Priority.INBOX, generation=uncached)
    result = run(engine, quiet)
    assert content(result) == "a blue circle"
    alone = embeddings(engine)[-1]
    of_the_prompt = [done for done, total, _ in quiet.units if total == result.usage.prompt_tokens]
    assert len(of_the_prompt) > 12, "one yield point for each slice, and many for the picture"
    assert engine._vision is not None
    engine._vision._images.clear()
    seen: list[str] = []

    def urgent() -> None:
        parts = [drawn(tmp_path, 340 + len(seen), 350, "orange"), ASK]
        seen.append(content(run(engine, chat(tmp_path, parts, enable_thinking=False))))

    more: dict[str, Any] = {"generation": uncached, "at": {6: urgent, 9: urgent}}
    disturbed = chat(tmp_path, [image, ASK], enable_thinking=False, priority=Priority.INBOX, **more)
    assert content(run(engine, disturbed)) == "a blue circle"
    assert seen == ["an orange circle"] * 2
    assert any(np.array_equal(alone, other) for other in embeddings(engine))


def test_a_small_projector_stops_a_few_times_in_a_small_picture_and_its_embeddings_are_the_same(
    engine: VlmEngine, tmp_path: Path
) -> None:
    image = drawn(tmp_path, 396, 388, "blue")

    def units(engine: VlmEngine, part: dict[str, Any]) -> int:
        generation = {"max_tokens": 1, "cache_prompt": False}
        work = chat(tmp_path, [part, ASK], priority=Priority.INBOX, generation=generation)
        run(engine, work)
        return len(work.units)

    often = units(engine, image)
    small = vlm_setup.loaded(tmp_path)
    try:
        bulk_resources(small).encodes_ahead = False
        seldom, of_a_large = units(small, image), units(small, drawn(tmp_path, 3000, 2000))
        assert seldom < often - 8
        assert of_a_large > seldom + 8, "a picture of many tokens stops as often as with a large projector"
        assert any(np.array_equal(embeddings(engine)[-1], other) for other in embeddings(small))
    finally:
        small.close()


def test_a_job_cancelled_inside_its_pictures_encoding_ends_there(engine: VlmEngine, tmp_path: Path) -> None:
    def cancel() -> None:
        raise Cancelled()

    image = drawn(tmp_path, 350, 330, "purple")
    work = chat(tmp_path, [image, ASK], at={7: cancel})
    with pytest.raises(Cancelled):
        engine.run(work)
    assert len(work.units) == 7
    assert content(engine.run(chat(tmp_path, [image, ASK], enable_thinking=False))) == "a purple circle"


def test_a_picture_that_is_broken_off_again_and_again_is_read_at_last(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vision = engine._vision
    assert vision is not None
    decode, tries = vision.decode_chunk, []

    def interrupted(*given: Any) -> int:
        engine.interrupt()
        tries.append(decode(*given))
        return tries[-1]

    monkeypatch.setattr(vision, "decode_chunk", interrupted)
    image = drawn(tmp_path, 360, 330, "green")
    assert content(engine.run(chat(tmp_path, [image, ASK], enable_thinking=False))) == "a green circle"
    assert tries == [ABORTED] * MAX_ABORTS + [DECODED]


def test_a_picture_read_in_slices_is_the_picture_read_at_once(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As models do that attend to pictures as to text: not the tiny one, so what it says means nothing here."""
    vision = engine._vision
    assert vision is not None
    image = drawn(tmp_path, 370, 330, "green")

    def logits(*, is_sliced: bool, length: int = 50) -> np.ndarray[Any, Any]:
        monkeypatch.setattr(vision, "_can_slice", is_sliced)
        monkeypatch.setattr(vision, "slice_tokens", length)
        vision._images.clear()
        generation = {"max_tokens": 1, "cache_prompt": False}
        engine.run(chat(tmp_path, [image, ASK], generation=generation, at={30: engine.interrupt}))
        (read,) = vision._images.images
        assert len(read.chunks) == (-(-read.n_tokens // length) if is_sliced else 1)
        return engine._resources.context.logits().copy()

    in_both_directions, long = logits(is_sliced=False), logits(is_sliced=True)
    distance = np.abs(long - in_both_directions).max()
    for length in (16, 7):
        assert np.abs(logits(is_sliced=True, length=length) - long).max() < distance / 10


def test_rows_of_a_picture_go_in_as_llama_cpps_own_helper_puts_them_in(engine: VlmEngine, tmp_path: Path) -> None:
    vision, context = engine._vision, engine._resources.context
    assert vision is not None
    image = drawn(tmp_path, 380, 330, "green")
    engine.run(chat(tmp_path, [image, ASK], generation={"max_tokens": 1}))
    read = vision._images.use(image["blob"])
    assert read is not None
    (chunk,) = read.chunks
    assert chunk.encoding is not None and chunk.encoding.embedding is not None
    engine._resources.cache._move_all_idle_out(None)

    def logits_behind() -> np.ndarray[Any, Any]:
        assert context.decode_token(5, chunk.n_pos, 0) == DECODED
        logits = context.logits().copy()
        context.forget(0)
        return logits

    assert vision.decode_chunk(chunk, context, 0, 0) == DECODED
    theirs = logits_behind()
    lib.llama_set_causal_attn(context.handle, False)
    status = context.decode_embeddings([(chunk.encoding.embedding.reshape(chunk.n_tokens, -1), 0, 0)])
    lib.llama_set_causal_attn(context.handle, True)
    assert status == DECODED
    assert np.abs(logits_behind() - theirs).max() < 1e-4


def test_pictures_pushed_out_of_the_cache_are_encoded_again(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a job that shows several of them is under way."""
    assert engine._vision is not None
    monkeypatch.setattr(engine._vision._images, "_capacity_bytes", 1)
    parts: list[dict[str, Any]] = [drawn(tmp_path, 200 + i, 200, "black") for i in range(4)]
    engine.run(chat(tmp_path, [*parts, ASK], generation={"max_tokens": 3}))
    assert content(engine.run(chat(tmp_path, [parts[0], ASK], enable_thinking=False))) == "a black circle"


def test_a_picture_has_the_same_ids_after_it_was_pushed_out_and_no_other_has_them(engine: VlmEngine) -> None:
    vision = engine._vision
    assert vision is not None
    pixels = np.full((240, 320, 3), 200, np.uint8)

    def idents(name: str) -> list[int]:
        return [chunk.ident for chunk in vision.tokenize_image(name, lambda: pixels).chunks]

    first, other = idents("one"), idents("another")
    vision._images.clear()
    assert idents("one") == first and not set(first) & set(other) and max(first + other) < 0


def test_pictures_that_are_prepared_and_never_read_are_let_go(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as those of prompts that turn out to be too long."""
    vision = engine._vision
    assert vision is not None
    monkeypatch.setattr(vision._images, "_capacity_bytes", 1)
    for width in range(210, 214):
        parts = [drawn(tmp_path, width, 200, "black"), {"type": "text", "text": "word " * engine._resources.context.n_ctx}]
        with pytest.raises(ContextExceeded):
            engine.run(chat(tmp_path, parts))
    assert sum(not image.is_encoded for image in vision._images.images) == 1
    assert (
        content(engine.run(chat(tmp_path, [drawn(tmp_path, 210, 200, "black"), ASK], enable_thinking=False)))
        == "a black circle"
    )


def test_pictures_fill_a_small_context_by_moving_others_out(tmp_path: Path) -> None:
    engine = vlm_setup.loaded(tmp_path, context=1024)
    try:
        for _ in range(2):
            for colour in ("red", "blue", "green"):
                image = drawn(tmp_path, 900, 900, colour)
                result = engine.run(chat(tmp_path, [image, ASK], enable_thinking=False))
                assert content(result) == f"a {colour} circle"
        assert result.usage.prompt_tokens_details.cached_tokens > 300
    finally:
        engine.close()


def test_a_blob_that_is_gone_is_an_error_and_not_a_crash(engine: VlmEngine, tmp_path: Path) -> None:
    with pytest.raises((BatchError, OSError)):
        engine.run(chat(tmp_path, [{"type": "image", "blob": "0" * 64}, ASK]))
