"""Bulk jobs of a small model, each of which has cells of its own in the KV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlm_setup
from batch.catalog.resolved import resolve
from batch.errors import Cancelled, ModelProblem
from batch.memory.plan import Budget
from batch.queue.jobs import Kind, Priority
from batch.workers.chat import memory_planner
from batch.workers.chat.bulk import speed
from batch.workers.chat.memory_planner import plan_memory
from batch.workers.llama.context import DECODED, Context
from batch.workers.llama.dry_run import DryRun
from batch.workers.llama.model import Model
from vlm_setup import TINY, bulk, bulk_resources, content, run, together, written

CELLS = 256


def give_room(monkeypatch: pytest.MonkeyPatch, *rooms: int) -> None:
    """Let bulk jobs have cells of their own for so many tokens, or, as on a GPU, for as many more as there is memory for."""
    least, *large = rooms
    monkeypatch.setattr(memory_planner, "own_rooms", lambda n_ctx, *, has_gpu: speed.own_rooms(n_ctx, has_gpu=True))
    monkeypatch.setattr(speed, "LARGE_OWN_ROOMS", tuple(large))
    monkeypatch.setattr(speed, "BULK_TOKENS_PER_JOB", least)


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    model = Model(TINY / "tiny-gemma4v-text-f16.gguf")
    context = Context(model, n_ctx=CELLS, n_batch=64, n_ubatch=64, sequences=5, own_kv=True)
    yield context
    context.close()
    model.close()


def logits(context: Context, token: int, pos: int, seq: int) -> Any:
    assert context.decode_token(token, pos, seq) == DECODED
    row = context.logits().copy()
    context.forget(seq, pos)
    return row


def test_what_is_copied_to_another_sequence_is_there_before_any_decode(context: Context) -> None:
    context.decode_tokens(list(range(20, 60)), 0, 0, output=False)
    expected = logits(context, 7, 30, 3) if context.decode_tokens(list(range(20, 50)), 0, 3, output=False) == DECODED else None
    context.copy_sequence(0, 1, 30)
    assert context.last_position(1) == 29 and context.last_position(0) == 39
    state = context.save_state(1)  # moves a job out whose decode is yet to come
    assert context.restore_state(2, state)
    context.forget(0)
    context.decode_tokens(list(range(90, 130)), 0, 0, output=False)
    for seq in (1, 2):
        assert np.array_equal(logits(context, 7, 30, seq), expected)
    for seq in range(context.sequences):
        context.forget(seq)


def test_a_sequences_numbers_do_not_depend_on_what_stands_in_others(context: Context) -> None:
    prompts = [[(number * 31 + at) % 500 + 20 for at in range(40)] for number in range(4)]
    rows = []
    for lengths in ((40, 40, 40), (100, 3, 240)):
        context.decode_tokens(prompts[0], 0, 1, output=False)
        for seq, length in zip((0, 2, 3), lengths, strict=True):
            for at in range(0, length, 40):
                context.decode_tokens(prompts[seq][: length - at], at, seq, output=False)
        assert context.decode_rows([9] * 4, [lengths[0], 40, *lengths[1:]], range(4)) == DECODED  # type: ignore[arg-type]
        rows.append(context.logits(1).copy())
        for seq in range(context.sequences):
            context.forget(seq)
    assert np.array_equal(*rows)


def test_they_are_computed_in_consecutive_sequences_also_when_some_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = vlm_setup.loaded(tmp_path, parallel=4)
    try:
        bounds = (30, 3, 9, 25, 4, 22)

        def answer(n: int) -> Any:
            return bulk(tmp_path, "ping", generation={"ignore_eos": True, "max_tokens": n})

        expected = [written(run(engine, answer(n))) for n in bounds]
        context, rows = bulk_resources(engine).context, list[list[int]]()
        assert context.has_own_kv
        decode = context.decode_parts

        def note(parts: list[tuple[list[int], int, int, bool]]) -> int:
            rows.append([seq for _, _, seq, _ in parts])
            return decode(parts)

        monkeypatch.setattr(context, "decode_parts", note)
        assert [written(work.result) for work in together(engine, [answer(n) for n in bounds])] == expected
        assert {len(sequences) for sequences in rows} == {1, 2, 3, 4}
        assert all(sequences == list(range(sequences[0], sequences[0] + len(sequences))) for sequences in rows)
    finally:
        engine.close()


def test_prompts_of_like_lengths_have_neighbouring_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = vlm_setup.loaded(tmp_path, parallel=4)
    try:
        cache, taken = bulk_resources(engine).cache, list[tuple[int, int]]()
        acquire = cache.acquire

        def note(prompt: Any, **how: Any) -> Any:
            slot, n = acquire(prompt, **how)
            taken.append((slot.seq, len(prompt)))
            return slot, n

        monkeypatch.setattr(cache, "acquire", note)
        texts = ("a long one " * 9, "one", "the long one " * 9, "two")
        together(engine, [bulk(tmp_path, text, generation={"ignore_eos": True, "max_tokens": 4}) for text in texts])
        lengths = [length for _, length in sorted(taken)]
        assert [seq for seq, _ in sorted(taken)] == [0, 1, 2, 3]
        assert lengths == sorted(lengths) and len(set(lengths)) > 1
    finally:
        engine.close()


def test_neighbours_whose_window_has_left_what_is_shared_give_it_all_the_same_and_keep_their_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = vlm_setup.loaded(tmp_path, mmproj="", parallel=3)
    one = vlm_setup.loaded(tmp_path, mmproj="", parallel=1)
    try:
        context = bulk_resources(engine).context
        system = {"role": "system", "content": "You are careful. " * 70}

        def ask(text: str, max_tokens: int, n: int = 1) -> Any:
            messages = [system, {"role": "user", "content": text}]
            return bulk(tmp_path, None, messages=messages, generation={"max_tokens": max_tokens, "ignore_eos": True}, n=n)

        def works() -> list[Any]:
            long = "word circle blue " * 300
            return [ask(long, 24), ask("ping", 3, 2), ask("red " + long, 24), ask("Tell me a story.", 8)]

        has_copied = list[bool]()
        copy = context._make_copies

        def note() -> None:
            has_copied.append(context._copied is not None)
            copy()

        monkeypatch.setattr(context, "_make_copies", note)
        done = together(engine, works())
        assert any(has_copied), "a window's checkpoint is put where the next decode would copy to"
        assert [work.error for work in done] == [None] * 4
        assert [written(work.result) for work in done] == [written(run(one, work)) for work in works()]
    finally:
        engine.close()
        one.close()


def test_nothing_is_copied_for_what_every_chat_begins_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = vlm_setup.loaded(tmp_path, parallel=2)
    try:
        copies = list[int]()
        context = bulk_resources(engine).context
        copy = context.copy_sequence

        def note(source: int, target: int, end: int) -> None:
            copies.append(end)
            copy(source, target, end)

        monkeypatch.setattr(context, "copy_sequence", note)
        for texts, copied in ((("red circle", "green square"), False), (("red circle " * 50,) * 2, True)):
            works = [bulk(tmp_path, text, generation={"max_tokens": 8}) for text in texts]
            together(engine, works)
            assert bool(copies) == copied
    finally:
        engine.close()


def test_an_answer_that_outgrows_its_cells_goes_on_by_itself_behind_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_room(monkeypatch, CELLS)
    engine = vlm_setup.loaded(tmp_path, context=512, parallel=2)
    one = vlm_setup.loaded(tmp_path, context=512, parallel=1)
    try:
        endless = {"max_tokens": None, "ignore_eos": True, "temperature": 0}

        def works() -> list[Any]:
            long = bulk(tmp_path, "red circle " * 40 + "Tell me a story.", generation=endless)
            return [long, bulk(tmp_path, "ping"), bulk(tmp_path, "red circle " * 150)]

        ended, busy = list[int](), list[int]()
        run_alone = engine.run_alone

        def note_alone(work: Any, *more: Any) -> Any:
            busy.append(sum(slot.is_busy for slot in bulk_resources(engine).cache._slots))
            return run_alone(work, *more)

        monkeypatch.setattr(engine, "run_alone", note_alone)
        done = works()
        for number, work in enumerate(done):
            finish = work.finish

            def note(result: Any, number: int = number, finish: Any = finish) -> None:
                ended.append(number)
                finish(result)

            work.finish = note
        together(engine, done)
        assert [work.error for work in done] == [None] * 3
        assert sorted(ended[:1]) == [1] and set(ended) == {0, 1, 2}
        assert busy == [0, 0], "jobs that run inside find all sequences"
        usage = done[0].result.usage
        assert usage.prompt_tokens < bulk_resources(engine).context.n_ctx == CELLS < usage.total_tokens
        alone = [run(one, work) for work in works()]
        assert alone[0].usage == usage
        assert vlm_setup.streamed(done[0], "reasoning_content") == done[0].result.choices[0].message.reasoning_content
        assert vlm_setup.streamed(done[0]) == content(done[0].result)
        assert [written(work.result) for work in done] == [written(result) for result in alone]
        cache = bulk_resources(engine).cache
        assert not any(slot.is_busy for slot in (*cache._slots, *engine._resources.cache._slots))
    finally:
        engine.close()
        one.close()


def test_an_answer_that_outgrows_its_cells_lets_those_pass_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_room(monkeypatch, CELLS)
    engine = vlm_setup.loaded(tmp_path, context=512, parallel=2)
    try:
        bounds = (None, 100, 100, 100, 100)
        works = [bulk(tmp_path, "ping", generation={"max_tokens": n, "ignore_eos": True}) for n in bounds]
        ended = list[int]()
        for number, work in enumerate(works):
            finish = work.finish

            def note(result: Any, number: int = number, finish: Any = finish) -> None:
                ended.append(number)
                finish(result)

            work.finish = note  # type: ignore[method-assign]
        together(engine, works)
        assert ended[-1] == 0 and sorted(ended) == [0, 1, 2, 3, 4]
        assert works[0].result.usage.total_tokens == 512
    finally:
        engine.close()


def test_an_answer_that_larger_room_holds_stays_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_room(monkeypatch, CELLS, 2 * CELLS)
    engine = vlm_setup.loaded(tmp_path, context=1024, parallel=2)
    one = vlm_setup.loaded(tmp_path, context=1024, parallel=1)
    try:
        assert bulk_resources(engine).context.n_ctx == 2 * CELLS
        alone = list[Any]()
        run_alone = engine.run_alone

        def note_alone(work: Any, *more: Any) -> Any:
            alone.append(work)
            return run_alone(work, *more)

        monkeypatch.setattr(engine, "run_alone", note_alone)

        def works() -> list[Any]:
            bounds = (CELLS, 2 * CELLS, 20)
            return [bulk(tmp_path, "ping", generation={"max_tokens": n, "ignore_eos": True}) for n in bounds]

        done = together(engine, works())
        usages = [work.result.usage for work in done]
        assert CELLS < usages[0].total_tokens < 2 * CELLS < usages[1].total_tokens
        assert alone == [done[1]], "only what is longer than the room goes on by itself"
        assert [written(work.result) for work in done] == [written(run(one, work)) for work in works()]
    finally:
        engine.close()
        one.close()


def test_where_memory_is_gone_meanwhile_the_room_is_smaller_before_fewer_are_computed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_room(monkeypatch, CELLS, 3 * CELLS)
    for most, room, width in ((2 * CELLS, CELLS, 4), (3 * CELLS // 2, 3 * CELLS // 2, 4), (0, 0, 1)):
        engine = vlm_setup.loaded(tmp_path, mmproj="", context=1024, parallel=4)
        make = engine._make_context

        def make_small(n_ctx: int, sequences: int, *, own_kv: bool, most: int = most, make: Any = make) -> Context:
            if n_ctx > most:
                raise ModelProblem("There is not enough memory.")
            context: Context = make(n_ctx, sequences, own_kv=own_kv)
            return context

        monkeypatch.setattr(engine, "_make_context", make_small)
        try:
            assert (engine._open_scheduler() is None) == (width == 1)
            assert engine._width == width
            assert width == 1 or CELLS <= room <= bulk_resources(engine).context.n_ctx < 3 * CELLS
        finally:
            engine.close()


def test_a_job_that_outgrew_its_cells_ends_at_once_when_it_is_cancelled_behind_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a client is served at its yield point, in the middle of the other's answer."""
    give_room(monkeypatch, CELLS)
    engine = vlm_setup.loaded(tmp_path, context=1024, parallel=2)
    one = vlm_setup.loaded(tmp_path, context=1024, parallel=1)
    try:

        def works() -> list[Any]:
            return [bulk(tmp_path, text, generation={"max_tokens": 600, "ignore_eos": True}) for text in ("red circle", "ping")]

        client = vlm_setup.chat(tmp_path, "What is this? " * 100)
        done = first, second = works()
        ended, answers = list[Any](), list[Any]()
        run_alone = engine.run_alone

        def cancel() -> None:
            raise Cancelled()

        def cancel_second(work: Any, *more: Any) -> Any:
            if work is first:
                units = len(second.units)
                second.at = {units + 3: lambda: answers.append(run(engine, client)), units + 5: cancel}
            return run_alone(work, *more)

        monkeypatch.setattr(engine, "run_alone", cancel_second)
        monkeypatch.setattr(second, "fail", lambda error: ended.append(error))
        monkeypatch.setattr(first, "finish", lambda result: ended.append(result))
        together(engine, done)
        assert isinstance(ended[0], Cancelled) and len(ended) == 2
        assert written(ended[1]) == written(run(one, works()[0]))
        assert written(answers[0]) == written(run(one, vlm_setup.chat(tmp_path, "What is this? " * 100)))
        cache = bulk_resources(engine).cache
        assert not any(slot.is_busy for slot in (*cache._slots, *engine._resources.cache._slots))
    finally:
        engine.close()
        one.close()


