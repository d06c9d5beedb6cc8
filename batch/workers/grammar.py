"""A GBNF grammar that follows a generation, checked behind the sampler and not in front of it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from batch.errors import BadRequest
from batch.workers.llama import Model, complaint, lib, quiet

_MOST = 48
"""Characters that are looked ahead for."""


class Grammar:
    """Says which tokens may come next. A token that it does not allow must never be accepted: that ends the process."""

    def __init__(self, model: Model, gbnf: str, root: str = "root") -> None:
        """Raises BadRequest when the grammar cannot be parsed."""
        if "\0" in gbnf:
            raise BadRequest("grammar must not hold a NUL character.")
        quiet()
        self._sampler = lib.llama_sampler_init_grammar(model.vocab, gbnf.encode("utf-8", "replace"), root.encode())
        if not self._sampler:
            raise BadRequest(f"grammar cannot be parsed ({complaint() or 'see the GBNF guide of llama.cpp'}).")
        self._model = model
        self._one = lib.llama_token_data()
        self._single = lib.llama_token_data_array(ctypes.pointer(self._one), 1, -1, False)
        signs = [*model.signs.values(), *sorted(model.ends)[:1]]
        self._signs = np.zeros(len(signs), [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._signs["id"] = signs
        pointer = self._signs.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        self._every = lib.llama_token_data_array(pointer, len(signs), -1, False)

    def close(self) -> None:
        if self._sampler:
            lib.llama_sampler_free(self._sampler)
            self._sampler = None

    def allows(self, token: int) -> bool:
        self._one.id, self._one.logit, self._one.p = token, 1.0, 0.0
        self.filter(self._single)
        return bool(self._one.logit > -1e30)

    def certain(self) -> bytes:
        """The text that has to come next, as far as it is ASCII: the rest of a key, say, once its first letter stands."""
        found = bytearray()
        sampler, sign = self._sampler, self._only(self._sampler)
        try:
            while sign is not None and len(found) < _MOST:
                found += self._model.piece(sign)
                if sampler is self._sampler:
                    sampler = lib.llama_sampler_clone(self._sampler)
                lib.llama_sampler_accept(sampler, sign)
                sign = self._only(sampler)
        finally:
            if sampler is not self._sampler:
                lib.llama_sampler_free(sampler)
        return bytes(found)

    def _only(self, sampler: Any) -> int | None:
        """The token of the one ASCII character that may come next; None where several may, or the end."""
        self._signs["logit"] = 0.0
        lib.llama_sampler_apply(sampler, ctypes.byref(self._every))
        left = np.flatnonzero(self._signs["logit"] == 0.0)
        token = int(self._signs["id"][left[0]]) if len(left) == 1 else -1
        return token if token >= 0 and token not in self._model.ends else None

    def filter(self, candidates: Any) -> None:
        """Set the logit of every candidate that may not come next to minus infinity."""
        lib.llama_sampler_apply(self._sampler, ctypes.byref(candidates))

    def accept(self, token: int) -> None:
        lib.llama_sampler_accept(self._sampler, token)
