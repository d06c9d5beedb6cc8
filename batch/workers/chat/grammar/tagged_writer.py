"""Arguments that stand between tags: the members of the schema's object one by one, texts as they are, the rest as JSON."""

from __future__ import annotations

from batch.workers.chat.dialects.derived.layout import KEY_HOLE, TaggedArguments
from batch.workers.chat.grammar.lark import literal, one_of
from batch.workers.chat.grammar.markup import Markup
from batch.workers.chat.grammar.schema.schema_reader import SchemaReader
from batch.workers.chat.grammar.schema.schema_writer import SchemaWriter
from batch.workers.chat.grammar.schema.shapes import Objects, Parts, Scalars, Shape, Strings
from batch.workers.chat.grammar.strings.char_class import CharClass
from batch.workers.chat.grammar.strings.string_terminals import terminal
from batch.workers.chat.grammar.value_syntax import JsonSyntax

_KEPT_OUT = ((60, 60), (91, 91), (93, 93))
"""Brackets: a text with conditions of its own must not look like the tag behind it."""

ScalarValue = str | int | float | bool | None
_NOTHING = '""'


class TaggedWriter(SchemaWriter):
    """Writes rules for the arguments of one function."""

    def __init__(self, reader: SchemaReader, markup: Markup, tags: TaggedArguments) -> None:
        super().__init__(reader, JsonSyntax(markup.lark))
        self._markup = markup
        self._tags = tags

    def arguments(self, parts: Parts) -> str:
        """An expression for all arguments, without what stands around them. Raises BadRequest."""
        shapes = [shape for shape in self._reader.possible_shapes(parts) if isinstance(shape, Objects)]
        text = one_of(self._arguments(shape) or _NOTHING for shape in shapes) if shapes else _NOTHING
        self._define_waiting()
        return text

    def _arguments(self, shape: Objects) -> str:
        """The named arguments in order, then others where the schema allows them."""
        reader, texts = self._reader, []
        for name, parts in shape.members:
            if reader.is_possible(parts):
                argument = self._argument(name, parts)
                is_required = name in shape.required
                texts.append((argument, is_required))
        comma = self._markup.text(self._tags.separator) if self._tags.separator else ""
        more = first = self._other_arguments(shape)
        for argument, is_required in reversed(texts):
            bodies = [" ".join(filter(None, (before, argument, more))) for before in (comma, "")]
            if not is_required:
                bodies = [f"{body} | {without or _NOTHING}" for body, without in zip(bodies, (more, first), strict=True)]
            more, first = (self._lark.rule(body) for body in bodies)
        return first

    def _argument(self, name: str, parts: Parts) -> str:
        tags, markup = self._tags, self._markup
        end = tags.end.replace(KEY_HOLE, name)
        ways = []
        others: list[Shape] = []
        for shape in self._reader.possible_shapes(parts):
            if isinstance(shape, Strings) and not tags.is_python:
                ways.append(f"{markup.text(tags.middles['string'])} {self._text(shape, end)}")
            elif isinstance(shape, Scalars):
                texts = [value for value in shape.values if isinstance(value, str)]
                rest: tuple[ScalarValue, ...] = tuple(value for value in shape.values if not isinstance(value, str))
                if texts and tags.is_python:
                    rest = shape.values
                elif texts:
                    value = one_of(literal(text) for text in texts)
                    ways.append(f"{markup.text(tags.middles['string'])} {value} {markup.text(end)}")
                if rest:
                    others.append(Scalars(rest))
            else:
                others.append(shape)
        for shape in others:
            middle = markup.text(self._middle(shape))
            ways.append(f"{middle} {self._lark.rule(self._shape(shape))} {markup.text(end)}")
        begin = f"{markup.text(tags.begin)} " if tags.begin else ""
        return f"{begin}{literal(name)} {self._lark.rule(' | '.join(ways))}"

    def _middle(self, shape: Shape) -> str:
        middles = self._tags.middles
        match shape:
            case Objects():
                kind = middles.get("object")
            case Scalars(values) if any(isinstance(value, bool) for value in values):
                kind = middles.get("boolean")
            case Scalars():
                kind = middles.get("number")
            case _:
                kind = middles.get("number") if type(shape).__name__ == "Numbers" else middles.get("array")
        return kind if kind is not None else middles["number"]

    def _text(self, strings: Strings, end: str) -> str:
        """A text, with the tag behind it."""
        if strings == Strings():
            return self._markup.until(end)
        return f"{terminal(strings, self._lark, _char, _plain)} {self._markup.text(end)}"

    def _other_arguments(self, shape: Objects) -> str:
        """Arguments that the schema does not name: as texts."""
        tags, markup = self._tags, self._markup
        if tags.is_python or KEY_HOLE in tags.end or not any(self._reader.is_possible(other.parts) for other in shape.others):
            return ""
        key = self._lark.terminal("/[A-Za-z_][A-Za-z0-9_.-]{0,63}/")
        begin, middle = markup.text(tags.begin), markup.text(tags.middles["string"])
        return f"({begin} {key} {middle} {markup.until(tags.end)})*"


def _char(chars: CharClass) -> str:
    return chars.without(_KEPT_OUT)


def _plain(text: str) -> str:
    return "".join(char for char in text if char not in "<[]")
