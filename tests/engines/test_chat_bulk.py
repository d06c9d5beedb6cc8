"""Bulk jobs are computed together, and each comes out as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vlm_setup
from batch.errors import BadRequest, BatchError, Cancelled
from batch.payloads.chat import ChatResult
from batch.queue.jobs import Priority
from batch.workers.chat import memory_planner
from batch.workers.chat.bulk import speed
from batch.workers.chat.engine import VlmEngine
from scripted_work import ScriptedWork
from vlm_setup import bulk, bulk_resources, chat, completion, content, metrics, picture, run, together, written

STORY = "Once there was a red circle."
SEEDED = {"temperature": 1.0, "seed": 11, "top_k": 0, "min_p": 0.0}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmEngine]:
    engine = vlm_setup.loaded(tmp_path_factory.mktemp("home"), parallel=4)
    bulk_resources(engine).encodes_ahead = False  # test_chat_preparation.py is about that
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmEngine]:
    """The same model, one job after the other."""
    engine = vlm_setup.loaded(tmp_path_factory.mktemp("home"), parallel=1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmEngine]:
    """With one KV for all bulk jobs, as large models have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_planner, "SMALL_MODEL_BYTES", 0)
        engine = vlm_setup.loaded(tmp_path_factory.mktemp("home"), parallel=4)
    bulk_resources(engine).encodes_ahead = False
    yield engine
    engine.close()


def endless(folder: Path, text: str, tokens: int, **more: Any) -> ScriptedWork:
    """A job that writes so many tokens, whatever the tiny model makes of them."""
    return bulk(folder, text, generation={"ignore_eos": True, "max_tokens": tokens}, **more)


def note_ends(works: list[ScriptedWork]) -> list[int]:
    """A list that fills with the numbers of the jobs in the order of their ends."""
    ended: list[int] = []
    for number, work in enumerate(works):

        def finish(result: ChatResult, number: int = number, work: ScriptedWork = work) -> None:
            ended.append(number)
            work.result = result

        work.finish = finish  # type: ignore[method-assign]
    return ended


def jobs(folder: Path, **more: Any) -> list[ScriptedWork]:
    """Prompts and answers of all lengths, pictures among them, that the tiny model knows what to say to.

    What it does not know hangs on the last bit of a number, and that on where others stand in the KV.
    """

    def shown(name: str, **options: Any) -> ScriptedWork:
        parts = [picture(folder, f"sample-{name}.png"), {"type": "text", "text": "Describe this image."}]
        return bulk(folder, parts, **more, **options)

    return [
        bulk(folder, "Tell me a story.", **more),
        bulk(folder, "red circle " * 700 + "Tell me a story.", enable_thinking=False, **more),
        shown("red-circle"),
        bulk(folder, "ping", **more),
        shown("blue-triangle", enable_thinking=False),
        bulk(folder, "green square " * 300 + "Tell me a story.", enable_thinking=False, **more),
        bulk(folder, "Tell me a story.", n=2, enable_thinking=False, **more),
        shown("yellow-square"),
        bulk(folder, "ping", enable_thinking=False, **more),
    ]


