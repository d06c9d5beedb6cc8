"""The inputs of an embedding job as rows of token ids that fit the model, or the error that says which does not."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from batch.errors import BadRequest, ContextExceeded
from batch.payloads.embedding import EmbeddingInput, EmbeddingPayload, TextWindow
from batch.payloads.embedding_inputs import iter_inputs
from batch.workers.embedding.text_windows import text_windows
from batch.workers.embedding.tokenizer import TextTokenizer, Tokens

YIELD_CHARS = 1 << 16
"""Characters tokenised between two yield points."""


class InputRows(msgspec.Struct, frozen=True):
    """What a job's inputs are made into."""

    rows: list[Tokens]
    """Token ids, one row a vector."""
    windows: list[TextWindow] | None
    """Which part of which input a row is, where inputs are split into windows."""


class InputReader:
    """Makes the inputs of jobs into rows for one model."""

    def __init__(self, tokenizer: TextTokenizer, *, n_vocab: int, max_tokens: int, query_prefix: str) -> None:
        """`max_tokens` of one row, special tokens included; `query_prefix` goes before the texts of a query."""
        self._tokenizer = tokenizer
        self._n_vocab = n_vocab
        self._max_tokens = max_tokens
        self._query_prefix = query_prefix

    def read(self, payload: EmbeddingPayload, blob: Path | None, yield_point: Callable[[], object]) -> InputRows:
        """The rows of a payload, whose inputs lie in the file `blob` where it has none itself.

        `yield_point` is called between pieces of the work. Raises BadRequest or ContextExceeded, which name the input.
        """
        rows: list[Tokens] = []
        windows: list[TextWindow] | None = [] if payload.windows else None
        foreign: BadRequest | None = None
        index, chars = 0, 0
        for items in _inputs(payload, blob):
            for item in items:
                if windows is not None:
                    self._add_windows(index, item, rows, windows, yield_point)
                elif isinstance(item, str):
                    rows.append(self._text_row(index, item, payload, yield_point))
                elif payload.query:
                    raise BadRequest(f"Item {index} of the input is a token array: a query must be a text.", index=index)
                else:
                    row = self.token_row(item, index)
                    if self._is_own(item, row):
                        rows.append(self._fitting(index, row, truncate=payload.truncate))
                    else:  # ids outside the vocabulary, further on, are the plainer fault
                        foreign = foreign or self._foreign(index)
                index += 1
                chars += len(item) + 16
                if chars > YIELD_CHARS:
                    chars = 0
                    yield_point()
        if foreign is not None:
            raise foreign
        return InputRows(rows, windows)

    def token_row(
        self, item: Sequence[int | str], index: int, *, add_special: bool = True, parse_special: bool = False
    ) -> Tokens:
        """The ids of a token array as they stand; texts in it are tokenised, one that comes first with its special tokens.

        Raises BadRequest for an id outside the vocabulary, naming the input `index`.
        """
        parts: list[Tokens] = []
        ids: list[int] = []
        for place, value in enumerate(item):
            if isinstance(value, str):
                parts.append(np.array(ids, np.int32))
                framed = add_special and place == 0
                parts.append(self._tokenizer.tokenize(value, add_special=framed, parse_special=parse_special))
                ids = []
            elif 0 <= value < self._n_vocab:
                ids.append(value)
            else:
                raise BadRequest(
                    f"Item {index} of the input holds the token id {value}: this model's run from 0 to {self._n_vocab - 1}. "
                    f"{_SEND_TEXTS}",
                    index=index,
                )
        return np.concatenate([*parts, np.array(ids, np.int32)])

    def _is_own(self, item: Sequence[int | str], row: Tokens) -> bool:
        """Whether ids can be this model's; a client that mixes them with texts knows whom it speaks to."""
        return self._tokenizer.is_framed(row) or any(isinstance(value, str) for value in item)

    def _foreign(self, index: int) -> BadRequest:
        tokenizer = self._tokenizer
        first, last = (" ".join(map(str, ids)) for ids in (tokenizer.prefix, tokenizer.suffix))
        frame = " and ".join(filter(None, (f"begin with {first}" if first else "", f"end with {last}" if last else "")))
        message = f"Item {index} of the input holds token ids of another vocabulary: this model's texts {frame}. {_SEND_TEXTS}"
        return BadRequest(message, index=index)

    def _text_row(self, index: int, text: str, payload: EmbeddingPayload, yield_point: Callable[[], object]) -> Tokens:
        if payload.query:
            text = self._query_prefix + text
        enough = self._max_tokens if payload.truncate else None
        return self._fitting(index, self._tokenizer.tokenize_long(text, enough, yield_point), truncate=payload.truncate)

    def _fitting(self, index: int, row: Tokens, *, truncate: bool) -> Tokens:
        if len(row) == 0:
            raise BadRequest(f"Item {index} of the input is empty: it has no tokens.", index=index)
        if truncate or len(row) <= self._max_tokens:
            return self._tokenizer.truncate(row, self._max_tokens)
        raise ContextExceeded(
            f"Item {index} of the input has {len(row)} tokens, more than the {self._max_tokens} this model takes: "
            'shorten or split it, or send "truncate": true to have it cut.',
            index=index,
            n_prompt_tokens=len(row),
            n_ctx=self._max_tokens,
        )

    def _add_windows(
        self,
        index: int,
        item: EmbeddingInput,
        rows: list[Tokens],
        windows: list[TextWindow],
        yield_point: Callable[[], object],
    ) -> None:
        if not isinstance(item, str):
            raise BadRequest(f"Item {index} of the input is a token array: only texts can be split into windows.", index=index)
        room = self._max_tokens - self._tokenizer.frame_tokens
        for start, end in text_windows(item, room, self._tokenizer.count, yield_point=yield_point):
            rows.append(self._tokenizer.tokenize(item[start:end]))
            windows.append(TextWindow(index, start, end))
            yield_point()


_SEND_TEXTS = "Send texts instead; LangChain's OpenAIEmbeddings does with check_embedding_ctx_length=False."


def _inputs(payload: EmbeddingPayload, blob: Path | None) -> Iterator[list[EmbeddingInput]]:
    if payload.inputs is not None:
        yield payload.inputs
    elif blob is not None:
        with blob.open("rb") as file:
            # never closed by hand: an error's traceback may still hold slices of it
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        yield from iter_inputs(memoryview(mapped))
