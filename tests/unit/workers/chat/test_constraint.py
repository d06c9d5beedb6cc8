"""What an answer has to follow: schemas, grammars, expressions and calls, each behind the thinking that may come first."""

from __future__ import annotations

from typing import Any

import pytest

from batch.errors import BadRequest
from batch.payloads.chat import GenerationParams
from batch.workers.chat.dialects.dialect import for_template
from grammar_setup import build, builder, schema, takes

# What marks the dialects; real templates are longer.
GEMMA = "<|turn> <|channel> <channel|> '<|tool_call>call:' {#- OpenAI Chat Completions: -#}"
THINK = '<think></think> <tool_call>{"name": n, "arguments": a}</tool_call>'

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}


def test_nothing_asked_is_no_constraint() -> None:
    assert build() is None
    assert build({"max_tokens": 3, "grammar": ""}, [WEATHER], "none", dialect=for_template(GEMMA)) is None
    assert build({"json_schema": False}) is None


def test_gemma_json_stands_in_its_fence_behind_an_optional_thought() -> None:
    gemma = for_template(GEMMA)
    made = build({"json_schema": {"type": "integer"}}, dialect=gemma, thinking=True)
    assert made is not None and made.fenced and not made.lazy
    assert takes(made, "```json\n7\n```")
    assert takes(made, "<|channel>thought\nA number < 8, I <channel think.\n<channel|>```json\n7\n```")
    assert takes(made, "<|channel><|channel>thought\n<channel|>```json 7 ```")
    assert not takes(made, "7")
    assert not takes(made, "<|channel>thought\nx<channel|>Well, ```json\n7\n```")
    off = build({"json_schema": {"type": "integer"}}, dialect=gemma, thinking=False)
    assert takes(off, "```json\n7\n```")
    assert not takes(off, "<|channel>thought\n<channel|>```json\n7\n```")
    opened = build({"json_schema": {"type": "integer"}}, dialect=gemma, thinking=True, tail="<|turn>model\n<|channel>thought\n")
    assert takes(opened, "hm<channel|>```json\n7\n```")
    assert not takes(opened, "```json\n7\n```")


def test_a_gemma_model_that_never_learned_fences_gets_none() -> None:
    made = build({"json_schema": {}}, dialect=for_template("<|turn><|channel><channel|>"), thinking=True)
    assert made is not None and not made.fenced
    assert takes(made, '{"a": 1}')
    assert takes(made, '<|channel>thought\nhm<channel|>{"a": 1}')


def test_think_models_may_think_before_json() -> None:
    think = for_template(THINK)
    made = build({"json_schema": {"type": "boolean"}}, dialect=think, thinking=True)
    assert takes(made, "<think>\n1 < 2, so </ yes\n</think>\n\ntrue")
    assert takes(made, "false")
    opened = build({"json_schema": {"type": "boolean"}}, dialect=think, thinking=True, tail="<|assistant|><think>\n")
    assert takes(opened, "so</think>\ntrue")
    assert not takes(opened, "true")


def test_a_callers_grammar_binds_the_answer_and_leaves_the_thinking_free() -> None:
    made = build({"grammar": 'root ::= r0 "!"\nr0 ::= "yes" | "no"'}, dialect=for_template(GEMMA), thinking=True)
    assert takes(made, "no!")
    assert takes(made, "<|channel>thought\nperhaps\n<channel|>yes!")
    assert not takes(made, "maybe")


def test_a_call_by_choice_is_bound_once_it_has_begun() -> None:
    made = build(None, [WEATHER, CLOCK], "auto", dialect=for_template(GEMMA), thinking=True)
    assert made is not None and made.lazy
    assert takes(made, 'call:weather{city:<|"|>Bad "Tölz", {<| or <|"<|"|>,days:14,unit:<|"|>C<|"|>}<tool_call|>')
    assert takes(made, 'call:clock{}<tool_call|><|tool_call>call:weather{city:<|"|><|"|>}<tool_call|>')
    assert not takes(made, "call:moon{}<tool_call|>")
    assert not takes(made, "call:weather{}<tool_call|>")
    assert not takes(made, 'call:weather{city:<|"|>x<|"|>,days:15}<tool_call|>')
    assert not takes(made, 'call:weather{city:<|"|>x<|"|>,unit:<|"|>K<|"|>}<tool_call|>')
    assert not takes(made, "call:clock{}<tool_call|>and so")
    one = build(None, [WEATHER, CLOCK], "auto", dialect=for_template(GEMMA), parallel=False)
    assert not takes(one, "call:clock{}<tool_call|><|tool_call>call:clock{}<tool_call|>")


def test_a_required_call_comes_after_an_optional_thought_and_nothing_else() -> None:
    made = build(None, [WEATHER, CLOCK], "required", dialect=for_template(GEMMA), thinking=True)
    assert made is not None and not made.lazy
    assert takes(made, "<|tool_call>call:clock{}<tool_call|>")
    assert takes(made, "<|channel>thought\nlet me\n<channel|><|tool_call>call:clock{}<tool_call|>")
    assert not takes(made, "Sure! <|tool_call>call:clock{}<tool_call|>")


def test_a_named_function_is_the_only_one_that_can_be_called() -> None:
    made = build(None, [WEATHER, CLOCK], {"name": "clock"}, dialect=for_template(GEMMA))
    assert takes(made, "<|tool_call>call:clock{}<tool_call|>")
    assert not takes(made, '<|tool_call>call:weather{city:<|"|>x<|"|>}<tool_call|>')


