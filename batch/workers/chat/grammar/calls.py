"""What calls have to follow: the functions' signatures, written as the model's dialect writes calls."""

from __future__ import annotations

from collections.abc import Sequence

from batch.errors import BadRequest
from batch.payloads.chat import ChatPayload, JsonSchema, Tool
from batch.workers.chat.dialects import gemma4_output as gemma4
from batch.workers.chat.dialects import harmony
from batch.workers.chat.dialects.derived.layout import KEY_HOLE, CallLayout
from batch.workers.chat.dialects.dialect import Dialect
from batch.workers.chat.dialects.gemma4_arguments import CALL_END, QUOTE
from batch.workers.chat.grammar.client_lark import client_lark
from batch.workers.chat.grammar.lark import Lark, literal
from batch.workers.chat.grammar.markup import Markup
from batch.workers.chat.grammar.schema.schema_reader import SchemaReader
from batch.workers.chat.grammar.schema.schema_writer import SchemaWriter
from batch.workers.chat.grammar.strings.string_terminals import StringProbe
from batch.workers.chat.grammar.tagged_writer import TaggedWriter
from batch.workers.chat.grammar.value_syntax import Gemma4Syntax, JsonSyntax, ValueSyntax


class CallGrammar:
    """Writes the calls of one request into one grammar."""

    def __init__(self, dialect: Dialect, lark: Lark) -> None:
        self._calls = dialect.calls
        self._lark = lark
        self._markup = Markup(lark)
        self.unenforced: dict[str, None] = {}
        """What schemas of functions that are not strict ask for and no grammar can follow."""

    def begin(self) -> str:
        """What stands before the part that `behind_trigger` writes."""
        match self._calls:
            case CallLayout() as layout:
                return self._markup.text(layout.trigger)
            case "harmony":
                markup = self._markup
                return f'(" " | {markup.text(harmony.CHANNEL + "commentary ")}) {literal(harmony.RECIPIENT)}'
        return self._lark.marker(gemma4.CALL)

    def behind_trigger(self, payload: ChatPayload, tools: Sequence[Tool], *, is_prompted: bool = False) -> str:
        """From behind what makes the parser see a call to the end of the last one. Raises BadRequest.

        `is_prompted`: the prompt ends with all that stands before the function's name.
        """
        ways = []
        for tool in tools:
            place = next(at for at, other in enumerate(payload.tools) if other is tool)
            ways.append(self._call(tool, f"tools[{place}].function.parameters"))
        call = self._lark.rule(" | ".join(ways))
        match self._calls:
            case CallLayout() as layout:
                return self._section(layout, call, is_many=payload.parallel_tool_calls, is_prompted=is_prompted)
            case "harmony":
                return call
        return f"{call} ({self._lark.marker(gemma4.CALL)} {call})*" if payload.parallel_tool_calls else call

    def _section(self, layout: CallLayout, call: str, *, is_many: bool, is_prompted: bool) -> str:
        markup = self._markup
        head = "" if is_prompted else markup.text(layout.head[len(layout.trigger) :])
        more = ""
        if is_many and not layout.is_single:
            more = f"({markup.text(layout.separator + layout.call_begin)} {call})*"
        end = f"({markup.text(layout.section_end)})?" if layout.section_end.strip() else ""
        if (layout.is_single and layout.json_call is not None) or (layout.tags is not None and layout.tags.is_python):
            end = markup.text(layout.section_end)
        return " ".join(part for part in (head, call, more, end) if part and part != '""')

    def _text_in_grammar(self, source: str, field: str, syntax: ValueSyntax) -> str:
        """Arguments that are one text, `input`, of a client's own grammar."""
        lark, markup = self._lark, self._markup
        if isinstance(self._calls, CallLayout) and (tags := self._calls.tags) is not None and not tags.is_python:
            text = lark.rule(client_lark(source, field, None))
            begin = markup.text(tags.begin + "input" + tags.middles["string"])
            return f"{begin} {text} {markup.text(tags.end.replace(KEY_HOLE, 'input'))}"
        if isinstance(syntax, Gemma4Syntax):
            quote, text = lark.marker(QUOTE), lark.rule(client_lark(source, field, None))
            return f'"{{input:" {quote} {text} {quote} "}}"'
        text = lark.rule(client_lark(source, field, JsonSyntax(lark).char))
        is_python = isinstance(self._calls, CallLayout) and self._calls.tags is not None
        begin, end = ('input="', '"') if is_python else ('{"input": "', '"}')
        return f"{literal(begin)} {text} {literal(end)}"

    def _call(self, tool: Tool, field: str) -> str:
        """A function's name, and what follows it to the end of the call."""
        function, lark, markup = tool.function, self._lark, self._markup
        reader = SchemaReader(_arguments(function.parameters, field), field, StringProbe(), lenient=function.strict is not True)
        syntax: ValueSyntax = Gemma4Syntax(lark) if self._calls == "gemma4" else JsonSyntax(lark)
        if isinstance(self._calls, CallLayout) and self._calls.tags is not None:
            arguments = TaggedWriter(reader, markup, self._calls.tags).arguments(reader.root)
        else:
            arguments = SchemaWriter(reader, syntax).write(reader.root)
        if function.lark is not None:
            arguments = self._text_in_grammar(function.lark, field.replace("function.parameters", "format.definition"), syntax)
        self.unenforced.update(reader.unenforced)
        match self._calls:
            case CallLayout() as layout:
                name = literal(function.name)
                return f"{name} {markup.text(layout.name_end)} {arguments} {markup.text(layout.call_end)}"
            case "harmony":
                channel = f"({markup.text(harmony.CHANNEL + 'commentary')})?"
                kind = f'(" json" | {markup.text(" " + harmony.CONSTRAIN + "json")})?'
                return f"{literal(function.name)} {channel} {kind} {markup.text(harmony.MESSAGE)} {arguments}"
        return f"{literal(f'call:{function.name}')} {arguments} {lark.marker(CALL_END)}"


def _arguments(parameters: JsonSchema | None, field: str) -> JsonSchema:
    """The function's parameters as the schema of an object, which arguments always are."""
    if not parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if parameters.get("type", "object") not in ("object", ["object"]):
        raise BadRequest(f'{field}.type must be "object".', param=f"{field}.type")
    return {"allOf": [{"type": "object"}, parameters]} if "$ref" in parameters else {**parameters, "type": "object"}
