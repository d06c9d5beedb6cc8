"""The words that people search with, as phrases for the store's full-text index.

Words are ANDed, "a phrase" stands as it is, -word excludes, word* is the beginning of one. Everything else is literal: no
syntax of a database's gets through.
"""

from __future__ import annotations

import re

import msgspec

from batch.errors import BadRequest
from batch.queue.full_text.search_tables import Phrase
from batch.search.segmentation import has_words, phrase_text

MAX_QUERY_CHARS = 2000
MAX_TERMS = 64
_TERM = re.compile(r'(?P<minus>(?<!\S)-)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')


class Term(msgspec.Struct, frozen=True):
    """One word or phrase of a query."""

    text: str
    """As it was written, without quotes and signs."""
    is_excluded: bool = False
    is_prefix: bool = False
    """Any word that begins so."""

    def phrase(self) -> Phrase:
        """What is looked for: words in a row."""
        words, is_prefix = phrase_text(self.text)
        return Phrase(words, is_prefix or self.is_prefix)


class TextQuery(msgspec.Struct, frozen=True):
    """What is looked for, and what is not wanted."""

    terms: tuple[Term, ...]

    @property
    def required_terms(self) -> tuple[Term, ...]:
        """Terms that a passage must hold."""
        return tuple(term for term in self.terms if not term.is_excluded)

    @property
    def excluded_terms(self) -> tuple[Term, ...]:
        """Terms that no passage of a content may hold."""
        return tuple(term for term in self.terms if term.is_excluded)

    def meaning(self) -> str:
        """The query as a sentence to embed: without signs, and without what is not wanted."""
        return " ".join(term.text for term in self.required_terms)


def parse_query(text: str) -> TextQuery:
    """The terms of a query. Raises BadRequest, which names the parameter, for what nothing can be found with."""
    if "\0" in text:
        raise BadRequest('"query" holds a NUL character: leave it away.', param="query")
    if not text.strip():
        raise BadRequest('"query" is empty: say what to look for.', param="query")
    if len(text) > MAX_QUERY_CHARS:
        raise BadRequest(f'"query" has {len(text)} characters, more than {MAX_QUERY_CHARS}: shorten it.', param="query")
    terms = tuple(term for match in _TERM.finditer(text) if has_words((term := _term(match)).text))
    if not any(not term.is_excluded for term in terms):
        raise BadRequest('"query" has no word to look for: it holds signs, or only words to leave out.', param="query")
    if len(terms) > MAX_TERMS:
        raise BadRequest(f'"query" has {len(terms)} words, more than {MAX_TERMS}: shorten it.', param="query")
    return TextQuery(terms)


def _term(match: re.Match[str]) -> Term:
    is_excluded = match["minus"] is not None
    if match["phrase"] is not None:
        return Term(match["phrase"].strip(), is_excluded)
    word = match["word"]
    return Term(word.rstrip("*"), is_excluded, is_prefix=word.endswith("*"))