def test_a_schema_and_tools_leave_the_choice_between_both() -> None:
    made = build({"json_schema": {"type": "integer"}}, [CLOCK], "auto", dialect=for_template(GEMMA))
    assert takes(made, "```json\n3\n```")
    assert takes(made, "<|tool_call>call:clock{}<tool_call|>")
    assert not takes(made, "text")


def test_calls_in_json_are_bound_too() -> None:
    made = build(None, [WEATHER], "required", dialect=for_template(THINK))
    assert takes(made, '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>')
    assert not takes(made, '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>')


def test_arguments_of_every_type_are_written_as_gemma_writes_them() -> None:
    parameters = {
        "type": "object",
        "properties": {
            "list": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
            "deep": {
                "type": "object",
                "properties": {"n": {"type": "number"}, "x": {"type": "null"}},
                "required": ["n"],
            },
            "flag": {"type": "boolean"},
            "free": {"type": "object"},
            "code": {"type": "string", "pattern": "^[A-Z]<?$"},
            "short": {"type": "string", "maxLength": 3},
            "odd key": {"const": [1, "a"]},
        },
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    made = build(None, [tool], "required", dialect=for_template(GEMMA))

    def call(arguments: str) -> bool:
        return takes(made, f"<|tool_call>call:f{{{arguments}}}<tool_call|>")

    q = '<|"|>'
    assert call(f"list:[{q}a{q},{q}{q}],deep:{{n:-1.5,x:null}},flag:true")
    assert call(f"free:{{a:{{b:[1,{q}x{q},{{}}]}},c:null}},code:{q}A<{q},short:{q}äöü{q}")
    assert call(f"odd key:[1,{q}a{q}]")
    assert not call(f"list:[{q}a{q},{q}b{q},{q}c{q}]")
    assert not call("deep:{}")
    assert not call('flag:"true"')
    assert not call(f"short:{q}abcd{q}")
    assert not call(f"list: [{q}a{q}]")
    assert not call(f"more:{q}a{q}")


UNCHECKED = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "pattern": r"\bx"},
        "b": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "c": {"type": "strange"},
        "d": {"$ref": "#/nowhere"},
    },
}


def test_a_function_that_asks_for_what_no_grammar_can_follow_still_works_and_says_what_is_left_out() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": UNCHECKED}}
    made = build(None, [tool], "required", dialect=for_template(GEMMA))
    assert made is not None
    assert takes(made, '<|tool_call>call:f{a:<|"|>anything<|"|>,b:[<|"|>x<|"|>,<|"|>x<|"|>],c:1,d:true}<tool_call|>')
    left_out = {place.rpartition(".properties.")[2].split()[0] for place in made.unenforced}
    assert left_out == {"a.pattern", "b.uniqueItems", "c.type", "d"}


@pytest.mark.parametrize("name", "abcd")
def test_a_strict_function_that_asks_for_what_no_grammar_can_follow_is_refused(name: str) -> None:
    parameters = {"type": "object", "properties": {name: UNCHECKED["properties"][name]}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}
    with pytest.raises(BadRequest, match=rf"tools\[0\].function.parameters.properties.{name}"):
        build(None, [tool], "required", dialect=for_template(GEMMA))


@pytest.mark.parametrize(
    ("generation", "tools", "choice", "said"),
    [
        (
            None,
            [CLOCK, {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}],
            "auto",
            r"tools\[1\].function.parameters.type",
        ),
        ({"grammar": 'root ::= "a"'}, [WEATHER], "auto", "grammar"),
        ({"regex": "a"}, [WEATHER], "auto", "regex"),
        ({"grammar": 'root ::= "a"', "json_schema": {}}, None, "auto", "grammar"),
        ({"json_schema": {"type": "x"}}, None, "auto", "json_schema"),
        ({"grammar": "root ::= other"}, None, "auto", "grammar"),
        ({"regex": "(a"}, None, "auto", "regex"),
    ],
)
def test_what_contradicts_itself_is_a_bad_request(generation: Any, tools: Any, choice: Any, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        build(generation, tools, choice, dialect=for_template(GEMMA))


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_tools_for_a_model_whose_calls_are_not_understood_are_refused_and_say_so(choice: str) -> None:
    plain = for_template("{{ messages }}")
    with pytest.raises(BadRequest, match="tools cannot be called"):
        build(None, [WEATHER], choice, dialect=plain)
    assert build(None, [WEATHER], "none", dialect=plain) is None


def test_a_completions_json_has_neither_fence_nor_thought() -> None:
    made = schema({"type": "object", "properties": {"a": {"type": "integer"}}})
    assert takes(made, '{"a": 1}')
    assert not takes(made, "```json")


def test_a_regular_expression_has_to_match_the_whole_content() -> None:
    made = build({"regex": "yes|no"}, dialect=for_template(GEMMA), thinking=True)
    assert takes(made, "yes") and takes(made, "<|channel>thought\nhm<channel|>no")
    assert not takes(made, "yes!") and not takes(made, "oh no")
    made = builder().for_completion(GenerationParams(regex=r"\d{3}(?!.)"))
    assert takes(made, "123") and not takes(made, "1234")
