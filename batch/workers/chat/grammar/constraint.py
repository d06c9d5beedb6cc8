"""What an answer is bound to: a JSON schema, a caller's grammar, the functions' signatures, as one grammar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batch.errors import BadRequest, NotSupported
from batch.workers.chat.dialects import gemma4_output as gemma4
from batch.workers.chat.dialects import think_tags as think
from batch.workers.chat.dialects.dialect import Dialect
from batch.workers.chat.dialects.gemma4_arguments import CALL_END
from batch.workers.chat.dialects.tools import Function, Tools
from batch.workers.chat.grammar.gbnf import Rules, literal
from batch.workers.chat.grammar.json_schema import SchemaGrammar
from batch.workers.chat.grammar.value_syntax import CallSyntax, JsonSyntax

_ROOT = "batch-root"


@dataclass(frozen=True, slots=True)
class Constraint:
    """A grammar and when it holds."""

    grammar: str
    """GBNF. Binding from the first token on, it allows for the thinking."""
    root: str = _ROOT
    lazy: bool = False
    """The grammar only begins behind `trigger`, wherever that stands outside the thinking: StreamParser.called tells.
    Until then everything may be written."""
    trigger: str = ""
    fenced: bool = False
    """The JSON stands in a Markdown fence, which the parser takes off: Dialect.parser(fenced=…)."""
    closable: bool = True
    """Whether an answer that repeats itself can be brought to a valid end: JSON and calls can, who knows what a
    caller's own grammar asks for."""


def build(
    generation: Mapping[str, Any] | None,
    tools: Any,
    tool_choice: Any,
    parallel: bool,
    dialect: Dialect,
    thinking: bool,
    prompt_tail: str = "",
) -> Constraint | None:
    """The constraint of a chat request; None when it may write what it likes.

    `thinking`: whether the model may think before it answers. `prompt_tail`: the end of the prompt, which may have
    opened the thinking already. Raises BadRequest naming the field.
    """
    generation = generation or {}
    schema, grammar = generation.get("json_schema"), generation.get("grammar")
    wanted = Tools.read(tools, tool_choice)
    if schema is False:
        schema = None
    if wanted.functions and dialect.calls is None:
        if wanted.mode == "required":
            raise NotSupported("tool_choice asks for a call, but this model's chat template knows no tool calls.")
        wanted = Tools("none", ())
    if schema is not None and grammar:
        raise BadRequest("grammar and response_format (or json_schema) exclude each other.")
    if grammar and wanted.functions:
        raise BadRequest("grammar and tools exclude each other.")
    if grammar:
        if not isinstance(grammar, str):
            raise BadRequest("grammar must be a string.")
        rules = Rules("grammar", prefix="batch-")
        return Constraint(_text(rules, _thought(rules, dialect, thinking, prompt_tail) + " root", grammar), closable=False)
    if schema is None and not wanted.functions:
        return None
    rules = Rules("json_schema")
    ways: list[str] = []
    if schema is not None:
        ways.append(_answer(schema, rules, dialect))
    if wanted.functions:
        call = _call(wanted.functions, rules, dialect)
        trigger = gemma4.CALL if dialect.calls == "gemma4" else think.CALL
        more = f" ({literal(trigger)} {call})*" if parallel else ""
        if schema is None and wanted.mode == "auto":
            return Constraint(_text(rules, f"{call}{more}"), lazy=True, trigger=trigger)
        if wanted.mode == "required":
            ways = []
        ways.append(f"{literal(trigger)} {call}{more}")
    root = f"{_thought(rules, dialect, thinking, prompt_tail)} ({' | '.join(ways)})"
    fenced = dialect.fence and schema is not None and wanted.mode != "required"
    return Constraint(_text(rules, root), fenced=fenced)


def json_answer(schema: Any) -> Constraint:
    """The constraint of a completion that is to be JSON: no thinking, no fence."""
    rules = Rules("json_schema")
    return Constraint(_text(rules, _schema(schema, rules)))


def _answer(schema: Any, rules: Rules, dialect: Dialect) -> str:
    body = _schema(schema, rules)
    if not dialect.fence:
        return body
    space = JsonSyntax(rules).space
    return f'"```json" {space}{body} {space}"```"'


def _schema(schema: Any, rules: Rules) -> str:
    syntax = JsonSyntax(rules)
    if schema is True or schema == {}:
        return syntax.any_object
    if not isinstance(schema, Mapping):
        raise BadRequest("json_schema must be an object.")
    return SchemaGrammar(schema, syntax).rule


def _call(functions: tuple[Function, ...], rules: Rules, dialect: Dialect) -> str:
    """What follows the marker that opens a call, to the one that closes it."""
    ways: list[str] = []
    for function in functions:
        rules.field = function.where
        arguments = _arguments(function)
        if dialect.calls == "gemma4":
            rule = SchemaGrammar(arguments, CallSyntax(rules), lenient=True).rule
            ways.append(f"{literal('call:' + function.name)} {rule} {literal(CALL_END)}")
        else:
            rule = SchemaGrammar(arguments, JsonSyntax(rules), lenient=True).rule
            head = '\n{"name": ' + json.dumps(function.name, ensure_ascii=False) + ', "arguments": '
            ways.append(f"{literal(head)} {rule} {literal('}' + chr(10) + think.CALL_END)}")
    return rules.add(" | ".join(ways))


def _arguments(function: Function) -> dict[str, Any]:
    """The function's parameters as the schema of an object, which arguments always are."""
    parameters = dict(function.parameters)
    if not parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if not any(k in parameters for k in ("$ref", "anyOf", "oneOf", "allOf")):
        if parameters.get("type", "object") not in ("object", ["object"]):
            raise BadRequest(f'{function.where}.type must be "object".')
        parameters["type"] = "object"
    return parameters


def _thought(rules: Rules, dialect: Dialect, thinking: bool, tail: str) -> str:
    """The thinking that may come before what is bound."""
    if dialect.thinking is None:
        return ""
    opening, closing = dialect.thinking
    space = rules.add("[ \\t\\r\\n]*")
    behind = "" if dialect.calls == "gemma4" else space
    if tail.rfind(opening) > tail.rfind(closing):
        return f"{rules.until(closing)} {behind}"
    if not thinking:
        return ""
    if dialect.name == "gemma4":
        # Empty channels come before it at times.
        opening_rule = f"({literal(gemma4.OPEN)})* {literal(opening)}"
        return f"({opening_rule} {rules.until(closing)})?"
    return f"({space} {literal(opening)} {rules.until(closing)} {behind})?"


def _text(rules: Rules, root: str, more: str = "") -> str:
    return f"{_ROOT} ::= {root.strip()}\n{rules.text()}{more}"
