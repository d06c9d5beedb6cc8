"""How models write, read off the official chat templates: calls, thoughts and answers come back as they were rendered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batch.errors import BadRequest
from batch.payloads.chat import ChatPayload
from batch.workers.chat.dialects.derived.layout import CallLayout
from batch.workers.chat.dialects.derived.template_probe import shared_length
from batch.workers.chat.dialects.dialect import Dialect, for_template
from batch.workers.chat.grammar.constraint import ConstraintBuilder
from batch.workers.chat.grammar.matcher import Matcher, Vocabulary
from batch.workers.chat.prompt.template import ChatTemplate
from batch.workers.chat.prompt.tool_prompt import with_tools_told
from grammar_setup import build, takes
from property_examples import SHARE, example_files

ENDS = (
    *("</s>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<SPECIAL_12>", "<|return|>", "<|call|>"),
    *("<turn|>", "<|END_OF_TURN_TOKEN|>", "<|tool_response>", "<end_of_turn>", "<｜end▁of▁sentence｜>"),
)
"""What ends an answer; the vocabularies of the models say so."""
NOT_UNDERSTOOD = {
    "HuggingFaceTB-SmolLM3-3B.jinja": "reads no tools",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja": "reads no tools and leaves calls out",
    "google-gemma-2-2b-it.jinja": "reads no tools",
    "llama-cpp-rwkv-world.jinja": "reads no tools",
    "microsoft-Phi-3.5-mini-instruct.jinja": "reads no tools",
    "muse-glimmer.jinja": "writes each call as a message to a recipient, with the name twice",
}
"""Templates with which tools are a 400."""
HISTORY_WITHOUT_CALLS = {
    "LFM2-8B-A1B.jinja",
    "LFM2.5-Instruct.jinja",
    "ibm-granite-granite-3.3-2B-Instruct.jinja",
}
"""Templates that leave calls out of a history: how they are written is known from their text."""
ONE_CALL = {
    "GigaChat3-10B-A1.8B.jinja",
    "GigaChat3.1-10B-A1.8B.jinja",
    "meta-llama-Llama-3.1-8B-Instruct.jinja",
    "meta-llama-Llama-3.2-3B-Instruct.jinja",
    "meta-llama-Llama-3.3-70B-Instruct.jinja",
    "openai-gpt-oss-120b.jinja",
}
"""Templates that write the first call of a message only, or refuse more."""
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "near": {"type": "boolean"},
        "tags": {"type": "array", "items": {}},
        "more": {"type": "object"},
    },
    "required": ["city"],
}
FUNCTIONS = ("get_weather", "get")
TOOLS = [{"type": "function", "function": {"name": name, "description": "d", "parameters": PARAMETERS}} for name in FUNCTIONS]
ARGUMENTS = {"city": 'Bad "Tölz" <b> é\n\n x', "days": 7, "near": True, "tags": [1, "a"], "more": {"k": "v"}}
NESTED = ("tags", "more")
QUESTION = {"role": "user", "content": "How is it?"}
TEMPLATES = "models/templates"


@lru_cache(maxsize=100)
def read(path: Path) -> tuple[ChatTemplate, Dialect]:
    """A template and its dialect."""
    template = ChatTemplate(path.read_text(), "<s>", "</s>")
    return template, for_template(template.source, template.probe, ends=frozenset(ENDS))


def understood(source: Path) -> Iterator[tuple[str, ChatTemplate, Dialect]]:
    for path in example_files((source / TEMPLATES).glob("*.jinja")):
        if path.name not in NOT_UNDERSTOOD:
            yield path.name, *read(path)


def call(index: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"call0000{index}", "type": "function", "function": {"name": FUNCTIONS[index], "arguments": arguments}}


def arguments_for(name: str) -> dict[str, Any]:
    """MiniMax-M3 writes nested values as tags inside of tags, which are not read."""
    return {key: value for key, value in ARGUMENTS.items() if name != "MiniMax-M3.jinja" or key not in NESTED}


def written(template: ChatTemplate, dialect: Dialect, turn: dict[str, Any]) -> tuple[str, str]:
    """What the model would have written to say this turn, and the end of its prompt."""
    prompt = template.probe([QUESTION], TOOLS, True)
    history = template.probe([QUESTION], TOOLS, False)
    whole = template.probe([QUESTION, {"role": "assistant", "content": "", **turn}], TOOLS, False)
    assert prompt is not None and history is not None and whole is not None
    at = shared_length(prompt, whole)
    text = whole[at:]
    # Command R+ has a system's turn before the prompt's last words, but not before a turn of the history.
    text = text[next((n for n in range(len(text), 0, -1) if text[:n].strip() and prompt.endswith(text[:n])), 0) :]
    for end in ENDS:
        text = text.partition(end)[0]
    text = text.removesuffix(dialect.calls.turn_end if isinstance(dialect.calls, CallLayout) else "<|end|>\n")
    tail = prompt[shared_length(history, prompt) :] if at >= len(prompt) else ""
    opening, closing = dialect.thinking or ("", "")
    if closing and (text.lstrip().startswith(closing) or (closing in text and opening not in text)):
        tail = opening  # the prompt of a model that thinks ends so
    return text, tail


def parsed(dialect: Dialect, text: str, tail: str) -> tuple[list[tuple[str, Any]], str, str]:
    """(calls, content, reasoning), the same in one piece and in single characters."""
    messages = []
    for pieces in ([text], list(text)):
        parser = dialect.parser(functions=frozenset(FUNCTIONS), schemas=dict.fromkeys(FUNCTIONS, PARAMETERS), prompt_tail=tail)
        for piece in pieces:
            parser.feed(piece)
        parser.finish()
        message = parser.message()
        for each in message.get("tool_calls", ()):
            each.pop("id")
        messages.append(message)
    assert messages[0] == messages[1]
    calls = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in messages[0].get("tool_calls", ())]
    return calls, messages[0]["content"], messages[0].get("reasoning_content", "")


def test_a_rendered_call_is_recognised_again_with_its_name_and_arguments(llama_cpp_source: Path) -> None:
    seen = 0
    for name, template, dialect in understood(llama_cpp_source):
        assert dialect.calls is not None, name
        if name in HISTORY_WITHOUT_CALLS:
            continue
        arguments = arguments_for(name)
        text, tail = written(template, dialect, {"tool_calls": [call(1, arguments)]})
        assert parsed(dialect, text, tail) == ([("get", arguments)], "", ""), name
        seen += 1
    assert seen >= 60 * SHARE


def test_two_rendered_calls_are_recognised_again(llama_cpp_source: Path) -> None:
    for name, template, dialect in understood(llama_cpp_source):
        if name in HISTORY_WITHOUT_CALLS | ONE_CALL:
            continue
        arguments = arguments_for(name)
        turn = {"tool_calls": [call(0, arguments), call(1, arguments)]}
        calls, content, _ = parsed(dialect, *written(template, dialect, turn))
        assert (calls, content) == ([("get_weather", arguments), ("get", arguments)], ""), name


def test_thoughts_and_the_marks_around_answers_do_not_leak_into_the_content(llama_cpp_source: Path) -> None:
    thoughts = 0
    for path in example_files((llama_cpp_source / TEMPLATES).glob("*.jinja")):
        template, dialect = read(path)
        turn = {"content": "The answer.", template.reasoning_field: "A deep thought."}
        text, tail = written(template, dialect, turn)
        _, content, reasoning = parsed(dialect, text, tail)
        if "A deep thought." in text:
            thoughts += 1
            assert reasoning == "A deep thought.", path.name
            assert content.strip() == "The answer.", path.name
        _, content, _ = parsed(dialect, *written(template, dialect, {"content": "The answer."}))
        if path.name != "NVIDIA-Nemotron-Nano-v2.jinja":  # its history has answers behind an opened thought
            assert content.strip() == "The answer.", path.name
    assert thoughts >= 20 * SHARE


def test_the_grammar_of_a_required_call_lets_through_what_the_template_writes(llama_cpp_source: Path) -> None:
    for name, template, dialect in understood(llama_cpp_source):
        if name in HISTORY_WITHOUT_CALLS:
            continue
        arguments = {"city": "Ulm", "days": 7}
        text, tail = written(template, dialect, {"tool_calls": [call(1, arguments)]})
        closing = dialect.thinking[1] if dialect.thinking else ""
        text = text.rpartition(closing)[2].lstrip() if closing and closing in text else text.lstrip()
        if dialect.name == "harmony":
            text = " " + text
        if isinstance(dialect.calls, CallLayout) and dialect.calls.tags and dialect.calls.tags.is_python:
            text = text.replace("'", '"')  # Python takes both quotes; the grammar writes JSON's
        if dialect.name == "gemma4" or "▁" in text:  # the tiny vocabulary reads DeepSeek's underlines as spaces
            continue  # arguments in the order of their names; test_constraint has its grammar
        tail = "" if tail in (dialect.thinking or ()) else tail
        made = build(None, TOOLS, "required", dialect=dialect, tail=tail)
        assert takes(made, text, whole=False), (name, text)
        named = build(None, TOOLS, {"name": "get_weather"}, dialect=dialect, tail=tail)
        assert not takes(named, text, whole=False), name


def test_where_calls_are_not_understood_tools_are_a_400_that_says_so(llama_cpp_source: Path) -> None:
    for name in NOT_UNDERSTOOD:
        _, dialect = read(llama_cpp_source / TEMPLATES / name)
        assert dialect.calls is None, name
        with pytest.raises(BadRequest, match="tools cannot be called"):
            build(None, TOOLS, "auto", dialect=dialect)


def test_text_that_only_begins_like_a_call_is_content(llama_cpp_source: Path) -> None:
    for name, _, dialect in understood(llama_cpp_source):
        if not isinstance(dialect.calls, CallLayout):
            continue
        text = f"Look: {dialect.calls.trigger} is how a call begins."
        calls, content, _ = parsed(dialect, text, "")
        assert calls == [], name
        assert content == text or dialect.answer.content_end == dialect.calls.trigger, name


def test_values_between_tags_have_the_types_that_the_schema_allows(llama_cpp_source: Path) -> None:
    _, dialect = read(llama_cpp_source / TEMPLATES / "Qwen3-Coder.jinja")
    schema = {
        "type": "object",
        "properties": {
            "zip": {"type": "string"},
            "note": {"type": ["string", "null"]},
            "many": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "other": {"$ref": "#/$defs/Flag"},
        },
        "$defs": {"Flag": {"type": "boolean"}},
    }
    values = {"zip": "01234", "note": "null", "many": "7", "other": "True", "free": "[1, 2]", "text": " two\nlines </p "}
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    parser = dialect.parser(functions=frozenset({"f"}), schemas={"f": schema})
    parser.feed(f"<tool_call>\n<function=f>\n{body}</function>\n</tool_call>")
    parser.finish()
    assert json.loads(parser.message()["tool_calls"][0]["function"]["arguments"]) == {
        "zip": "01234",
        "note": None,
        "many": 7,
        "other": True,
        "free": [1, 2],
        "text": " two\nlines </p ",
    }


def test_text_arguments_are_told_as_they_come(llama_cpp_source: Path) -> None:
    _, dialect = read(llama_cpp_source / TEMPLATES / "Qwen3-Coder.jinja")
    parser = dialect.parser(functions=frozenset(FUNCTIONS), schemas=dict.fromkeys(FUNCTIONS, PARAMETERS))
    [named, *_] = parser.feed("<tool_call>\n<function=get>\n<parameter=city>\nBad ")
    assert named["tool_calls"][0]["function"]["name"] == "get"
    assert parser.feed("Tö") == [{"tool_calls": [{"index": 0, "function": {"arguments": "Tö"}}]}]


def test_a_call_is_bound_from_its_marker_on(llama_cpp_source: Path) -> None:
    for name in ("Qwen3-Coder", "moonshotai-Kimi-K2", "meta-llama-Llama-3.1-8B-Instruct", "openai-gpt-oss-120b"):
        _, dialect = read(llama_cpp_source / TEMPLATES / f"{name}.jinja")
        made = build(None, TOOLS, "auto", dialect=dialect)
        assert made is not None and made.lazy
        parser = dialect.parser(functions=frozenset(FUNCTIONS))
        trigger = dialect.calls.trigger if isinstance(dialect.calls, CallLayout) else " to=functions."
        parser.feed(trigger)
        assert parser.called == "", name
        assert not takes(made, "nonsense", whole=False), name


def test_a_prefill_never_lands_inside_a_thought_or_a_header(llama_cpp_source: Path) -> None:
    for name, closing in (
        ("Qwen3.5-4B", "</think>"),
        ("Cohere2MoE", "<|END_THINKING|><|START_TEXT|>"),
        ("openai-gpt-oss-120b", "<|channel|>final<|message|>"),
    ):
        template, dialect = read(llama_cpp_source / TEMPLATES / f"{name}.jinja")
        prompt, history = template.probe([QUESTION], (), True), template.probe([QUESTION], (), False)
        assert prompt is not None and history is not None
        tail = prompt[len(history) :]
        assert dialect.prefill_begin(tail) == closing, name
        parser = dialect.parser(prompt_tail=tail + closing, prefill="The answer")
        parser.feed(" is 7.")
        parser.finish()
        assert parser.message() == {"role": "assistant", "content": "The answer is 7."}, name


def test_thinking_is_given_to_a_template_under_the_name_that_it_reads(llama_cpp_source: Path) -> None:
    names = {name: read(llama_cpp_source / TEMPLATES / f"{name}.jinja")[0].reasoning_field for name in (
        "openai-gpt-oss-120b", "upstage-Solar-Open-100B", "Qwen-Qwen3-0.6B", "google-gemma-4-31B-it"
    )}  # fmt: skip
    assert list(names.values()) == ["thinking", "reasoning", "reasoning_content", "reasoning_content"]


def test_a_template_that_leaves_tools_out_is_given_them_as_a_systems_text(llama_cpp_source: Path) -> None:
    template, dialect = read(llama_cpp_source / TEMPLATES / "deepseek-ai-DeepSeek-V3.1.jinja")
    assert not dialect.shows_tools and isinstance(dialect.calls, CallLayout)
    told = with_tools_told([dict(QUESTION)], TOOLS, dialect.calls)
    prompt = template.probe(told, TOOLS, True)
    assert prompt is not None and '"name": "get_weather"' in prompt
    assert "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>" in prompt


def test_tools_without_optional_fields_get_those_that_a_template_needs(llama_cpp_source: Path) -> None:
    path = llama_cpp_source / TEMPLATES / "CohereForAI-c4ai-command-r-plus-tool_use.jinja"
    parameters = {"type": "object", "properties": {"a": {"type": "array"}}}
    bare = [{"type": "function", "function": {"name": "look_up", "parameters": parameters}}]
    assert "def look_up(" in (read(path)[0].probe([QUESTION], bare, True) or "")


def byte_tokens(text: str, special: dict[str, int]) -> list[int]:
    """The tokens of a text: its markers, and a token a byte for the rest."""
    parts = re.split("(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")", text) if special else [text]
    return [token for part in parts for token in ([special[part]] if part in special else part.encode())]


def test_the_grammar_holds_where_every_marker_is_a_token_of_its_own(llama_cpp_source: Path) -> None:
    for name, template, dialect in understood(llama_cpp_source):
        if name in HISTORY_WITHOUT_CALLS or dialect.name == "gemma4":
            continue
        markers = sorted({m for text in dialect.markers for m in re.findall(r"<[^<>\s\x00-\x02]+>|\[[A-Z_]+\]", text)})
        special = {marker: 257 + at for at, marker in enumerate(markers)}
        pieces = [*(bytes([n]) for n in range(256)), b"", *(marker.encode() for marker in markers)]
        vocabulary = Vocabulary(pieces, {256}, special)
        text, tail = written(template, dialect, {"tool_calls": [call(1, {"city": "Ulm", "days": 7})]})
        closing = dialect.thinking[1] if dialect.thinking else ""
        text = text.rpartition(closing)[2].lstrip() if closing and closing in text else text.lstrip()
        if dialect.name == "harmony":
            text = " " + text
        if isinstance(dialect.calls, CallLayout) and dialect.calls.tags and dialect.calls.tags.is_python:
            text = text.replace("'", '"')
        chat = {"messages": [], "tools": TOOLS, "tool_choice": "required"}
        tail = "" if tail in (dialect.thinking or ()) else tail
        builder = ConstraintBuilder(dialect, vocabulary.token_id)
        made = builder.for_chat(msgspec.convert(chat, ChatPayload), may_think=True, prompt_tail=tail)
        assert made is not None
        opening, closing = dialect.thinking or ("", "")
        thought = f"{opening}A < b, [so] it is.{closing}" if opening and opening not in tail else ""
        if dialect.name == "harmony":
            thought += "<|start|>assistant"
        matcher = Matcher(vocabulary, made.grammar, made.field)
        for token in byte_tokens(thought + text, special):
            assert matcher.allows(token), (name, thought + text, token)
            matcher.accept(token)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "A thought.<|END_THINKING|><|START_RESPONSE|>\nAn answer."),
        ("Kimi-K3", "An answer.<|close|>think<|sep|><|open|>response<|sep|>More."),
    ],
)
def test_however_an_answers_marks_are_cut_the_message_is_the_same(llama_cpp_source: Path, name: str, text: str) -> None:
    _, dialect = read(llama_cpp_source / TEMPLATES / f"{name}.jinja")
    tail = dialect.thinking[0] if dialect.thinking and "END_THINKING" in text else ""
    for form in ("none", "auto"):
        messages = []
        for at in range(len(text)):
            parser = dialect.parser(reasoning_format=form, prompt_tail=tail)  # type: ignore[arg-type]
            parser.feed(text[:at])
            parser.feed(text[at:])
            parser.finish()
            messages.append(parser.message())
        assert all(message == messages[0] for message in messages), form
