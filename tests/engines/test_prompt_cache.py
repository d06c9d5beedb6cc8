"""What stays cached between requests, and that a cached answer is the answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vlm_setup
from batch.errors import Cancelled
from batch.payloads.json_text import encode
from batch.queue.hub.prefix_affinity import PrefixAffinity
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.nodes import Node
from batch.queue.remote.prompt_prefix import ends_of, prefixes_of
from batch.workers.chat.engine import VlmEngine
from vlm_setup import chat, content, count_tokens, metrics, picture


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[VlmEngine]:
    engine = vlm_setup.loaded(tmp_path)
    yield engine
    engine.close()


def cached(result: Any) -> int:
    n = result.usage.prompt_tokens_details.cached_tokens
    assert n == result.timings.cache_n
    assert n + result.timings.prompt_n == result.usage.prompt_tokens
    return int(n)


def turns(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]


def test_the_same_prompt_again_computes_one_token(engine: VlmEngine, tmp_path: Path) -> None:
    first = engine.run(chat(tmp_path, "Tell me a story."))
    again = engine.run(chat(tmp_path, "Tell me a story."))
    assert cached(first) == 0
    assert again.timings.prompt_n == 1
    assert content(again) == content(first)


def test_a_next_turn_reuses_the_last(engine: VlmEngine, tmp_path: Path) -> None:
    first = engine.run(chat(tmp_path, "Tell me a story.", enable_thinking=False))
    messages = turns("Tell me a story.", content(first), "ping")
    second = engine.run(chat(tmp_path, None, messages=messages, enable_thinking=False))
    assert content(second) == "pong"
    assert cached(second) > first.usage.prompt_tokens - 6


def test_cache_prompt_false_computes_everything(engine: VlmEngine, tmp_path: Path) -> None:
    for _ in range(2):
        result = engine.run(chat(tmp_path, "ping", generation={"cache_prompt": False}))
        assert cached(result) == 0


@pytest.mark.parametrize("length", [400, 700, 2500])
def test_a_long_prompt_beyond_the_window_is_reused_and_answers_the_same(engine: VlmEngine, tmp_path: Path, length: int) -> None:
    """The tiny model forgets what lies 512 tokens back in every other layer."""
    text = "blue square " * (length // 2) + "Tell me a story."
    fresh = engine.run(chat(tmp_path, text, generation={"cache_prompt": False}))
    engine.run(chat(tmp_path, text, generation={"ignore_eos": True, "max_tokens": 800}))
    again = engine.run(chat(tmp_path, text))
    assert content(again) == content(fresh)
    assert cached(again) >= fresh.usage.prompt_tokens - 8 or length == 400


def test_a_prefix_that_the_window_has_left_is_computed_again(engine: VlmEngine, tmp_path: Path) -> None:
    long = "blue square " * 1200
    engine.run(chat(tmp_path, long))
    short = engine.run(chat(tmp_path, long[: len(long) // 2] + "Tell me a story."))
    fresh = engine.run(chat(tmp_path, long[: len(long) // 2] + "Tell me a story.", generation={"cache_prompt": False}))
    assert content(short) == content(fresh)


def test_several_alternating_conversations_all_hit(engine: VlmEngine, tmp_path: Path) -> None:
    """More of them than the KV has sequences: the others wait in host memory."""
    colours = ["red", "blue", "green", "black", "orange", "purple"]
    prompts = [f"{c} circle " * 200 for c in colours]
    answers = [engine.run(chat(tmp_path, p)) for p in prompts]
    assert metrics(engine).cache_conversations >= 3
    for prompt, answer in zip(prompts, answers, strict=True):
        again = engine.run(chat(tmp_path, prompt))
        assert cached(again) > 300
        assert content(again) == content(answer)


def test_conversations_that_share_a_long_beginning_all_hit_behind_it_too(engine: VlmEngine, tmp_path: Path) -> None:
    system = {"role": "system", "content": "red circle " * 400}
    talks = {who: [system, {"role": "user", "content": f"{who} square " * 60}] for who in ("blue", "green")}
    prefilled = []
    for _ in range(3):
        for messages in talks.values():
            result = engine.run(chat(tmp_path, None, messages=messages, generation={"max_tokens": 5}))
            prefilled.append(result.timings.prompt_n)
            messages += [{"role": "assistant", "content": "pong"}, {"role": "user", "content": "ping"}]
    assert max(prefilled[2:]) < 60, "from the second turn on only what is new is prefilled"


def test_no_conversation_is_copied_back_for_a_few_words_that_it_shares(engine: VlmEngine, tmp_path: Path) -> None:
    engine.run(chat(tmp_path, "red " + "circle " * 100))
    fresh = engine.run(chat(tmp_path, "blue " + "square " * 100))
    shares_a_word = engine.run(chat(tmp_path, "red " + "square " * 100))
    shares_half = engine.run(chat(tmp_path, "red " + "circle " * 50 + "square " * 50))
    assert cached(shares_a_word) == cached(fresh)
    assert cached(shares_half) > 50


def test_what_a_newer_copy_repeats_is_let_go_first(tmp_path: Path) -> None:
    engine = vlm_setup.loaded(tmp_path, cache_bytes=2_500_000)
    try:
        other = "green circle " * 150
        engine.run(chat(tmp_path, other, generation={"max_tokens": 2}))
        for i in range(8):
            engine.run(chat(tmp_path, "red square " * 200 + f"{i} blue " * 40, generation={"max_tokens": 2}))
        assert metrics(engine).cache_conversations < 8
        assert cached(engine.run(chat(tmp_path, other, generation={"max_tokens": 2}))) > 250
    finally:
        engine.close()


def test_host_memory_stays_within_its_bound(tmp_path: Path) -> None:
    bound = 1_000_000
    engine = vlm_setup.loaded(tmp_path, cache_bytes=bound)
    try:
        for i in range(12):
            engine.run(chat(tmp_path, f"{i} circle " * 300, generation={"max_tokens": 2}))
            assert metrics(engine).cache_bytes <= bound
        assert metrics(engine).cache_conversations >= 1
    finally:
        engine.close()


def test_no_host_memory_means_no_copies(tmp_path: Path) -> None:
    engine = vlm_setup.loaded(tmp_path, cache_bytes=0)
    try:
        for i in range(6):
            engine.run(chat(tmp_path, f"{i} circle " * 100, generation={"max_tokens": 2}))
        assert metrics(engine).cache_conversations == 0
    finally:
        engine.close()


def test_idle_conversations_give_way_to_a_prompt_that_fills_the_context(tmp_path: Path) -> None:
    engine = vlm_setup.loaded(tmp_path, context=1024)
    try:
        for colour in ("red", "blue", "green"):
            engine.run(chat(tmp_path, f"{colour} circle " * 150, generation={"max_tokens": 4}))
        full = engine.run(chat(tmp_path, "purple square " * 400, generation={"max_tokens": 50, "ignore_eos": True}))
        assert full.usage.completion_tokens == 50
        again = engine.run(chat(tmp_path, "blue circle " * 150, generation={"max_tokens": 4}))
        assert cached(again) > 250
    finally:
        engine.close()


def test_pictures_count_as_prefix_by_their_content(engine: VlmEngine, tmp_path: Path) -> None:
    ask = {"type": "text", "text": "Describe this image."}
    red, blue = picture(tmp_path), picture(tmp_path, "sample-blue-triangle.png")
    engine.run(chat(tmp_path, [red, ask], enable_thinking=False))
    engine.run(chat(tmp_path, [blue, ask], enable_thinking=False))
    again = engine.run(chat(tmp_path, [red, {"type": "text", "text": "What shape is it?"}], enable_thinking=False))
    assert cached(again) > 70
    assert "circle" in content(again)


def test_a_cached_answer_is_the_answer_for_a_picture_beyond_the_window(engine: VlmEngine, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "blue square " * 500}, picture(tmp_path), {"type": "text", "text": "What is it?"}]
    fresh = engine.run(chat(tmp_path, parts, generation={"cache_prompt": False}))
    engine.run(chat(tmp_path, parts, generation={"ignore_eos": True, "max_tokens": 700}))
    again = engine.run(chat(tmp_path, parts))
    assert content(again) == content(fresh)
    assert cached(again) > 1000


def asks(engine: VlmEngine, folder: Path, messages: list[dict[str, Any]]) -> Any:
    return engine.run(chat(folder, None, messages=messages, generation={"max_tokens": 4}))


def with_question(system: str, question: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


def test_a_system_prompt_stays_cached_behind_a_strangers_request(engine: VlmEngine, tmp_path: Path) -> None:
    system = "red circle " * 1150
    common = count_tokens(engine, {"messages": with_question(system, "")}) - 10
    asks(engine, tmp_path, with_question(system, "What is the first thing?"))
    for question in ("And the second one?", "blue square " * 40, "Tell me more."):
        stranger = asks(engine, tmp_path, [{"role": "user", "content": f"ping {question[:8]}"}])
        assert stranger.usage.prompt_tokens < 40
        result = asks(engine, tmp_path, with_question(system, question))
        assert cached(result) >= 0.95 * common


def test_two_long_prompts_that_take_turns_both_stay_cached(engine: VlmEngine, tmp_path: Path) -> None:
    systems = ["black circle " * 2300, "blue square " * 2300]
    for turn in range(3):
        for system in systems:
            result = asks(engine, tmp_path, with_question(system, f"Question {turn}: what is it?"))
            assert turn == 0 or cached(result) >= 0.95 * result.usage.prompt_tokens


def test_a_document_is_cached_though_the_question_stands_in_the_same_message(engine: VlmEngine, tmp_path: Path) -> None:
    document = "orange triangle " * 1150
    for turn, question in enumerate(("What is it?", "How many are there of them in all?", "Why?")):
        result = asks(engine, tmp_path, [{"role": "user", "content": document + question}])
        assert turn == 0 or cached(result) >= 0.95 * result.usage.prompt_tokens
        asks(engine, tmp_path, [{"role": "user", "content": "ping"}])


def test_an_answer_from_a_checkpoint_is_the_answer(engine: VlmEngine, tmp_path: Path) -> None:
    system = "green square " * 800
    for question in ("Tell me a story.", "ping"):
        asks(engine, tmp_path, with_question(system, question))
        asks(engine, tmp_path, [{"role": "user", "content": "ping"}])
    again, fresh = (
        engine.run(chat(tmp_path, None, messages=with_question(system, "Tell me a story."), generation={"cache_prompt": keep}))
        for keep in (True, False)
    )
    assert cached(again) > 1500 and cached(fresh) == 0
    assert again.choices == fresh.choices


def test_checkpoints_count_as_host_memory_too(tmp_path: Path) -> None:
    bound = 3_000_000
    engine = vlm_setup.loaded(tmp_path, cache_bytes=bound)
    try:
        for i in range(4):
            asks(engine, tmp_path, with_question(f"{i} circle " * 1000, "What is it?"))
            asks(engine, tmp_path, [{"role": "user", "content": "ping"}])
            assert metrics(engine).cache_bytes <= bound
    finally:
        engine.close()


def test_a_conversation_that_no_memory_is_left_to_copy_is_let_go_and_all_sequences_stay_usable(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = engine._resources.context
    save_state = context.save_state

    def save_checkpoints_only(seq: int, flags: int = 0) -> Any:
        if not flags:
            raise MemoryError
        return save_state(seq, flags)

    monkeypatch.setattr(context, "save_state", save_checkpoints_only)
    for number in range(context.sequences + 1):
        assert content(engine.run(chat(tmp_path, f"{number} blue square " * 60 + "ping", enable_thinking=False)))
    assert metrics(engine).cache_conversations == 0


def test_what_a_worker_reports_of_its_cache_sends_a_next_turn_to_the_one_that_holds_the_conversation(tmp_path: Path) -> None:
    engines = {name: vlm_setup.loaded(tmp_path) for name in ("a", "b")}
    reports = {name: engine.follow_prefixes() for name, engine in engines.items()}
    story = "blue square " * 900 + "Tell me a story."
    try:
        engines["a"].run(chat(tmp_path, "green circle " * 60, enable_thinking=False))
        first = engines["b"].run(chat(tmp_path, story, enable_thinking=False))
        second = chat(tmp_path, None, messages=turns(story, content(first), "ping"), enable_thinking=False)
        affinity = PrefixAffinity(lambda worker: ())
        affinity.refresh(
            Node(name, Kind.VLM, Kind.VLM, "ready", prefixes=encode(report()).decode()) for name, report in reports.items()
        )
        routed = affinity.route(Draft(second.payload, Origin.HTTP, Priority.INTERACTIVE))
        assert routed.holder == "b" and 0 < routed.hold_s <= 0.5
        answers = {name: engine.run(second) for name, engine in engines.items()}
        assert cached(answers["b"]) > first.usage.prompt_tokens - 6 and cached(answers["a"]) < 20
        assert content(answers["a"]) == content(answers["b"])
    finally:
        for engine in engines.values():
            engine.close()


def test_a_worker_reports_the_prompts_that_its_cache_holds_and_none_that_it_let_go(tmp_path: Path) -> None:
    engine = vlm_setup.loaded(tmp_path, cache_bytes=0)
    try:
        read = engine.follow_prefixes()
        assert read().digests == [] and read().ms_per_kib == 0
        kept, other = (chat(tmp_path, text * 100) for text in ("blue square ", "green circle "))
        engine.run(kept)
        assert read().digests == ends_of(prefixes_of(kept.payload)) and read().ms_per_kib > 0
        engine.run(chat(tmp_path, "red circle " * 100, priority=Priority.BATCH))
        engine.run(other)
        assert read().digests == ends_of(prefixes_of(other.payload))
    finally:
        engine.close()


def test_a_prompt_that_was_cut_off_is_not_reported(engine: VlmEngine, tmp_path: Path) -> None:
    read = engine.follow_prefixes()

    def cancel() -> None:
        raise Cancelled()

    with pytest.raises(Cancelled):
        engine.run(chat(tmp_path, "blue square " * 1000, at={2: cancel}))
    done = chat(tmp_path, "ping")
    engine.run(done)
    assert read().digests == ends_of(prefixes_of(done.payload))