def test_a_job_that_comes_later_joins_at_the_wake_up_that_tells_of_it(
    engine: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.workers.chat.bulk.claimed_jobs.CLAIM_INTERVAL_S", 3600.0)
    lead, late = endless(tmp_path, "Tell me a story.", 40), endless(tmp_path, "ping", 2)
    ended = note_ends([lead, late])

    def submit() -> None:
        lead.waiting.append(late)
        lead.wake_ups += 1

    lead.at = {10: submit}
    together(engine, [lead])
    assert ended == [1, 0]


DRAWN: dict[str, dict[str, Any]] = {
    "greedy": {},
    "seed": {"temperature": 0.3, "seed": 11, "top_k": 10},
    "penalty": {"temperature": 0.2, "seed": 11, "presence_penalty": 0.1},
    "schema": {"json_schema": {"enum": ["red", "blue", "a circle"]}},
    "logprobs": {"logprobs": True, "n_probs": 2},
}


@pytest.mark.parametrize("generation", DRAWN.values(), ids=DRAWN)
def test_jobs_that_are_computed_together_write_what_each_writes_alone(
    engine: VlmEngine, alone: VlmEngine, tmp_path: Path, generation: dict[str, Any]
) -> None:
    expected = [run(alone, work) for work in jobs(tmp_path, generation=generation)]
    works = together(engine, jobs(tmp_path, generation=generation))
    for work, result in zip(works, expected, strict=True):
        assert work.error is None
        assert written(work.result) == written(result)
        assert work.result.usage.completion_tokens == result.usage.completion_tokens
        assert work.result.usage.prompt_tokens == result.usage.prompt_tokens


@pytest.mark.parametrize("most", [128, 2048])
def test_prompts_may_share_decodes_with_tokens_up_to_a_bound(
    shared: VlmEngine, alone: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    engine = shared
    expected = [run(alone, work) for work in jobs(tmp_path)]
    resources, sizes = bulk_resources(engine), []
    monkeypatch.setattr(resources, "mixed_prompt_tokens", most)
    monkeypatch.setattr(resources, "bulk_slice_tokens", min(most, resources.bulk_slice_tokens))
    context = resources.context
    decode = context.decode_parts

    def note(parts: list[tuple[list[int], int, int, bool]]) -> int:
        sizes.append([len(tokens) for tokens, *_ in parts])
        return decode(parts)

    monkeypatch.setattr(context, "decode_parts", note)
    works = jobs(tmp_path)
    for work in works:
        work.at = dict.fromkeys((2, 9, 30), engine.interrupt)
    together(engine, works)
    assert [written(work.result) for work in works] == [written(result) for result in expected]
    assert any(max(size) > 1 and min(size) == 1 for size in sizes), "a prompt and a token were computed together"
    assert all(sum(length for length in size if length > 1) <= most for size in sizes)


def test_short_prompts_share_decodes_and_none_with_a_token_or_with_rows_that_change_their_numbers(
    engine: VlmEngine, alone: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def works() -> list[ScriptedWork]:
        words = ("1", "2", "3", "black " * 30, "", "yellow " * 90, "white " * 45, "")
        return [bulk(tmp_path, f"{word}ping", enable_thinking=False) for word in words]

    expected = [written(run(alone, work)) for work in works()]
    context, sizes = bulk_resources(engine).context, []
    decode = context.decode_parts

    def note(parts: list[tuple[list[int], int, int, bool]]) -> int:
        sizes.append([len(tokens) for tokens, *_ in parts])
        return decode(parts)

    monkeypatch.setattr(context, "decode_parts", note)
    works_together = works()
    for work in works_together:
        work.at = dict.fromkeys((1, 2, 9), engine.interrupt)
    assert [written(work.result) for work in together(engine, works_together)] == expected
    slices = [size for size in sizes if max(size) > 1]
    assert max(len(size) for size in slices) >= 3
    assert all(min(size) >= speed.MIN_JOINT_TOKENS and sum(size) <= speed.MAX_JOINT_TOKENS for size in slices)


def test_completions_are_computed_together_too(engine: VlmEngine, alone: VlmEngine, tmp_path: Path) -> None:
    def works() -> list[ScriptedWork]:
        return [
            completion(tmp_path, f"Once there was a {colour}", generation={"max_tokens": 20}, priority=Priority.BATCH)
            for colour in ("red", "blue", "green")
        ]

    expected = [run(alone, work).choices[0].text for work in works()]
    assert [work.result.choices[0].text for work in together(engine, works())] == expected


def test_a_job_ends_before_its_batch_mates_and_another_takes_its_place(engine: VlmEngine, tmp_path: Path) -> None:
    lengths = [10 + 30 * (i % 2) for i in range(10)]
    works = [endless(tmp_path, f"{i} circle", tokens) for i, tokens in enumerate(lengths)]
    ended = note_ends(works)
    together(engine, works)
    assert sorted(ended) == list(range(10))
    assert ended[0] % 2 == 0 and ended.index(4) < ended.index(9)
    assert all(work.result.usage.completion_tokens == tokens for work, tokens in zip(works, lengths, strict=True))
    assert max(len(work.units) for work in works) < sum(lengths) / 2, "they shared their steps"


@pytest.mark.parametrize("at", [1, 2, 3, 8, 30])
def test_cancelling_one_leaves_its_batch_mates_tokens_unchanged(
    engine: VlmEngine, alone: VlmEngine, tmp_path: Path, at: int
) -> None:
    expected = [run(alone, work) for work in jobs(tmp_path)]

    def cancel() -> None:
        raise Cancelled()

    for chosen in (0, 2):
        works = jobs(tmp_path)
        works[chosen].at[at] = cancel
        together(engine, works)
        for i, (work, result) in enumerate(zip(works, expected, strict=True)):
            if i == chosen and isinstance(work.error, Cancelled):
                assert len(work.units) == at and work.result is None
            else:
                assert work.error is None and written(work.result) == written(result)
    assert content(run(engine, chat(tmp_path, "ping", enable_thinking=False))) == "pong"


def test_a_job_that_cannot_run_is_failed_alone(engine: VlmEngine, tmp_path: Path) -> None:
    works = [
        bulk(tmp_path, "Tell me a story."),
        bulk(tmp_path, "red circle " * 9000),
        bulk(tmp_path, "ping", generation={"grammar": "root ::= (("}),
        bulk(tmp_path, [{"type": "image", "blob": "0" * 64}]),
        bulk(tmp_path, "What is it?"),
    ]
    together(engine, works)
    assert works[0].error is None and works[4].error is None
    assert isinstance(works[1].error, BatchError) and "context size" in works[1].error.message
    assert isinstance(works[2].error, BadRequest)
    assert works[3].error is not None
    assert works[0].result and works[4].result


def test_an_interactive_job_runs_inside_any_of_their_yield_points(engine: VlmEngine, alone: VlmEngine, tmp_path: Path) -> None:
    expected = [run(alone, work) for work in jobs(tmp_path)]
    inner: list[str] = []

    def urgent() -> None:
        parts = [picture(tmp_path), {"type": "text", "text": "Describe this image."}]
        inner.append(content(run(engine, chat(tmp_path, parts, enable_thinking=False))))
        inner.append(content(run(engine, chat(tmp_path, "ping", enable_thinking=False))))

    works = jobs(tmp_path)
    for i, work in enumerate(works):
        work.at = dict.fromkeys((1, 2, 5 + i, 20), urgent)
    together(engine, works)
    assert [written(work.result) for work in works] == [written(result) for result in expected]
    assert set(inner[::2]) == {"a red circle"} and set(inner[1::2]) == {"pong"}


def test_jobs_of_a_higher_priority_are_computed_together_inside_the_others(
    engine: VlmEngine, alone: VlmEngine, tmp_path: Path
) -> None:
    expected = [run(alone, work) for work in jobs(tmp_path)]
    inner: list[list[ScriptedWork]] = []

    def batch_lines() -> None:
        inner.append(together(engine, jobs(tmp_path, priority=Priority.BATCH)))

    works = jobs(tmp_path)
    works[0].at = {3: batch_lines, 40: batch_lines}
    together(engine, works)
    for group in (works, *inner):
        assert [written(work.result) for work in group] == [written(result) for result in expected]
    assert len(inner) == 2


def test_an_interactive_job_that_was_claimed_with_the_others_goes_first_and_alone(engine: VlmEngine, tmp_path: Path) -> None:
    works = [
        endless(tmp_path, "Tell me a story.", 40),
        endless(tmp_path, "What is it?", 5),
        chat(tmp_path, "ping", enable_thinking=False),
    ]
    ended = note_ends(works)
    together(engine, works)
    assert ended == [2, 1, 0]
    assert content(works[2].result) == "pong"


def test_what_prompts_share_is_computed_once(engine: VlmEngine, alone: VlmEngine, tmp_path: Path) -> None:
    for words, questions in ((600, 6), (1200, 6)):
        system = {"role": "system", "content": f"purple triangle {words} " + "orange circle " * (words // 2)}

        def works(system: dict[str, str] = system, questions: int = questions) -> list[ScriptedWork]:
            turns = [[system, {"role": "user", "content": f"{i + 1}: Tell me a story."}] for i in range(questions)]
            return [bulk(tmp_path, None, messages=messages, priority=Priority.BATCH) for messages in turns]

        done = together(engine, works())
        computed = sum(work.result.timings.prompt_n for work in done)
        assert computed < 1.3 * done[0].result.usage.prompt_tokens
        expected = [written(run(alone, work)) for work in works()]
        assert [written(work.result) for work in done] == expected


def test_no_job_waits_for_a_few_tokens_more_of_what_stands_there_already(
    shared: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = shared
    monkeypatch.setattr(bulk_resources(engine), "mixed_prompt_tokens", 2048)
    context, prompts = bulk_resources(engine).context, []
    decode = context.decode_parts

    def note(parts: list[tuple[list[int], int, int, bool]]) -> int:
        prompts.append(sum(len(tokens) > 1 for tokens, *_ in parts))
        return decode(parts)

    monkeypatch.setattr(context, "decode_parts", note)
    beginning = "blue triangle " * 100
    together(engine, [bulk(tmp_path, f"{beginning}ping", enable_thinking=False)])
    prompts.clear()
    together(engine, [bulk(tmp_path, f"{beginning}Question {number}: ping?", enable_thinking=False) for number in range(4)])
    assert max(prompts) == 4, "all of them at once, though their questions begin alike"


@pytest.mark.parametrize(("slice_tokens", "colour", "wait"), [(16, "orange", True), (256, "purple", False)])
def test_a_slow_models_jobs_wait_for_a_few_tokens_that_another_is_about_to_compute(
    shared: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_tokens: int, colour: str, wait: bool
) -> None:
    engine = shared
    monkeypatch.setattr(bulk_resources(engine), "mixed_prompt_tokens", slice_tokens)
    monkeypatch.setattr(bulk_resources(engine), "bulk_slice_tokens", slice_tokens)
    beginning = f"{colour} square " * 8
    works = together(engine, [bulk(tmp_path, f"{beginning}{n}: ping", enable_thinking=False) for n in range(4)])
    *others, first = sorted(work.result.timings.prompt_n for work in works)
    assert all((computed < 0.7 * first) == wait for computed in others)


def test_an_abort_in_the_middle_changes_nothing(engine: VlmEngine, alone: VlmEngine, tmp_path: Path) -> None:
    expected = [written(run(alone, work)) for work in jobs(tmp_path)]
    works = jobs(tmp_path)
    works[0].at = dict.fromkeys((1, 2, 3, 4, 10, 11, 30), engine.interrupt)
    works[2].at = dict.fromkeys((1, 2, 5, 12), engine.interrupt)
    together(engine, works)
    assert [written(work.result) for work in works] == expected


def test_a_busy_moment_at_load_does_not_make_a_small_model_work_alone_for_ever(
    engine: VlmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_measure_step", lambda model, context, n: 2.0 * n)
    model = engine._resources.model
    assert speed.measure_bulk_speed(model, 1).width == 16
    assert speed.measure_bulk_speed(model, 1, widest=4).width == 4, "where there is memory for no more"
    assert speed.measure_bulk_speed(model, 1, width=2).width == 2


@pytest.mark.parametrize(
    ("step_s", "width", "timed"),
    [
        ((0.02, 0.03, 0.05, 0.08, 0.14), 32, 5),
        ((0.02, 0.03, 0.05, 0.08, 0.16), 16, 5),  # no more tokens a second
        ((0.0002, 0.0004, 0.0006, 0.0010, 0.0018), 16, 5),  # more, and what is around them takes longer
        ((0.04, 0.06, 0.10, 0.16, 0.28), 16, 5),  # more, and too long for whom it keeps waiting
        ((0.10, 0.15, 0.20, 0.26, None), 16, 4),
    ],
)
def test_more_than_sixteen_are_computed_together_only_where_their_step_is_short(
    engine: VlmEngine, monkeypatch: pytest.MonkeyPatch, step_s: tuple[float, ...], width: int, timed: int
) -> None:
    """`step_s`: of 1, 4, 8, 16 and 32 jobs; None: it must not be measured."""
    seconds = dict(zip(speed.WIDTHS, step_s, strict=True))
    monkeypatch.setattr(speed, "_measure_step", lambda model, context, n: seconds[n])
    measured = speed.measure_bulk_speed(engine._resources.model, 1)
    assert measured.width == width and len(measured.rates) == timed


def test_a_busy_moment_that_hides_that_a_wider_step_is_sooner_is_measured_again(
    engine: VlmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_s = {1: [0.02], 4: [0.03], 8: [0.05], 16: [0.08], 32: [0.16, 0.14]}
    monkeypatch.setattr(speed, "_measure_step", lambda model, context, n: step_s[n].pop(0) if step_s[n][1:] else step_s[n][0])
    measured = speed.measure_bulk_speed(engine._resources.model, 1)
    assert measured.width == 32 and measured.rates["32"] == pytest.approx(32 / 0.14, abs=0.1)


def test_on_a_gpu_a_wider_step_has_to_save_nothing_but_its_own_time(engine: VlmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is around a token is done while the GPU computes."""
    step_s = {n: 0.0002 + 0.00001 * n for n in speed.GPU_WIDTHS}
    monkeypatch.setattr(speed, "_measure_step", lambda model, context, n: step_s[n])
    measured = speed.measure_bulk_speed(engine._resources.model, 1, has_gpu=True, own_kv=True)
    assert measured.width == max(speed.GPU_WIDTHS)
    assert speed.measure_bulk_speed(engine._resources.model, 1, has_gpu=True, own_kv=True, widest=32).width == 32


def test_jobs_that_do_not_fit_the_context_together_wait_for_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_planner, "SMALL_MODEL_BYTES", 0)
    small = vlm_setup.loaded(tmp_path, context=2048, parallel=4)
    one = vlm_setup.loaded(tmp_path, context=2048, parallel=1)
    try:

        def works() -> list[ScriptedWork]:
            return [endless(tmp_path, f"{c} circle " * 300, 150) for c in ("red", "blue", "green", "black", "purple")]

        done = together(small, works())
        assert [work.error for work in done] == [None] * 5
        assert [work.result.usage.completion_tokens for work in done] == [150] * 5
        starts = [written(run(one, work))[0][0] for work in works()]
        assert [written(work.result)[0][0][:10] for work in done] == [start[:10] for start in starts]
    finally:
        small.close()
        one.close()


def test_a_job_too_large_for_their_context_is_computed_by_itself_behind_them(
    alone: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "LARGE_OWN_ROOMS", ())
    monkeypatch.setattr(speed, "BULK_TOKENS_PER_JOB", 512)
    engine = vlm_setup.loaded(tmp_path, context=8192, parallel=2)
    try:

        def cancel() -> None:
            raise Cancelled()

        def works() -> list[ScriptedWork]:
            large = "red circle " * 1000 + "Tell me a story."
            return [
                endless(tmp_path, "ping", 40),
                bulk(tmp_path, large, enable_thinking=False),
                bulk(tmp_path, "ping", enable_thinking=False),
                bulk(tmp_path, large, enable_thinking=False),
            ]

        expected = [written(run(alone, work)) for work in works()]
        done = works()
        done[3].at = {3: cancel}
        ended = note_ends(done)
        together(engine, done)
        assert ended == [0, 1, 2], "it let those go first that it found under way, and nobody else"
        assert bulk_resources(engine).context.n_ctx == 512 < done[1].result.usage.prompt_tokens
        assert [written(work.result) for work in done[:3]] == expected[:3]
        assert isinstance(done[3].error, Cancelled)
    finally:
        engine.close()


def test_large_jobs_behind_the_one_that_is_computed_wait_in_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "LARGE_OWN_ROOMS", ())
    monkeypatch.setattr(speed, "BULK_TOKENS_PER_JOB", 256)
    engine = vlm_setup.loaded(tmp_path, context=4096, parallel=4)
    try:
        large = "red circle " * 600
        lead, first, second, _ = done = [endless(tmp_path, text, 4) for text in ("ping", large, large, "pong")]
        ended = note_ends(done)
        put_back = second.put_back

        def return_to_line() -> None:
            put_back()
            ended.append(-1)
            lead.waiting.insert(0, second)

        second.put_back = return_to_line  # type: ignore[method-assign]
        together(engine, done)
        assert sorted(ended[:2]) == [0, 3] and ended[2:] == [-1, 1, 2]
        assert [work.returned for work in done] == [0, 0, 1, 0]
        assert first.result.choices[0].text == second.result.choices[0].text
    finally:
        engine.close()


def test_a_fault_of_the_library_fails_the_job_at_fault_alone(
    engine: VlmEngine, alone: VlmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staged: every decode that holds one certain token fails."""
    expected = [written(run(alone, work)) for work in jobs(tmp_path)]
    context = bulk_resources(engine).context
    bad = vlm_setup.tokenize(engine, " purple")[-1]
    parts, tokens = context.decode_parts, context.decode_tokens

    def failing_parts(given: list[tuple[list[int], int, int, bool]]) -> int:
        return -3 if any(bad in tokens for tokens, *_ in given) else parts(given)

    def failing_tokens(given: list[int], *more: Any, **options: Any) -> int:
        return -3 if bad in given else tokens(given, *more, **options)

    monkeypatch.setattr(context, "decode_parts", failing_parts)
    monkeypatch.setattr(context, "decode_tokens", failing_tokens)
    poison = bulk(tmp_path, "red purple circle")
    works = jobs(tmp_path)
    together(engine, [works[0], poison, *works[1:]])
    assert isinstance(poison.error, BatchError) and "could not compute" in poison.error.message
    assert [written(work.result) for work in works] == expected


def test_nothing_is_left_of_them(engine: VlmEngine, tmp_path: Path) -> None:
    together(engine, jobs(tmp_path))
    context, cache = bulk_resources(engine).context, bulk_resources(engine).cache
    assert not any(slot.is_busy or slot.parked is not None for slot in cache._slots)
    assert sum(len(slot.tokens) > 0 for slot in cache._slots) <= 1
    for slot in cache._slots:
        assert context.last_position(slot.seq) == len(slot.tokens) - 1


def test_progress_and_deltas_are_each_jobs_own(engine: VlmEngine, tmp_path: Path) -> None:
    works = together(engine, [endless(tmp_path, f"{c} circle", 20) for c in ("red", "blue", "green")])
    for work in works:
        assert vlm_setup.streamed(work, "reasoning_content") + vlm_setup.streamed(work) == (
            (work.result.choices[0].message.reasoning_content or "") + content(work.result)
        )
        dones = [done for done, total, _ in work.units if total == 20]
        assert dones == sorted(dones) and dones[-1] == 19


def test_pictures_that_many_jobs_show_are_encoded_once(engine: VlmEngine, tmp_path: Path) -> None:
    before = metrics(engine).image_encodes
    parts = [picture(tmp_path, "sample-green-square.png"), {"type": "text", "text": "Describe this image."}]
    works = together(engine, [bulk(tmp_path, parts, enable_thinking=False) for _ in range(6)])
    assert {content(work.result)[:14] for work in works} == {"a green square"}
    assert metrics(engine).image_encodes <= before + 1
