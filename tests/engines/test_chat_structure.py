"""Answers that are bound: JSON, schemas, grammars, tool calls, and a limit on the thinking."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vlm_setup
from batch.api.jobs.stream_resume import StreamResume
from batch.errors import BadRequest
from batch.workers.chat.engine import VlmEngine
from vlm_setup import chat, completion, content, deltas, streamed, tokenize

SHAPE = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "blue"]},
        "sides": {"type": "integer", "minimum": 0, "maximum": 9},
        "round": {"type": "boolean"},
    },
    "required": ["colour", "sides", "round"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "paint", "parameters": SHAPE}}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VlmEngine]:
    engine = vlm_setup.loaded(tmp_path_factory.mktemp("home"))
    yield engine
    engine.close()


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize(
    "drawn",
    [
        {},
        {"temperature": 1.2, "seed": 5, "top_k": 0, "min_p": 0.0},
        {"temperature": 1.0, "seed": 6, "repeat_penalty": 1.3},
        {"temperature": 1.0, "seed": 7, "mirostat": 2},
    ],
    ids=str,
)
def test_a_schema_binds_the_answer(engine: VlmEngine, tmp_path: Path, thinking: bool, drawn: dict[str, Any]) -> None:
    generation = {"json_schema": SHAPE, "max_tokens": 600, **drawn}
    work = chat(tmp_path, "Describe a shape.", enable_thinking=thinking, generation=generation)
    result = engine.run(work)
    if result.choices[0].finish_reason == "length":
        return
    answer = json.loads(content(result))
    assert set(answer) == {"colour", "sides", "round"}
    assert answer["colour"] in ("red", "blue")
    assert isinstance(answer["round"], bool)
    assert 0 <= answer["sides"] <= 9
    assert streamed(work) == content(result)


def test_any_json_object_may_be_asked_for(engine: VlmEngine, tmp_path: Path) -> None:
    closing = tokenize(engine, "}")[-1]  # an untrained model would write for ever
    generation = {"json_schema": True, "max_tokens": 900, "logit_bias": [[closing, 50.0]]}
    result = engine.run(chat(tmp_path, "ping", enable_thinking=False, generation=generation))
    assert result.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(content(result)), dict)


@pytest.mark.parametrize("favoured", [" red", "[", " {"])
def test_json_that_repeats_itself_is_closed_and_says_so(engine: VlmEngine, tmp_path: Path, favoured: str) -> None:
    token = tokenize(engine, favoured)[-1]
    fields = {
        "type": "object",
        "required": ["a", "b"],
        "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
    }
    texts = {"type": "array", "items": {"type": "string"}, "minItems": 1}

    def generation(schema: Any) -> dict[str, Any]:
        return {"json_schema": schema, "logit_bias": [[token, 50.0]], "max_tokens": 3000}

    for work in (
        chat(tmp_path, "ping", enable_thinking=False, generation=generation(True)),
        chat(tmp_path, "ping", enable_thinking=False, generation=generation(fields)),
        completion(tmp_path, "ping", generation=generation(texts)),
        chat(
            tmp_path,
            "ping",
            enable_thinking=False,
            generation={"logit_bias": [[token, 50.0]]},
            tools=[{"type": "function", "function": {"name": "say", "parameters": fields}}],
            tool_choice="required",
        ),
    ):
        result = engine.run(work)
        choice = result.choices[0]
        assert result.note == "stopped a repetition"
        assert choice.finish_reason in ("stop", "tool_calls")
        calls = choice.message.tool_calls if choice.message else []
        json.loads(calls[0].function.arguments if calls else choice.text or content(result))


def test_thinking_that_repeats_itself_in_front_of_json_is_ended(engine: VlmEngine, tmp_path: Path) -> None:
    red = tokenize(engine, " red")[0]
    generation = {"json_schema": SHAPE, "max_tokens": 3000, "logit_bias": [[red, 50.0]]}
    result = engine.run(chat(tmp_path, "Tell me a story.", enable_thinking=True, generation=generation))
    assert result.note == "stopped a repetition"
    assert result.choices[0].message.reasoning_content.count("red") > 100
    assert set(json.loads(content(result))) == {"colour", "sides", "round"}


def test_a_callers_own_grammar_that_repeats_itself_is_stopped(engine: VlmEngine, tmp_path: Path) -> None:
    result = engine.run(chat(tmp_path, "ping", enable_thinking=False, generation={"grammar": 'root ::= "a" root'}))
    assert result.note == "stopped a repetition" and result.choices[0].finish_reason == "stop"


def test_a_callers_grammar_binds_chat_and_completion(engine: VlmEngine, tmp_path: Path) -> None:
    generation = {"grammar": 'root ::= "yes" | "no"'}
    assert content(engine.run(chat(tmp_path, "ping", enable_thinking=False, generation=generation))) in ("yes", "no")
    text = engine.run(completion(tmp_path, "ping", generation=generation)).choices[0].text
    assert text in ("yes", "no")


def test_a_completion_can_be_json(engine: VlmEngine, tmp_path: Path) -> None:
    result = engine.run(completion(tmp_path, "A shape: ", generation={"json_schema": SHAPE, "max_tokens": 300}))
    assert set(json.loads(result.choices[0].text)) == {"colour", "sides", "round"}


def test_a_broken_grammar_is_a_bad_request(engine: VlmEngine, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="grammar"):
        engine.run(chat(tmp_path, "ping", generation={"grammar": "root ::= (("}))
    with pytest.raises(BadRequest, match="grammar"):
        engine.run(completion(tmp_path, "ping", generation={"grammar": "nothing"}))


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "paint"}}], ids=str)
def test_a_required_call_is_made_with_arguments_that_fit(engine: VlmEngine, tmp_path: Path, choice: Any) -> None:
    work = chat(
        tmp_path,
        "Paint it.",
        tools=[TOOL],
        tool_choice=choice,
        enable_thinking=False,
        parallel_tool_calls=False,
        generation={"max_tokens": 400},
    )
    result = engine.run(work)
    message = result.choices[0].message
    assert result.choices[0].finish_reason == "tool_calls"
    assert message.content == ""
    call = message.tool_calls[0].function
    assert call.name == "paint"
    assert set(json.loads(call.arguments)) == {"colour", "sides", "round"}
    parts = [call for event in deltas(work) for call in event.delta.tool_calls]
    assert "".join(part.function.arguments or "" for part in parts) == call.arguments


def test_tools_that_may_be_called_bind_nothing_before_the_call(engine: VlmEngine, tmp_path: Path) -> None:
    plain = engine.run(chat(tmp_path, "ping", enable_thinking=False))
    offered = engine.run(chat(tmp_path, "ping", tools=[TOOL], tool_choice="auto", enable_thinking=False))
    assert content(offered) == content(plain) == "pong"


def test_a_call_the_model_begins_itself_is_bound_behind_its_marker(engine: VlmEngine, tmp_path: Path) -> None:
    """The tiny model never calls by itself, so its first token is biased into the marker."""
    marker = tokenize(engine, "<|tool_call>")
    assert len(marker) == 1
    work = chat(
        tmp_path,
        "Paint it.",
        tools=[TOOL],
        tool_choice="auto",
        enable_thinking=False,
        parallel_tool_calls=False,
        generation={"max_tokens": 400, "logit_bias": [[marker[0], 100.0]]},
    )
    result = engine.run(work)
    call = result.choices[0].message.tool_calls[0].function
    assert call.name == "paint"
    assert set(json.loads(call.arguments)) == {"colour", "sides", "round"}


@pytest.mark.parametrize("budget", [0, 1, 4])
def test_the_thinking_ends_at_its_budget_and_the_answer_follows(engine: VlmEngine, tmp_path: Path, budget: int) -> None:
    free = engine.run(chat(tmp_path, "Tell me a story.", enable_thinking=True))
    bound = engine.run(chat(tmp_path, "Tell me a story.", enable_thinking=True, reasoning_budget=budget))
    used = bound.usage.completion_tokens_details.reasoning_tokens
    assert used == 2 + budget + 1 < free.usage.completion_tokens_details.reasoning_tokens
    assert content(bound)
    # What opens a channel is whole, and costs nothing.
    left = engine.run(
        chat(tmp_path, "Tell me a story.", enable_thinking=True, reasoning_budget=budget, reasoning_format="none")
    )
    thought, _, answer = content(left).removeprefix("<|channel>thought").partition("<channel|>")
    assert len(tokenize(engine, thought)) == budget
    assert answer == content(bound)


def test_thinking_and_its_budget_can_be_set_for_all_requests(tmp_path: Path) -> None:
    for setting, budget, asked, thinks in (
        ("off", -1, None, False),
        ("off", -1, True, True),
        ("on", -1, None, True),
        ("on", -1, False, False),
        ("auto", 4, None, True),
    ):
        engine = vlm_setup.loaded(tmp_path, thinking=setting, thinking_budget=budget)
        try:
            request = {} if asked is None else {"enable_thinking": asked}
            result = engine.run(chat(tmp_path, "Tell me a story.", **request))
            n = result.usage.completion_tokens_details.reasoning_tokens
            assert (n > 0) is thinks
            assert budget < 0 or n <= 2 + budget + 1
        finally:
            engine.close()


def test_no_budget_changes_nothing(engine: VlmEngine, tmp_path: Path) -> None:
    free = engine.run(chat(tmp_path, "Tell me a story.", enable_thinking=True))
    assert engine.run(chat(tmp_path, "Tell me a story.", enable_thinking=True, reasoning_budget=-1)).choices == (free.choices)


def test_an_answer_goes_on_from_the_assistants_last_message(engine: VlmEngine, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": "Once there was a"}]
    work = chat(tmp_path, None, messages=messages)
    result = engine.run(work)
    assert content(result).startswith("Once there was a red circle.")
    assert streamed(work) == content(result).removeprefix("Once there was a")
    assert result.choices[0].prefill == {"content": len("Once there was a")}


def test_thinking_that_the_request_began_is_told_apart_too(engine: VlmEngine, tmp_path: Path) -> None:
    begun = "<|channel>thought\nHm.<channel|>Once"
    messages = [{"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": begun}]
    work = chat(tmp_path, None, messages=messages, generation={"max_tokens": 4})
    choice = engine.run(work).choices[0]
    assert choice.prefill == {"reasoning_content": len("Hm."), "content": len("Once")}, choice
    assert streamed(work) == choice.message.content.removeprefix("Once")


def test_an_answer_that_adds_nothing_to_its_beginning_tells_nothing(engine: VlmEngine, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": "Once"}]
    work = chat(tmp_path, None, messages=messages, generation={"max_tokens": 0})
    result = engine.run(work)
    assert content(result) == "Once" and streamed(work) == ""
    assert list(StreamResume().missing(result)) == []
