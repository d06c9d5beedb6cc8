"""A client's Lark grammar as part of a larger one: as it is, or as its texts stand inside a JSON string."""

from __future__ import annotations

import json
import re
from typing import NoReturn

from batch.errors import BadRequest
from batch.workers.chat.grammar.lark import Lark, literal, one_of, repeated
from batch.workers.chat.grammar.strings.pattern import WriteChar, pattern_terminal
from batch.workers.chat.grammar.strings.regex_parser import Char, Choice, Node, Repeat, Sequence, parse

_TOKENS = re.compile(
    r"""(?P<comment>(?://|\#)[^\n]*)|(?P<text>"(?:[^"\\\n]|\\.)*+")(?P<text_flags>[a-z]*)"""
    r"""|/(?P<regex>(?![*/])(?:[^/\\\n]|\\.)++)/(?P<regex_flags>[imslux]*)"""
    r"""|(?P<endless>"(?:[^"\\\n]|\\.)*+|/(?![*/])(?:[^/\\\n]|\\.)++)|(?P<import>%import[^\n]*)|(?P<other>[^"/%\#]+|.)""",
    re.DOTALL,
)
"""Nothing is tried twice: a client wrote what is looked through."""
_IMPORT = re.compile(r"%import\s+common\s*+(?:\.\s*+(\w++)\s*+(?:->\s*+(\w++))?|\(([\w\s,]++)\))\s*+$")
_NAME = re.compile(r"[A-Za-z_]\w*")
_DECORATION = re.compile(r"->\s*\w+|(?<=\w)\.-?\d+(?=\s*:)|^[?!](?=\w)", re.MULTILINE)
"""What Lark's trees and its lexer need and a grammar that only accepts does not."""
_COMMON = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[0-9a-fA-F]",
    "INT": "[0-9]+",
    "SIGNED_INT": "[+-]?[0-9]+",
    "DECIMAL": r"[0-9]+\.[0-9]*|\.[0-9]+",
    "FLOAT": r"(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+",
    "NUMBER": r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?",
    "SIGNED_NUMBER": r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?",
    "ESCAPED_STRING": r'"(?:[^"\\]|\\.)*"',
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "LETTER": "[a-zA-Z]",
    "WORD": "[a-zA-Z]+",
    "CNAME": "[_a-zA-Z][_a-zA-Z0-9]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(?:\r?\n)+",
}
"""Lark's own terminals that grammars import."""
MAX_CHARS = 1 << 16


def looks_like_lark(source: str) -> bool:
    """Whether a grammar is Lark's rather than GBNF: vLLM's clients send either."""
    return "::=" not in source and re.search(r"^[^\S\n]*+[?!]?start\s*+:", source, re.MULTILINE) is not None


def client_lark(source: str, field: str, write_char: WriteChar | None) -> str:
    """An expression for texts of the grammar, to stand in a rule.

    `write_char` writes the characters of an expression as they stand inside a JSON string; None: texts stand as they
    are. Raises BadRequest, naming the field, for what cannot be written so.
    """
    if len(source) > MAX_CHARS:
        raise BadRequest(f"{field} is longer than {MAX_CHARS:,} characters.", param=field)
    if write_char is None:
        return f"%lark {{\n{source}\n}}"
    terminals = Lark(field)
    rewriter = _Rewriter(terminals, field, write_char, has_ignored="%ignore" in source)
    body = "".join(rewriter.rewritten(match) for match in _TOKENS.finditer(source))
    # The first line of a grammar is options and a start that the client's own takes the place of.
    helpers = terminals.text("").partition("\n")[2].partition("\n")[2]
    return f"%lark {{\n{body}\n{helpers}\n}}"


class _Rewriter:
    """Writes one grammar anew.

    The engine's terminals take as much text as they can and never go back, so that a terminal of any text would swallow
    the backslash of the escape behind it. So each character becomes a terminal of its own and the client's terminals
    rules; only where something is ignored between terminals they stay what they are.
    """

    def __init__(self, terminals: Lark, field: str, write_char: WriteChar, *, has_ignored: bool) -> None:
        self._terminals, self._field, self._write_char = terminals, field, write_char
        self._has_ignored = has_ignored

    def rewritten(self, match: re.Match[str]) -> str:
        """One piece of the grammar."""
        groups = match.groupdict()
        if groups["comment"] is not None:
            return ""
        if (quoted := groups["text"]) is not None:
            return self._literal(_text(quoted, self._field), groups["text_flags"] or "")
        if (expression := groups["regex"]) is not None:
            if flags := groups["regex_flags"]:
                self._refuse(f"the flag {flags!r} on an expression, which is not supported here")
            return self._expression(expression.replace("\\/", "/"))
        if (endless := groups["endless"]) is not None:
            self._refuse(f"{endless[:40]!r}, which has no end on its line")
        if groups["import"] is not None:
            return self._imported(groups["import"])
        text = _DECORATION.sub("", match.group())
        return _NAME.sub(lambda name: self._name(name.group()), text) if groups["other"] not in ("%", None) else text

    def _name(self, name: str) -> str:
        """A name that no rule of ours has."""
        if name in ("start", "ignore"):
            return name
        is_terminal = name.lstrip("_")[:1].isupper()
        return f"C_{name}" if is_terminal and self._has_ignored else f"c{'t' * is_terminal}_{name.lower()}"

    def _literal(self, text: str, flags: str) -> str:
        if self._has_ignored or not text:
            return literal(_escaped(text)) + flags
        chars = [f"{literal(_escaped(char))}{flags}" for char in text]
        return f"({' '.join(chars)})"

    def _expression(self, source: str) -> str:
        if self._has_ignored:
            return pattern_terminal(f"^(?:{source})$", self._terminals, self._write_char, self._field)
        return self._rule(parse(source, self._field))

    def _rule(self, node: Node) -> str:
        match node:
            case Char(chars):
                literal = self._write_char(chars)
                return self._terminals.terminal(f"/{literal or '[a&&b]'}/")
            case Sequence(parts):
                return f"({' '.join(map(self._rule, parts))})" if parts else '""'
            case Choice(options):
                return one_of(map(self._rule, options)) if options else self._terminals.terminal("/[a&&b]/")
            case Repeat(inner, least, most):
                return repeated(self._terminals.rule(self._rule(inner)), least, most)
        self._refuse("an anchor or a look-ahead, which no grammar can follow here")

    def _imported(self, line: str) -> str:
        """Definitions in place of an import of Lark's own terminals."""
        match = _IMPORT.match(line)
        names = [match.group(1)] if match and match.group(1) else re.findall(r"\w+", match.group(3)) if match else []
        if not names or any(name not in _COMMON for name in names):
            self._refuse(f"{line.strip()!r}: only Lark's common terminals can be imported")
        alias = match.group(2) if match and match.group(2) else None
        return "\n".join(f"{self._name(alias or name)}: {self._expression(_COMMON[name])}" for name in names)

    def _refuse(self, what: str) -> NoReturn:
        raise BadRequest(f"{self._field} has {what}.", param=self._field)


def _text(quoted: str, field: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        raise BadRequest(f"{field} has {quoted[:40]}, which is no text that can be read.", param=field) from None


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")
