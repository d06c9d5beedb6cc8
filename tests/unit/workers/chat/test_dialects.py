"""What models write, told apart: thinking, answers and calls, however the text is cut into pieces."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.payloads.chat import ChatPayload
from batch.workers.chat.dialects.derived.known_markers import TOOL_CALL
from batch.workers.chat.dialects.dialect import Dialect, for_template
from batch.workers.chat.dialects.gemma4_arguments import QUOTE
from paths import DATA
from property_examples import examples

GEMMA = for_template("<|turn> <|channel> <channel|> '<|tool_call>call:'")
THINK = for_template('<think></think> <tool_call>{"name": n, "arguments": a}</tool_call>')
PLAIN = for_template("{{ messages[0].content }}")
PAIRS: list[dict[str, Any]] = json.loads((DATA / "gemma4_pairs.json").read_text())


def written(value: Any) -> str:
    """A value as Gemma 4 writes it in a call."""
    if isinstance(value, str):
        return QUOTE + value.replace(QUOTE, "") + QUOTE
    if isinstance(value, dict):
        return "{" + ",".join(f"{written_key(str(k))}:{written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(v) for v in value) + "]"
    return json.dumps(value)


def written_key(name: str) -> str:
    is_bare = name and name == name.strip() and not set(name) & set(':{}<|>",[]')
    return name if is_bare else written(name)


def parse(
    dialect: Dialect, pieces: list[str], stop: str = "stop", **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(message without ids, deltas)."""
    parser = dialect.parser(**options)
    deltas = [d for piece in pieces for d in parser.feed(piece)] + parser.finish(stop)
    message = parser.message()
    for call in message.get("tool_calls", ()):
        assert re.fullmatch("[A-Za-z0-9]{32}", call.pop("id"))
    return message, deltas


