"""What an answer has to follow: a JSON Schema, a client's grammar or expression, the functions' signatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batch.errors import BadRequest
from batch.payloads.chat import ChatPayload, GenerationParams, JsonSchema, Tool
from batch.workers.chat.dialects import gemma4_output as gemma4
from batch.workers.chat.dialects import harmony
from batch.workers.chat.dialects.derived.layout import CallLayout
from batch.workers.chat.dialects.dialect import Dialect
from batch.workers.chat.grammar.calls import CallGrammar
from batch.workers.chat.grammar.client_lark import client_lark, looks_like_lark
from batch.workers.chat.grammar.gbnf import root_rule
from batch.workers.chat.grammar.lark import Lark, TokenId, literal, one_of
from batch.workers.chat.grammar.markup import Markup
from batch.workers.chat.grammar.schema.schema_reader import SchemaReader
from batch.workers.chat.grammar.schema.schema_writer import SchemaWriter
from batch.workers.chat.grammar.strings.pattern import pattern_terminal
from batch.workers.chat.grammar.strings.string_terminals import StringProbe
from batch.workers.chat.grammar.value_syntax import JsonSyntax

_SPACE = r"/[ \t\r\n]{0,8}/"
"""Around a thought's markers; with no limit a small model writes space for ever."""
_LINE_SPACE = r"/(?: |\n{1,2}[ \t]{0,20})?/"


@dataclass(frozen=True, slots=True)
class Constraint:
    """A grammar and when it holds."""

    grammar: str
    """In the engine's notation. Where it holds from the first token on, it allows for the thinking."""
    field: str
    """The request's field that asks for it."""
    lazy: bool = False
    """The grammar only begins behind the marker of a call, wherever that stands outside the thinking: until then
    everything may be written."""
    fenced: bool = False
    """The JSON stands in a Markdown fence, which the parser takes off."""
    closable: bool = True
    """Whether an answer that repeats itself can be brought to a valid end: JSON and calls can, who knows what a
    client's own grammar asks for."""
    unenforced: tuple[str, ...] = ()
    """What the schemas of functions that are not strict ask for and no grammar can follow."""


