"""What an answer has to look like: OpenAI's response_format, llama-server's json_schema and grammar, vLLM's guided_*."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from batch.api.json_body import MAX_DEPTH, JsonObject, parse_json, quoted
from batch.errors import BadRequest
from batch.payloads.chat import JsonSchema

MAX_CHOICES = 1024
"""Most alternatives of guided_choice."""


@dataclass(frozen=True, slots=True)
class OutputConstraint:
    """What the content has to follow; one of the three is set."""

    field: str
    """The request's field that asks for it."""
    json_schema: JsonSchema | bool | None = None
    """{} or True: any JSON object."""
    grammar: str | None = None
    """GBNF."""
    regex: str | None = None

    def demands_the_same_as(self, other: OutputConstraint) -> bool:
        return (self.json_schema, self.grammar, self.regex) == (other.json_schema, other.grammar, other.regex)


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM's `structured_outputs`."""

    json: JsonObject | str | bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | JsonObject | None = None


def single_constraint(constraints: Iterable[OutputConstraint]) -> OutputConstraint | None:
    """The one constraint of a request, which may be given twice. Raises BadRequest where two differ."""
    first: OutputConstraint | None = None
    for constraint in constraints:
        if first is not None and not first.demands_the_same_as(constraint):
            grammar = constraint if constraint.grammar is not None else first
            raise BadRequest(f"Cannot use both {first.field} and {constraint.field}", param=grammar.field)
        first = first or constraint
    return first


def response_format_constraints(response_format: JsonObject | None, field: str) -> Iterator[OutputConstraint]:
    """The constraint of an OpenAI response_format in the chat form, whose schema stands in an object "json_schema"."""
    kind = (response_format or {}).get("type")
    if response_format is None or kind in (None, "", "text"):
        return
    path = f"{field}.schema"
    if kind == "json_object":
        schema = response_format.get("schema")
    elif kind == "json_schema":
        wrapper = response_format.get("json_schema")
        if not isinstance(wrapper, dict):
            raise BadRequest(f"Field '{field}.json_schema': should be an object with a schema", param=f"{field}.json_schema")
        schema, path = wrapper.get("schema"), f"{field}.json_schema.schema"
    else:
        raise BadRequest(
            f'{field} type must be one of "text", "json_object" or "json_schema", but got: {quoted(str(kind))}',
            param=f"{field}.type",
        )
    yield OutputConstraint(field, json_schema=_schema(schema, path))


def vllm_constraints(outputs: StructuredOutputs, prefix: str) -> Iterator[OutputConstraint]:
    """The constraints of vLLM's structured_outputs, or of its older guided_* fields: `prefix` begins each field's name."""
    if outputs.json is not None:
        yield OutputConstraint(f"{prefix}json", json_schema=_vllm_schema(outputs.json, f"{prefix}json"))
    if outputs.json_object:
        yield OutputConstraint(f"{prefix}json_object", json_schema={})
    if outputs.regex is not None:
        yield OutputConstraint(f"{prefix}regex", regex=outputs.regex)
    if outputs.choice is not None:
        yield OutputConstraint(f"{prefix}choice", grammar=_choice_grammar(outputs.choice, f"{prefix}choice"))
    if outputs.grammar is not None:
        yield OutputConstraint(f"{prefix}grammar", grammar=outputs.grammar)
    if outputs.structural_tag is not None:
        path = f"{prefix}structural_tag"
        raise BadRequest(f"Field '{path}': is not supported here; use tools or a JSON schema", param=path)


def _schema(schema: Any, path: str) -> JsonSchema | bool:
    if schema is None:
        return {}
    if not isinstance(schema, (dict, bool)):
        raise BadRequest(f"Field '{path}': should be an object", param=path)
    return schema


def _vllm_schema(schema: JsonObject | str | bool, path: str) -> JsonSchema | bool:
    if not isinstance(schema, str):
        return schema
    try:
        return _schema(parse_json(schema.encode()), path)
    except BadRequest:
        raise BadRequest(
            f"Field '{path}': should be a JSON Schema, as an object or as JSON text of at most {MAX_DEPTH} levels", param=path
        ) from None


def _choice_grammar(choices: list[str], path: str) -> str:
    """GBNF of one of some texts."""
    if not choices or len(choices) > MAX_CHOICES:
        raise BadRequest(f"Field '{path}': should hold 1 to {MAX_CHOICES} texts", param=path)
    return "root ::= " + " | ".join(map(_literal, choices))


_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


def _literal(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(c) or (c if c >= " " else f"\\x{ord(c):02x}") for c in text) + '"'