def gathered(deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client puts together from the deltas."""
    made: dict[str, Any] = {"role": "assistant", "content": ""}
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        assert len(delta) == 1
        for key in ("content", "reasoning_content"):
            if key in delta:
                assert delta[key]
                made[key] = made.get(key, "") + delta[key]
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                assert call["index"] == len(calls) and call["function"]["arguments"] == ""
                calls.append({"type": call["type"], "function": dict(call["function"])})
            else:
                assert call["index"] == len(calls) - 1
                calls[-1]["function"]["arguments"] += call["function"]["arguments"]
    if calls:
        made["tool_calls"] = calls
    return made


def arguments(call: dict[str, Any]) -> Any:
    try:
        return json.loads(call["function"]["arguments"])
    except ValueError:
        return call["function"]["arguments"]


@pytest.mark.parametrize("pair", PAIRS, ids=[p["name"] for p in PAIRS])
def test_gemma4_pairs_hold_in_one_piece_and_in_single_characters(pair: dict[str, Any]) -> None:
    options = dict(pair["options"])
    stop = options.pop("stop", "stop")
    tools = [{"function": {"name": name}} for name in pair["tools"]]
    chat = msgspec.convert({"messages": [], "tools": tools, "tool_choice": options.pop("tool_choice", "auto")}, ChatPayload)
    options["functions"] = frozenset(tool.function.name for tool in chat.callable_tools)
    whole, whole_deltas = parse(GEMMA, [pair["input"]], stop, **options)
    single, single_deltas = parse(GEMMA, list(pair["input"]), stop, **options)
    assert single == whole
    found = dict(whole)
    if "tool_calls" in found:
        found["tool_calls"] = [{"name": c["function"]["name"], "arguments": arguments(c)} for c in found["tool_calls"]]
    assert found == pair["expected"]
    if "prefill" not in options:
        assert gathered(whole_deltas) == gathered(single_deltas) == whole


def test_a_call_makes_the_finish_reason_tool_calls_unless_it_was_cut() -> None:
    parser = GEMMA.parser(functions=frozenset({"f"}))
    parser.feed("<|tool_call>call:f{}<tool_call|>")
    assert parser.finish_reason("stop") == "tool_calls"
    assert parser.finish_reason("length") == "length"
    assert GEMMA.parser().finish_reason("stop") == "stop"


def test_thinking_is_true_exactly_while_the_model_thinks() -> None:
    parser = GEMMA.parser()
    seen = []
    for piece in ("<|channel>", "thought", "\n", "hm", "<channel|>", "answer"):
        parser.feed(piece)
        seen.append(parser.thinking)
    assert seen == [True, True, True, True, False, False]
    assert GEMMA.parser(prompt_tail="<|channel>thought\n").thinking
    assert not GEMMA.parser(prompt_tail="<|channel>thought\n<channel|>").thinking
    assert THINK.parser(prompt_tail="<think>\n").thinking


def test_text_that_resembles_a_marker_is_released_as_soon_as_it_cannot_be_one() -> None:
    parser = GEMMA.parser(functions=frozenset({"f"}))
    parser.feed("a")
    assert parser.feed("<|") == []
    assert parser.feed("x") == [{"content": "<|x"}]
    assert parser.feed("<|tool_call>") == []
    assert parser.feed("call:g") == [{"content": "<|tool_call>call:g"}]


def test_an_answer_is_told_at_once_and_arguments_as_they_come() -> None:
    parser = GEMMA.parser(functions=frozenset({"f"}))
    assert parser.feed("Hello") == [{"content": "Hello"}]
    parser.feed("<|tool_call>")
    assert parser.called == ""
    parser.feed("call:")
    assert parser.called == "call:"
    [first] = parser.feed("f{")[:1]
    assert first["tool_calls"][0]["function"] == {"name": "f", "arguments": ""}
    assert parser.called is None
    parser.feed('text:<|"|>one')
    [more] = parser.feed(" two")
    assert more == {"tool_calls": [{"index": 0, "function": {"arguments": " two"}}]}


THOUGHTS = [
    ("<think>\nhm\n</think>\n\nyes", {}, {"content": "yes", "reasoning_content": "hm"}),
    ("\n<think>hm</think>yes", {}, {"content": "yes", "reasoning_content": "hm"}),
    ("<think>\n\n</think>\n\nyes", {}, {"content": "yes"}),
    ("hm\n</think>\nyes", {"prompt_tail": "<think>\n"}, {"content": "yes", "reasoning_content": "hm"}),
    ("\n\nyes", {"prompt_tail": "<think>\n\n</think>\n\n"}, {"content": "yes"}),
    ("yes <think>no</think>", {}, {"content": "yes <think>no</think>"}),
    ("<thin air", {}, {"content": "<thin air"}),
    ("<think>cut </thi", {"stop": "length"}, {"content": "", "reasoning_content": "cut </thi"}),
    ("<think>\nhm\n</think>\nyes", {"reasoning_format": "none"}, {"content": "<think>\nhm\n</think>\nyes"}),
    ("<think>", {"stop": "length"}, {"content": ""}),
    (" \n", {}, {"content": " \n"}),
]


@pytest.mark.parametrize(("text", "options", "expected"), THOUGHTS)
def test_think_models(text: str, options: dict[str, Any], expected: dict[str, Any]) -> None:
    for pieces in ([text], list(text)):
        assert parse(THINK, pieces, **options)[0] == {"role": "assistant", **expected}


def test_calls_in_json_are_read() -> None:
    text = (
        '<think>\nhm\n</think>\n<tool_call>\n{"name": "f", "arguments": {"a": "x"}}\n</tool_call>\n'
        '<tool_call>{"name": "g"}</tool_call>'
    )
    for pieces in ([text], list(text)):
        message, deltas = parse(THINK, pieces, functions=frozenset({"f", "g"}))
        assert [(c["function"]["name"], arguments(c)) for c in message["tool_calls"]] == [("f", {"a": "x"}), ("g", {})]
        assert message["content"] == "" and message["reasoning_content"] == "hm"
        assert gathered(deltas) == message
    for unread in (
        '<tool_call>{"name": "h"}</tool_call>',
        "<tool_call>nonsense</tool_call>",
        "<tool_call>[1]</tool_call>",
    ):
        assert parse(THINK, [unread], functions=frozenset({"f"}))[0]["content"] == unread


def test_a_plain_model_has_no_markers() -> None:
    text = "<think>x</think><|channel>thought\n<channel|><tool_call>"
    assert parse(PLAIN, list(text), functions=frozenset({"f"}))[0]["content"] == text


def test_templates_show_their_dialect() -> None:
    assert (GEMMA.name, GEMMA.calls, GEMMA.fence, GEMMA.enable_thinking) == ("gemma4", "gemma4", True, True)
    assert (THINK.name, THINK.calls, THINK.fence, THINK.enable_thinking) == ("derived", TOOL_CALL, False, None)
    assert (PLAIN.name, PLAIN.calls, PLAIN.thinking) == ("plain", None, None)
    assert for_template(None).name == "plain"


PIECES = st.sampled_from(
    [
        "<|channel>",
        "<channel|>",
        "thought",
        "\n",
        "<|tool_call>",
        "<tool_call|>",
        "call:",
        "f{",
        "g{",
        "}",
        "{",
        "[",
        "]",
        ",",
        ":",
        '<|"|>',
        '"',
        "\\",
        "a",
        "1",
        "-",
        "true",
        "<|turn>model\n",
        "<|tool_response>",
        "<|",
        "|>",
        "<",
        " ",
        "```json",
        "```",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        '{"name": "f", "arguments": {}}',
        "é🙂",
    ]
)


@settings(max_examples=examples(300), deadline=None)
@given(
    st.lists(PIECES, max_size=30),
    st.data(),
    st.sampled_from([GEMMA, THINK, PLAIN]),
    st.sampled_from(["stop", "length"]),
)
def test_however_the_text_is_cut_the_message_is_the_same(
    parts: list[str], data: st.DataObject, dialect: Dialect, stop: str
) -> None:
    text = "".join(parts)
    options = {
        "functions": data.draw(st.sampled_from([frozenset[str](), frozenset({"f", "g"})])),
        "parallel": data.draw(st.booleans()),
        "reasoning_format": data.draw(st.sampled_from(["auto", "none"])),
        "fenced": data.draw(st.booleans()),
    }
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole, whole_deltas = parse(dialect, [text], stop, **options)
    for cut in (pieces, list(text)):
        message, deltas = parse(dialect, cut, stop, **options)
        assert message == whole
        assert gathered(deltas) == whole
    assert gathered(whole_deltas) == whole


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(PIECES, max_size=30))
def test_no_channel_marker_reaches_the_content(parts: list[str]) -> None:
    message, _ = parse(GEMMA, ["".join(parts)])
    assert "<|channel>" not in message["content"]
    assert "<channel|>" not in message["content"] + message.get("reasoning_content", "")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])).filter(lambda s: '<|"|>' not in s),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda s: "<" not in s),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=examples(300), deadline=None)
@given(st.dictionaries(st.text("abc_- .", min_size=1).filter(lambda s: s == s.strip()), VALUES, max_size=4))
def test_every_value_that_gemma_can_write_comes_out_as_it_is(value: dict[str, Any]) -> None:
    text = f"<|tool_call>call:f{written(value)}<tool_call|>"
    for pieces in ([text], list(text)):
        message, _ = parse(GEMMA, pieces, functions=frozenset({"f"}))
        assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == value


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(PIECES, max_size=25))
def test_a_call_that_has_ended_is_valid_json_whatever_stands_in_it(parts: list[str]) -> None:
    text = "<|tool_call>call:f{" + "".join(p for p in parts if p != '"')
    # the first braces end the call, unless they stand in a string: then the mark ends that, and the second ones the call
    message, _ = parse(GEMMA, [text, "}" * 40, '<|"|>', "}" * 40], functions=frozenset({"f"}))
    assert message["tool_calls"], "what begins as a call is one"
    assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in message["tool_calls"])
