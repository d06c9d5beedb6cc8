"""Custom tools: a function that is called with one text, under no grammar, an expression, or a client's Lark grammar."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batch.errors import BadRequest
from batch.workers.chat.dialects.dialect import Dialect, for_template
from batch.workers.chat.grammar.client_lark import client_lark, looks_like_lark
from batch.workers.chat.grammar.lark import Lark
from batch.workers.chat.grammar.value_syntax import JsonSyntax
from grammar_setup import build, matcher, takes

GEMMA = for_template("<|turn> <|channel> <channel|> '<|tool_call>call:'")
JSON = for_template('<tool_call>{"name": n, "arguments": a}</tool_call>')
SUM = r"""
start: term (_SIGN term)*
term: NUMBER | "(" start ")" | "\"" NAME "\""   // a quoted name
NAME: /[a-z\\]+/
_SIGN: "+" | "-"
%import common.NUMBER
"""
SPACED = SUM + r"%ignore /[ \n]+/"
PATCH = """
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?
hunk: "*** Update File: " filename LF change+
filename: /(.+)/
change: ("+" | "-" | " ") /(.*)/ LF
%import common.LF
"""
TEXT: dict[str, Any] = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def tool(**fields: Any) -> dict[str, Any]:
    return {"function": {"name": "sum", "parameters": {**TEXT, "additionalProperties": False}, "strict": True, **fields}}


def call(dialect: Dialect, text: str) -> str:
    if dialect is GEMMA:
        return f'<|tool_call>call:sum{{input:<|"|>{text}<|"|>}}<tool_call|>'
    arguments = json.dumps({"input": text}, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "sum", "arguments": {arguments}}}\n</tool_call>'


@pytest.mark.parametrize("dialect", [GEMMA, JSON], ids=["gemma4", "json"])
@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("1+2", True),
        ("(1-2)+3.5", True),
        ('"ab"', True),
        ('"a\\"', True),
        ("1+", False),
        ("one", False),
        ("", False),
    ],
    ids=["sum", "nested", "quotes", "escapes", "cut", "word", "empty"],
)
def test_a_lark_grammar_binds_the_text(dialect: Dialect, text: str, fits: bool) -> None:
    made = build(None, [tool(is_custom=True, lark=SUM)], "required", dialect=dialect)
    assert takes(made, call(dialect, text)) is fits


@pytest.mark.parametrize(
    "source",
    ["start: /a/i", r"start: /(a)\1/", "%import common.NOTHING\nstart: NOTHING", "begin: /a/", "start: ("],
    ids=["flag", "back reference", "import", "no start", "broken"],
)
def test_a_lark_grammar_that_cannot_be_followed_is_a_400(source: str) -> None:
    with pytest.raises(BadRequest):
        matcher(build(None, [tool(is_custom=True, lark=source)], "required", dialect=JSON))


@pytest.mark.parametrize("dialect", [GEMMA, JSON], ids=["gemma4", "json"])
def test_what_is_ignored_may_stand_between_terminals(dialect: Dialect) -> None:
    made = build(None, [tool(is_custom=True, lark=SPACED)], "required", dialect=dialect)
    assert takes(made, call(dialect, "( 1 -  2)+\n3.5"))
    assert not takes(made, call(dialect, "1 + ?"))


@pytest.mark.parametrize("dialect", [GEMMA, JSON], ids=["gemma4", "json"])
def test_the_grammar_of_a_patch_tool_is_followed(dialect: Dialect) -> None:
    made = build(None, [tool(is_custom=True, lark=PATCH)], "required", dialect=dialect)
    patch = '*** Begin Patch\n*** Update File: a/b.py\n-print("old\\n")\n+print("new")\n*** End Patch\n'
    assert takes(made, call(dialect, patch))
    assert not takes(made, call(dialect, patch.replace("+print", "print")))


def test_an_expression_binds_the_text() -> None:
    bound = {**TEXT, "properties": {"input": {"type": "string", "pattern": r'^(?:\d+|"x")$'}}}
    made = build(None, [tool(is_custom=True, parameters=bound)], "required", dialect=JSON)
    assert takes(made, call(JSON, "12"))
    assert not takes(made, call(JSON, "twelve"))


def test_a_grammar_field_may_hold_lark() -> None:
    made = build({"grammar": 'start: "a" DIGIT+\n%import common.DIGIT'})
    assert takes(made, "a12")
    assert not takes(made, "b")
    assert takes(build({"grammar": 'root ::= "start: x"'}), "start: x")


@pytest.mark.parametrize(
    "source",
    ['start: "' + '\\"' * 30_000, "start: /" + "\\/" * 30_000, "start: WS\n%import common.WS" + " " * 60_000 + "!"],
    ids=["a text without an end", "an expression without an end", "an import"],
)
def test_a_grammar_without_an_end_is_refused_at_once(source: str) -> None:
    with pytest.raises(BadRequest):
        client_lark(source, "tools", JsonSyntax(Lark("tools")).char)


def test_whether_a_grammar_is_lark_is_seen_at_once() -> None:
    assert looks_like_lark("// a\n" * 10 + "\n" * 300_000 + '  ?start : "a"')
    assert not looks_like_lark("\n" * 300_000 + "root")
