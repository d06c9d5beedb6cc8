"""BERT's tokeniser written from its published description, with nothing of the `tokenizers` package in it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping

import gguf

_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def vocabulary(path: object) -> dict[str, int]:
    """vocab.txt as it was before it became a GGUF: "##" before a token that continues a word."""
    fields = gguf.GGUFReader(path).fields
    types = fields["tokenizer.ggml.token_type"].contents()
    pieces = fields["tokenizer.ggml.tokens"].contents()
    return {_piece(text, kind): number for number, (text, kind) in enumerate(zip(pieces, types, strict=True))}


def _piece(text: str, kind: int) -> str:
    if kind == gguf.TokenType.CONTROL:
        return text
    return text[1:] if text.startswith("\u2581") else "##" + text


def reference_tokens(text: str, vocab: Mapping[str, int]) -> list[int]:
    """Ids of a lower-casing BERT with [CLS] and [SEP]."""
    ids = [number for word in _words(text) for number in _pieces(word, vocab)]
    return [vocab["[CLS]"], *ids, vocab["[SEP]"]]


def _words(text: str) -> Iterator[str]:
    cleaned = []
    for character in text:
        category = unicodedata.category(character)
        if character in "\t\n\r" or category == "Zs":
            cleaned.append(" ")
        elif character in "\0\ufffd" or category.startswith("C"):
            continue
        elif any(first <= ord(character) <= last for first, last in _CHINESE):
            cleaned.append(f" {character} ")
        else:
            cleaned.append(character)
    for word in "".join(cleaned).split():
        # letter by letter: a sigma at the end of a word is a sigma like others
        bare = "".join(
            c for c in unicodedata.normalize("NFD", "".join(map(str.lower, word))) if unicodedata.category(c) != "Mn"
        )
        part = ""
        for character in bare:
            if _is_punctuation(character):
                yield from (p for p in (part, character) if p)
                part = ""
            else:
                part += character
        if part:
            yield part


def _is_punctuation(character: str) -> bool:
    is_ascii_sign = character.isascii() and character.isprintable() and not character.isalnum() and character != " "
    return is_ascii_sign or unicodedata.category(character).startswith("P")


def _pieces(word: str, vocab: Mapping[str, int]) -> list[int]:
    unknown = [vocab["[UNK]"]]
    if len(word) > 100:
        return unknown
    ids = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in vocab), None)
        if end is None:
            return unknown
        ids.append(vocab[prefix + word[start:end]])
        start = end
    return ids
