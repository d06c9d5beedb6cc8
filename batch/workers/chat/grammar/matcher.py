"""A GBNF grammar that follows a generation, checked behind the sampler and not in front of it."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import numpy as np

from batch.errors import BadRequest
from batch.workers.llama.library import clear_errors, last_error, lib
from batch.workers.llama.model import Model

DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""llama_token_data"""
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*')


class Grammar:
    """Says which tokens may come next. A token that it does not allow must never be accepted: that ends the process."""

    def __init__(self, model: Model, gbnf: str, root: str = "root") -> None:
        """Raises BadRequest when the grammar cannot be parsed."""
        if "\0" in gbnf:
            raise BadRequest("grammar must not hold a NUL character.")
        clear_errors()
        self._sampler = lib.llama_sampler_init_grammar(model.vocab, gbnf.encode("utf-8", "replace"), root.encode())
        if not self._sampler:
            raise BadRequest(f"grammar cannot be parsed ({last_error() or 'see the GBNF guide of llama.cpp'}).")
        self._model = model
        # Such a grammar names tokens, and not only by their text: <[1000]>
        self._by_text = "<" not in _QUOTED.sub("", gbnf)
        letters = model.ascii_tokens[model.ascii_tokens >= 0]
        self._letters = np.zeros(len(letters), DATA)
        self._letters["id"] = letters
        pointer = self._letters.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        self._alphabet = lib.llama_token_data_array(pointer, len(letters), -1, False)
        self._may: np.ndarray[Any, np.dtype[np.bool_]] | None = None  # by first byte, until the next token is accepted
        self._one = lib.llama_token_data()
        self._single = lib.llama_token_data_array(ctypes.pointer(self._one), 1, -1, False)

    def close(self) -> None:
        if self._sampler:
            lib.llama_sampler_free(self._sampler)
            self._sampler = None

    def allows(self, token: int) -> bool:
        self._one.id, self._one.logit, self._one.p = token, 1.0, 0.0
        self.filter(self._single)
        return bool(self._one.logit > -1e30)

    def possible(self, tokens: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Those of the tokens whose first character may come next, or that may do so by anything but their text.

        Asking about the hundred characters first spares asking about thousands of tokens.
        """
        if not self._by_text or len(tokens) <= len(self._letters):
            return tokens
        openings = self._model.first_bytes
        if self._may is None:
            self._letters["logit"] = 0.0
            self.filter(self._alphabet)
            self._may = np.ones(256, bool)
            self._may[openings[self._letters["id"]]] = self._letters["logit"] == 0.0
        found: np.ndarray[Any, np.dtype[np.int64]] = tokens[self._may[openings[tokens]]]
        return found

    def filter(self, candidates: Any) -> None:
        """Set the logit of every candidate that may not come next to minus infinity."""
        lib.llama_sampler_apply(self._sampler, ctypes.byref(candidates))

    def accept(self, token: int) -> None:
        self._may = None
        lib.llama_sampler_accept(self._sampler, token)
