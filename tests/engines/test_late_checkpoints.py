"""What a first token does not wait for: checkpoints of sliding windows, and the copy of the conversation before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vlm_setup
from batch.workers.chat.engine import VlmEngine
from batch.workers.chat.kv.checkpoint_writer import CheckpointWriter
from batch.workers.chat.kv.checkpoints import Checkpoints
from batch.workers.chat.kv.slot import Slot
from batch.workers.chat.kv.token_sequence import TokenSequence
from batch.workers.llama.context import DECODED, STATE_PARTIAL, Context
from batch.workers.llama.model import Model
from vlm_setup import TINY, chat, content, deltas, metrics

WINDOW_TOKENS = 512
"""What the tiny model's layers that forget look back on."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmEngine]:
    engine = vlm_setup.loaded(tmp_path_factory.mktemp("home"))
    yield engine
    engine.close()


@pytest.fixture
def calls(engine: VlmEngine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the engine's context is told to do, in order: "decode N" (of a prompt), "token", "checkpoint", "copy"."""
    context, called = engine._resources.context, list[str]()
    decode_tokens, decode_token, save_state = context.decode_tokens, context.decode_token, context.save_state

    def decode_prompt(tokens: Any, *args: Any, **more: Any) -> int:
        called.append(f"decode {len(tokens)}")
        return decode_tokens(tokens, *args, **more)

    def decode_next(*args: Any) -> int:
        called.append("token")
        return decode_token(*args)

    def save(seq: int, flags: int = 0) -> Any:
        called.append("checkpoint" if flags else "copy")
        return save_state(seq, flags)

    monkeypatch.setattr(context, "decode_tokens", decode_prompt)
    monkeypatch.setattr(context, "decode_token", decode_next)
    monkeypatch.setattr(context, "save_state", save)
    return called


def test_a_checkpoint_that_is_read_out_later_is_the_one_that_was_made_in_its_place() -> None:
    model = Model(TINY / "tiny-gemma4v-text-f16.gguf")
    context = Context(model, n_ctx=4096, sequences=4)
    try:
        ids = model.tokenize("blue square " * 500, add_special=True)
        assert model.n_swa == WINDOW_TOKENS < len(ids)
        for end in (400, len(ids) - 4):
            context.forget(0)
            assert context.decode_tokens(ids[:end], 0, 0, output=False) == DECODED
            in_place = context.save_state(0, STATE_PARTIAL)
            assert context.decode_tokens(ids[end:], end, 0, output=True) == DECODED
            context.copy_sequence(0, 1, end)
            later = context.save_state(1, STATE_PARTIAL)
            context.forget(1)
            differing = (in_place != later).sum() if len(in_place) == len(later) else -1
            assert 0 <= differing <= min(end, WINDOW_TOKENS) + 1, "no more than the number of the sequence"
    finally:
        context.close()
        model.close()


def test_a_checkpoint_for_which_there_is_no_memory_leaves_nothing_in_the_sequence_that_it_is_read_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model(TINY / "tiny-gemma4v-text-f16.gguf")
    context = Context(model, n_ctx=1024, sequences=2)
    try:
        slot = Slot(0, Checkpoints(1 << 30), TokenSequence(model.tokenize("blue square " * 150)), unsaved=[280])
        assert len(slot.tokens) > 280 and context.decode_tokens(slot.tokens.ids, 0, 0, output=False) == DECODED
        writer = CheckpointWriter(context, model.n_swa, can_roll_back=False, is_recurrent=False)

        def refuse(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(context, "save_state", refuse)
        with pytest.raises(MemoryError):
            writer.save(slot, 1)
        assert context.last_position(0) == len(slot.tokens) - 1 and context.last_position(1) == -1
    finally:
        context.close()
        model.close()


def test_the_first_token_of_a_prompt_waits_for_one_decode_and_for_no_copy(
    engine: VlmEngine, calls: list[str], tmp_path: Path
) -> None:
    while engine.settle():
        pass
    work = chat(tmp_path, "blue square " * 160, generation={"ignore_eos": True, "max_tokens": 260})
    before_first: list[str] = []
    work.at = {2: lambda: before_first.extend(calls)}  # behind the first token and before the next decode
    calls.clear()
    result = engine.run(work)
    n = result.usage.prompt_tokens
    assert 256 < n < WINDOW_TOKENS < n + 250
    assert before_first == [f"decode {n - result.timings.cache_n}"] and deltas(work)
    again = engine.run(chat(tmp_path, "blue square " * 160, generation={"max_tokens": 2}))
    assert again.timings.cache_n >= n - 8, "though the window has left what the prompt's last tokens look at"


def test_a_checkpoint_is_made_when_the_window_is_about_to_leave_what_it_holds(tmp_path: Path) -> None:
    engine = vlm_setup.loaded(tmp_path, context=1024)
    try:
        context = engine._resources.context
        text = "blue square " * 160
        work = chat(tmp_path, text, generation={"ignore_eos": True, "max_tokens": 500})
        saved_after: list[int] = []
        save_state = context.save_state

        def save(seq: int, flags: int = 0) -> Any:
            saved_after.append(context.last_position(0) + 1)
            return save_state(seq, flags)

        context.save_state = save  # type: ignore[method-assign]
        fresh = engine.run(work)
        assert saved_after == [WINDOW_TOKENS]
        again = engine.run(chat(tmp_path, text, generation={"ignore_eos": True, "max_tokens": 500}))
        assert again.timings.cache_n >= fresh.usage.prompt_tokens - 8
        assert again.choices == fresh.choices
    finally:
        engine.close()


def test_a_long_prompt_is_cut_for_no_checkpoint_and_has_them_all_the_same(
    engine: VlmEngine, calls: list[str], tmp_path: Path
) -> None:
    text = "red circle " * 700
    fresh = engine.run(chat(tmp_path, text + "ping", generation={"max_tokens": 600, "ignore_eos": True}))
    n = fresh.usage.prompt_tokens
    prompt = [call for call in calls if call.startswith("decode")]
    assert len(prompt) == -(-(n - fresh.timings.cache_n) // 512) and prompt[-1] == "decode 512", "one for each micro-batch"
    for end in ("ping", "What is it, and how many of them are there?"):
        again = engine.run(chat(tmp_path, text + end, generation={"max_tokens": 4}))
        assert again.timings.cache_n >= n - 80


def test_what_stands_in_the_kv_is_copied_out_while_nobody_waits_and_only_once(
    engine: VlmEngine, calls: list[str], tmp_path: Path
) -> None:
    story = chat(tmp_path, "green circle " * 150 + "Tell me a story.", generation={"max_tokens": 8})
    first = engine.run(story)
    while engine.settle():
        pass
    assert calls.count("copy") >= 1
    calls.clear()
    assert not engine.settle()
    stranger = engine.run(chat(tmp_path, "black triangle " * 150, generation={"max_tokens": 2}))
    assert stranger.timings.cache_n < 20 and "copy" not in calls
    again = engine.run(chat(tmp_path, "green circle " * 150 + "Tell me a story.", generation={"max_tokens": 8}))
    assert again.timings.prompt_n == 1 and content(again) == content(first)
    assert metrics(engine).cache_bytes <= engine._settings.vlm.cache_bytes


def test_a_request_that_comes_while_nobody_waited_waits_for_one_state_to_be_copied_at_most(
    engine: VlmEngine, calls: list[str], tmp_path: Path
) -> None:
    engine.run(chat(tmp_path, "yellow circle " * 500, generation={"max_tokens": 2}))
    copied: list[list[str]] = []
    is_unsettled = True
    while is_unsettled:
        calls.clear()
        is_unsettled = engine.settle()
        copied.append([*calls])
    assert copied.count(["checkpoint"]) >= 3 and copied[-2:] == [["copy"], []] and max(map(len, copied)) == 1


def test_a_conversation_that_went_on_is_not_taken_for_the_copy_that_was_made_before(engine: VlmEngine, tmp_path: Path) -> None:
    text = "purple square " * 60
    for turn in range(3):
        engine.run(chat(tmp_path, text, generation={"max_tokens": 4}))
        while engine.settle():
            pass
        text += f"{turn} orange triangle " * 40
    last = engine.run(chat(tmp_path, text, generation={"max_tokens": 20}))
    engine.run(chat(tmp_path, "black circle " * 100, generation={"max_tokens": 2}))
    again = engine.run(chat(tmp_path, text, generation={"max_tokens": 20}))
    assert again.timings.prompt_n <= 4 and again.choices[0].message == last.choices[0].message
