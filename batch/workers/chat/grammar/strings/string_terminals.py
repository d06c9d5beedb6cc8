"""Terminals for the characters of strings: by length, expressions, formats, and what they must not be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from llguidance import LLMatcher

from batch.workers.chat.grammar.lark import Lark, literal, one_of, repeated
from batch.workers.chat.grammar.matcher import Vocabulary
from batch.workers.chat.grammar.schema.shapes import StringRule, Strings
from batch.workers.chat.grammar.strings.char_class import ANY_CHAR, CharClass
from batch.workers.chat.grammar.strings.pattern import WriteChar, pattern_terminal
from batch.workers.chat.grammar.strings.string_formats import EXPRESSIONS

WriteText = Callable[[str], str]
"""A text as it stands inside a string."""


def terminal(strings: Strings, lark: Lark, write_char: WriteChar, write_text: WriteText) -> str:
    """The name of a terminal for the characters of such a string, without quotes."""
    any_char = write_char(ANY_CHAR)
    conditions = [_rule(rule, lark, write_char) for rule in strings.rules]
    if strings.least or strings.most is not None:
        conditions.append(lark.terminal(repeated(f"/{any_char}/", strings.least, strings.most)))
    if strings.excluded:
        conditions.append(f"~{lark.terminal(one_of(literal(write_text(text)) for text in strings.excluded))}")
    if all(condition.startswith("~") for condition in conditions):
        conditions.insert(0, lark.terminal(f"/(?:{any_char})*/"))
    return lark.terminal(" & ".join(conditions))


def _rule(rule: StringRule, lark: Lark, write_char: WriteChar) -> str:
    source = rule.value if rule.keyword == "pattern" else EXPRESSIONS[rule.value]
    name = pattern_terminal(source, lark, write_char, rule.where)
    return f"~{name}" if rule.negated else name


def _plain_char(chars: CharClass) -> str:
    return chars.without(())


class StringProbe:
    """Answers about strings and what they have to fit. Keeps what it has compiled."""

    def __init__(self) -> None:
        self._rules: dict[tuple[str, str], LLMatcher] = {}

    def fits(self, rule: StringRule, text: str) -> bool:
        """Whether a string fits a pattern or a format; `negated` is not looked at. Raises BadRequest naming its path
        for one that no grammar can follow."""
        key = rule.keyword, rule.value
        if key not in self._rules:
            self._rules[key] = self._compiled(Strings(rules=(StringRule(*key, rule.where),)), rule.where)
        matcher = self._rules[key].deep_copy()
        data = text.encode("utf-8", "replace")
        return bool(matcher.consume_tokens(list(data)) and matcher.is_accepting()) if data else bool(matcher.is_accepting())

    def fits_all(self, rules: Iterable[StringRule], text: str) -> bool:
        """Whether a string fits each rule, and none that is negated."""
        return all(self.fits(rule, text) != rule.negated for rule in rules)

    def has_any(self, strings: Strings) -> bool:
        """Whether there is a string that fits everything. Raises BadRequest as `fits` does."""
        for rule in strings.rules:
            self.fits(rule, "")
        if not strings.rules and (not strings.excluded or strings.most is None):
            return True
        matcher = self._compiled(strings, strings.rules[0].where if strings.rules else "")
        matcher.compute_bitmask()
        return not matcher.is_error()

    def _compiled(self, strings: Strings, where: str) -> LLMatcher:
        lark = Lark(where)
        return _bytes().compile(lark.text(terminal(strings, lark, _plain_char, str)), where)


@lru_cache(maxsize=1)
def _bytes() -> Vocabulary:
    """A vocabulary of the 256 bytes."""
    return Vocabulary([bytes([code]) for code in range(256)] + [b"<end>"], [256], {"<end>": 256})
