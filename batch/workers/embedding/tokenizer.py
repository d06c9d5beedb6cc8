"""Texts to the token ids of an embedding model, with the special tokens that it frames a text with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from batch.workers.embedding.wordpiece import PIECE_CHARS, WordPieceTokenizer, is_cased
from batch.workers.llama.library import lib
from batch.workers.llama.model import Model

Tokens = npt.NDArray[np.int32]
"""(n,) token ids of one text."""


class TextEncoder(Protocol):
    """Texts to ids without the tokens that frame a text. May be used from several threads."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens that are written in it are text."""
        ...

    def encode_special(self, text: str) -> list[int]:
        """Ids of a text; the texts of special tokens become those tokens."""
        ...

    def encode_pieces(self, text: str) -> Iterator[list[int]]:
        """What `encode` gives, in parts of PIECE_CHARS characters."""
        ...


class TextTokenizer:
    """A model's tokeniser. May be used from several threads."""

    def __init__(self, model: Model) -> None:
        self._vocabulary: TextEncoder = _wordpiece(model) if _is_wordpiece(model) else LlamaTextEncoder(model)
        frame = model.tokenize("", add_special=True)
        closing = {model.eos, int(lib.llama_vocab_sep(model.vocab))}
        suffix = int(len(frame) > 0 and frame[-1] in closing)
        self.prefix: Tokens = np.array(frame[: len(frame) - suffix], np.int32)
        """Special tokens before a text."""
        self.suffix: Tokens = np.array(frame[len(frame) - suffix :], np.int32)
        """Special tokens behind a text."""

    @property
    def frame_tokens(self) -> int:
        """How many special tokens a text gets."""
        return len(self.prefix) + len(self.suffix)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> Tokens:
        """Ids of a text; special tokens that are written in it stay text unless `parse_special`."""
        ids = self._vocabulary.encode_special(text) if parse_special else self._vocabulary.encode(text)
        return self._framed(ids) if add_special else np.array(ids, np.int32)

    def tokenize_long(self, text: str, max_tokens: int | None, yield_point: Callable[[], object]) -> Tokens:
        """What `tokenize` gives, for a text of any length: `yield_point` is called between pieces of it.

        With `max_tokens` the tokens behind so many may be missing.
        """
        if len(text) <= PIECE_CHARS:
            return self._framed(self._vocabulary.encode(text))
        parts: list[Tokens] = []
        size = self.frame_tokens
        for ids in self._vocabulary.encode_pieces(text):
            parts.append(np.array(ids, np.int32))
            size += len(ids)
            if max_tokens is not None and size > max_tokens:
                break
            yield_point()
        return np.concatenate([self.prefix, *parts, self.suffix])

    def count(self, text: str) -> int:
        """Tokens of a text, without special ones."""
        return len(self._vocabulary.encode(text))

    def is_framed(self, ids: Tokens) -> bool:
        """Whether ids begin and end with the special tokens that this model's texts begin and end with."""
        end = len(ids) - len(self.suffix)
        opened = np.array_equal(ids[: len(self.prefix)], self.prefix)
        return end >= len(self.prefix) and opened and np.array_equal(ids[end:], self.suffix)

    def truncate(self, ids: Tokens, max_tokens: int) -> Tokens:
        """The first of a framed text's ids, and the special tokens that close it; `max_tokens` together."""
        if len(ids) <= max_tokens:
            return ids
        return np.concatenate([ids[: max_tokens - len(self.suffix)], self.suffix])

    def _framed(self, ids: list[int]) -> Tokens:
        end = len(self.prefix) + len(ids)
        framed = np.empty(end + len(self.suffix), np.int32)
        framed[: len(self.prefix)] = self.prefix
        framed[len(self.prefix) : end] = ids
        framed[end:] = self.suffix
        return framed


class LlamaTextEncoder:
    """llama.cpp's own tokeniser, for vocabularies other than WordPiece."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def encode(self, text: str) -> list[int]:
        return self._model.tokenize(text, parse_special=False)

    def encode_special(self, text: str) -> list[int]:
        return self._model.tokenize(text, parse_special=True)

    def encode_pieces(self, text: str) -> Iterator[list[int]]:
        """Cut before white space, so that no word's tokens change; a run without any is cut where it must be."""
        at = 0
        while len(text) - at > PIECE_CHARS:
            last = at + PIECE_CHARS
            cut = next((i for i in range(last, last - PIECE_CHARS // 2, -1) if text[i].isspace()), last)
            yield self.encode(text[at:cut])
            at = cut
        yield self.encode(text[at:])


def _is_wordpiece(model: Model) -> bool:
    return int(lib.llama_vocab_type(model.vocab)) == int(lib.LLAMA_VOCAB_TYPE_WPM)


def _wordpiece(model: Model) -> WordPieceTokenizer:
    """The tokeniser of a GGUF with a BERT's vocabulary. Older files do not say whether texts are lower-cased."""
    tokens = [(lib.llama_vocab_get_text(model.vocab, i) or b"").decode("utf-8", "replace") for i in range(model.n_vocab)]
    unknown = int(model.metadata("tokenizer.ggml.unknown_token_id") or tokens.index("[UNK]"))
    lowercase = _flag(model, "lowercase", default=not is_cased(tokens))
    return WordPieceTokenizer(
        tokens,
        model.control_tokens | {unknown},
        unknown,
        lowercase=lowercase,
        strip_accents=_flag(model, "strip_accents", default=lowercase),
    )


def _flag(model: Model, name: str, *, default: bool) -> bool:
    value = model.metadata(f"tokenizer.ggml.normalizer.{name}")
    return default if value is None else value == "true"