def test_a_less_urgent_job_that_outgrew_its_cells_lets_nobody_in_before_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside it those of the other's kind would go before the other's end."""
    give_room(monkeypatch, CELLS)
    engine = vlm_setup.loaded(tmp_path, context=1024, parallel=2)
    try:
        generation = {"max_tokens": 600, "ignore_eos": True}
        urgent = bulk(tmp_path, "red circle", priority=Priority.BATCH, generation=generation)
        other = bulk(tmp_path, "ping", priority=Priority.INBOX, generation=generation)
        passed = list[int]()
        run_alone, finish = engine.run_alone, urgent.finish

        def note_begin(work: Any, *more: Any) -> Any:
            if work is urgent:
                passed.append(len(other.units))
            return run_alone(work, *more)

        def note_end(result: Any) -> None:
            passed.append(len(other.units))
            finish(result)

        monkeypatch.setattr(engine, "run_alone", note_begin)
        monkeypatch.setattr(urgent, "finish", note_end)
        together(engine, [urgent, other])
        assert len(passed) == 2 and passed[0] == passed[1]
        assert other.result.usage.completion_tokens == 600
    finally:
        engine.close()


def test_on_a_gpu_they_are_for_as_many_tokens_as_fit_into_their_share_of_its_memory(tmp_path: Path) -> None:
    settings = vlm_setup.settings(tmp_path, parallel=32, context=1 << 17)
    resolved = resolve(settings, Kind.VLM)
    dry = DryRun(resolved.path, gpu_layers=0)
    batch = {"n_batch": memory_planner.N_BATCH_TOKENS, "n_ubatch": memory_planner.N_UBATCH_TOKENS}
    rooms, needs = speed.own_rooms(1 << 17, has_gpu=True), list[int]()
    for room in rooms:
        sizes = dry.context_sizes(n_ctx=room, **batch, sequences=speed.sequences_for(32), kv_type="f16", own_kv=True)
        assert sizes is not None
        needs.append(sizes.kv)
    dry.close()
    assert needs == sorted(needs)
    for room, kv in zip(rooms, needs, strict=True):
        free = 4 * kv  # a quarter of a GPU
        for gpu_free, planned in ((free, room), (free - 4, max((n for n in rooms if n < room), default=0))):
            plan = plan_memory(settings, resolved, Budget(64_000_000_000, 0, gpu_free))
            assert (plan.width, plan.own_tokens) == (32, planned)
    plan = plan_memory(settings, resolved, Budget(64_000_000_000))
    assert (plan.width, plan.own_tokens) == (32, rooms[0]), "on a CPU the longest of them makes the steps of all longer"


def test_they_are_for_no_more_tokens_where_a_cpu_computes_some_layers(tmp_path: Path) -> None:
    for layers, room in ((-1, 16_384), (99, 16_384), (3, 4096), (1, 4096)):
        settings = vlm_setup.settings(tmp_path, parallel=4, context=20_000, gpu_layers=layers)
        plan = plan_memory(settings, resolve(settings, Kind.VLM), Budget(16_000_000_000, 0, 16_000_000_000))
        assert plan.own_tokens == room


def test_they_are_for_no_more_tokens_than_a_client_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for context, room in ((4096, 4096), (5120, 5120), (20_000, 16_384), (1000, 1000)):
        settings = vlm_setup.settings(tmp_path, parallel=4, context=context)
        plan = plan_memory(settings, resolve(settings, Kind.VLM), Budget(16_000_000_000, 0, 16_000_000_000))
        assert plan.own_tokens == room
    settings = vlm_setup.settings(tmp_path, parallel=4)
    monkeypatch.setattr(DryRun, "n_ctx_train", 8192)
    plan = plan_memory(settings, resolve(settings, Kind.VLM), Budget(16_000_000_000, 0, 16_000_000_000))
    assert plan.own_tokens == 8192


def test_they_are_planned_where_they_take_a_small_part_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = vlm_setup.settings(tmp_path, parallel=4)
    resolved, budget = resolve(settings, Kind.VLM), Budget(16_000_000_000)
    own = plan_memory(settings, resolved, budget)
    monkeypatch.setattr(memory_planner, "OWN_KV_SHARE", 1e-4)
    shared = plan_memory(settings, resolved, budget)
    assert own.own_tokens and not shared.own_tokens
    assert own.need > shared.need


def test_on_a_gpu_more_than_32_are_planned_only_with_cells_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = vlm_setup.settings(tmp_path, context=20_000)
    resolved, budget = resolve(settings, Kind.VLM), Budget(16_000_000_000, 0, 16_000_000_000)
    own = plan_memory(settings, resolved, budget)
    monkeypatch.setattr(memory_planner, "OWN_KV_GPU_SHARE", 1e-4)
    shared = plan_memory(settings, resolved, budget)
    assert (own.width, own.own_tokens) == (64, speed.LARGE_OWN_ROOMS[-1])
    assert (shared.width, shared.own_tokens, shared.cache_share, shared.note) == (32, 0, 1.0, "")


def test_on_a_gpu_what_is_set_is_planned_with_or_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(16_000_000_000, 0, 16_000_000_000)
    for width, share in ((64, 0.25), (8, 0.25), (64, 1e-4), (1, 0.25)):
        monkeypatch.setattr(memory_planner, "OWN_KV_GPU_SHARE", share)
        settings = vlm_setup.settings(tmp_path, parallel=width)
        plan = plan_memory(settings, resolve(settings, Kind.VLM), budget)
        assert (plan.width, plan.own_tokens > 0) == (width, share == 0.25 and width > 1)


def test_none_are_planned_for_a_model_with_states_of_no_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = vlm_setup.settings(tmp_path, parallel=4)
    resolved = resolve(settings, Kind.VLM)
    monkeypatch.setattr(DryRun, "is_recurrent", True)
    for budget in (Budget(16_000_000_000), Budget(16_000_000_000, 0, 16_000_000_000)):
        plan = plan_memory(settings, resolved, budget)
        assert (plan.width, plan.own_tokens) == (4, 0)