class ConstraintBuilder:
    """Builds constraints for one model. May be used from any thread."""

    def __init__(self, dialect: Dialect, token_id: TokenId) -> None:
        """`token_id` finds a marker's token in the vocabulary."""
        self._dialect = dialect
        self._token_id = token_id

    def for_completion(self, params: GenerationParams) -> Constraint | None:
        """What a completion has to follow: no thinking, no fence. Raises BadRequest naming the field."""
        return self._for_content(params, None, "")

    def for_chat(self, payload: ChatPayload, *, may_think: bool, prompt_tail: str = "") -> Constraint | None:
        """What a chat's answer has to follow. Raises BadRequest naming the field.

        `may_think`: whether the model may think before it answers. `prompt_tail`: the end of the prompt, which may have
        opened the thinking already.
        """
        params, dialect = payload.generation, self._dialect
        tools = payload.callable_tools
        is_required = bool(tools) and payload.tool_choice not in ("auto", "none")
        if tools and dialect.calls is None:
            raise BadRequest(
                "tools cannot be called: how this model's chat template writes calls is not understood here. "
                'Leave them out, or set tool_choice to "none".',
                param="tools",
            )
        if tools and (params.grammar is not None or params.regex is not None):
            field = "grammar" if params.grammar is not None else "regex"
            raise BadRequest(f"{field} and tools exclude each other.", param=field)
        wants_json = params.json_schema is not None and params.json_schema is not False
        if not tools:
            return self._for_content(params, dialect, prompt_tail, may_think=may_think)
        if is_required or not wants_json:
            return self._for_calls(payload, tools, prompt_tail, is_lazy=not is_required, may_think=may_think)
        assert params.json_schema is not None
        lark = Lark("json_schema", self._token_id)
        calls = CallGrammar(self._dialect, lark)
        call = f"{calls.begin()} {calls.behind_trigger(payload, tools)}"
        answer = self._answer(self._json_answer(params.json_schema, lark), lark)
        start = f"{self._thought(lark, may_think, prompt_tail)} {one_of([answer, call])}"
        return Constraint(lark.text(start), "json_schema", fenced=dialect.fence, unenforced=tuple(calls.unenforced))

    def _for_content(
        self, params: GenerationParams, dialect: Dialect | None, prompt_tail: str, *, may_think: bool = False
    ) -> Constraint | None:
        schema = params.json_schema
        if schema is False:
            schema = None
        if schema is not None and params.grammar:
            raise BadRequest("grammar and response_format (or json_schema) exclude each other.", param="grammar")
        field = "grammar" if params.grammar else "regex" if params.regex is not None else "json_schema"
        lark = Lark(field, self._token_id)
        if params.grammar:
            is_lark = looks_like_lark(params.grammar)
            content = client_lark(params.grammar, field, None) if is_lark else root_rule(params.grammar, lark)
        elif params.regex is not None:
            content = pattern_terminal(f"^(?:{params.regex})$", lark, lambda chars: chars.without(()), field)
        elif schema is not None:
            content = self._json_answer(schema, lark) if dialect is not None else _json(schema, lark)
        else:
            return None
        thought = ""
        if dialect is not None:
            thought, content = self._thought(lark, may_think, prompt_tail), self._answer(content, lark)
        is_json = field == "json_schema"
        is_fenced = is_json and dialect is not None and dialect.fence
        return Constraint(lark.text(f"{thought} {content}"), field, fenced=is_fenced, closable=is_json)

    def _for_calls(
        self, payload: ChatPayload, tools: Sequence[Tool], prompt_tail: str, *, is_lazy: bool, may_think: bool
    ) -> Constraint:
        lark = Lark("tools", self._token_id)
        calls = CallGrammar(self._dialect, lark)
        layout = self._dialect.calls
        is_prompted = isinstance(layout, CallLayout) and layout.is_opened_by(prompt_tail)
        start = calls.behind_trigger(payload, tools, is_prompted=is_prompted)
        if not is_lazy:
            begin = "" if is_prompted else calls.begin()
            start = f"{self._thought(lark, may_think, prompt_tail)} {begin} {start}"
        return Constraint(lark.text(start), "tools", lazy=is_lazy, unenforced=tuple(calls.unenforced))

    def _answer(self, content: str, lark: Lark) -> str:
        """Content with the markers that the dialect has around answers."""
        dialect, markup = self._dialect, Markup(lark)
        if dialect.name == "harmony":
            return f"{markup.text(harmony.FINAL)} {content}"
        begin, end = dialect.answer.content_begin, dialect.answer.content_end
        if not begin.startswith(("<", "[")):
            return content
        return f"({markup.text(begin)})? {content} ({markup.text(end)})?" if end else f"({markup.text(begin)})? {content}"

    def _json_answer(self, schema: JsonSchema | bool, lark: Lark) -> str:
        body = _json(schema, lark)
        if not self._dialect.fence:
            return body
        space = lark.terminal(_LINE_SPACE)
        return f'"```json" {space} {body} {space} "```"'

    def _thought(self, lark: Lark, may_think: bool, tail: str) -> str:
        """The thinking that may come before what is constrained."""
        dialect = self._dialect
        if dialect.thinking is None:
            return ""
        opening, closing = dialect.thinking
        is_gemma4, markup = dialect.name == "gemma4", Markup(lark)
        space = lark.terminal(_SPACE)
        behind = "" if is_gemma4 else space
        if dialect.name == "harmony":
            behind = markup.text(harmony.START + "assistant")
        if tail.rfind(opening) > tail.rfind(closing):
            return f"{markup.until(closing)} {behind}"
        if not may_think:
            return ""
        if is_gemma4:
            # Empty channels come before it at times.
            channel = lark.marker(gemma4.OPEN)
            return f"({channel}* {channel} {literal(gemma4.THOUGHT)} {lark.until(closing)})?"
        if dialect.name == "harmony":
            return f"({markup.text(opening)} {markup.until(closing)} {behind})*"
        return f"({space} {markup.text(opening)} {markup.until(closing)} {behind})?"


def _json(schema: JsonSchema | bool, lark: Lark) -> str:
    """A rule for a JSON value under a schema; {} or True: any object."""
    document: Any = {"type": "object"} if schema is True or schema == {} else schema
    reader = SchemaReader(document, "json_schema", StringProbe())
    return SchemaWriter(reader, JsonSyntax(lark)).write(reader.root)
