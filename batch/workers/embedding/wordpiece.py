"""BERT's own tokeniser: the `tokenizers` package with a GGUF's vocabulary, and a memory of the words it has met.

llama.cpp's WordPiece finds other tokens than the model was trained on for words over 100 characters, and for Korean,
Devanagari and some control characters, so texts are tokenised here and llama.cpp gets ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

PIECE_CHARS = 1 << 16
"""Characters that are tokenised at once: some ten milliseconds."""
MAX_WORD_CHARS = 100
"""A longer word is one unknown token, as in BERT's own code."""
MAX_CACHED_WORDS = 1 << 17
"""Words that the memory holds before it is emptied: about 20 MB."""
WORD_START = "\u2581"
"""What a GGUF puts before a token that begins a word; one that continues a word stands bare."""
_CONTINUATION = "##"
_ASCII_SPACE = str.maketrans("\t\n\r", "   ")
_ASCII_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class WordPieceTokenizer:
    """Texts to ids without special tokens. May be used from several threads."""

    def __init__(
        self, tokens: Sequence[str], controls: frozenset[int], unknown: int, *, lowercase: bool, strip_accents: bool
    ) -> None:
        """`tokens` are a GGUF's, by id; `controls` the ids whose text stands as it is; `unknown` the id of [UNK]."""
        vocabulary = {_wordpiece(text, number in controls): number for number, text in enumerate(tokens)}
        model = WordPiece(vocabulary, unk_token=tokens[unknown], max_input_chars_per_word=MAX_WORD_CHARS)
        self._lowercase = lowercase
        self._normalizer = BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
        )
        self._pre_tokenizer = BertPreTokenizer()
        # It gets normalised text: what lies between two spaces.
        self._words = Tokenizer(model)
        self._words.pre_tokenizer = self._pre_tokenizer
        self._cache: dict[str, Sequence[int]] = {}
        special = sorted((tokens[number] for number in controls if tokens[number]), key=len, reverse=True)
        self._special: Mapping[str, int] = {tokens[number]: number for number in controls}
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, special)) + ")") if special else None

    def encode(self, text: str) -> list[int]:
        """Ids of a text; special tokens that are written in it are text."""
        if len(text) > PIECE_CHARS:
            return [number for ids in self.encode_pieces(text) for number in ids]
        ids: list[int] = []
        self._append_words(ids, self._normalized(text).split(" "))
        return ids

    def encode_special(self, text: str) -> list[int]:
        """Ids of a text; the texts of special tokens become those tokens."""
        if self._special_pattern is None:
            return self.encode(text)
        ids: list[int] = []
        for part in self._special_pattern.split(text):
            ids += [self._special[part]] if part in self._special else self.encode(part)
        return ids

    def encode_pieces(self, text: str) -> Iterator[list[int]]:
        """What `encode` gives, in parts of PIECE_CHARS characters, in memory for one of them."""
        rest = ""
        for at in range(0, len(text), PIECE_CHARS):
            *words, rest = (rest + self._normalized(text[at : at + PIECE_CHARS])).split(" ")
            ids: list[int] = []
            self._append_words(ids, words)
            if len(rest) > MAX_WORD_CHARS:
                # No space for long: the words before the last punctuation are whole, and of a word that is already
                # too long no more need be kept.
                *whole, (last, _) = self._pre_tokenizer.pre_tokenize_str(rest)
                self._append_words(ids, [word for word, _ in whole])
                rest = last[: MAX_WORD_CHARS + 1]
            yield ids
        ids = []
        self._append_words(ids, [rest])
        yield ids

    def _normalized(self, text: str) -> str:
        """Cleaned text with a space for any white space and around each Chinese character."""
        if text.isascii() and not _ASCII_CONTROL.search(text):
            text = text.translate(_ASCII_SPACE)
            return text.lower() if self._lowercase else text
        try:
            return str(self._normalizer.normalize_str(text))
        except UnicodeEncodeError:  # half a surrogate pair is no character
            return str(self._normalizer.normalize_str(text.encode("utf-8", "replace").decode()))

    def _append_words(self, ids: list[int], words: Sequence[str]) -> None:
        cache = self._cache
        for word in words:
            word_ids = cache.get(word)
            ids += self._encode_word(word) if word_ids is None else word_ids

    def _encode_word(self, word: str) -> Sequence[int]:
        ids: Sequence[int] = self._words.encode(word, add_special_tokens=False).ids
        if len(word) <= MAX_WORD_CHARS:
            if len(self._cache) >= MAX_CACHED_WORDS:
                self._cache.clear()
            self._cache[word] = ids
        return ids


def is_cased(tokens: Sequence[str]) -> bool:
    """Whether a vocabulary knows capital letters, and so was not made from lower-cased texts."""
    capitals = {WORD_START + letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    return len(capitals & set(tokens)) > len(capitals) // 2


def _wordpiece(text: str, control: bool) -> str:
    """A GGUF token's text as WordPiece writes it."""
    if control:
        return text
    return text[1:] if text.startswith(WORD_START) and len(text) > 1 else _CONTINUATION + text
