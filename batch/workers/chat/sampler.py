"""The sampling chain in C, in llama-server's order; a grammar is asked about few tokens, not about all."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from batch.workers.chat.grammar.matcher import DATA, Grammar
from batch.workers.chat.sampling_params import Sampling
from batch.workers.llama.context import Context
from batch.workers.llama.library import lib
from batch.workers.llama.model import Model

_REACH = 8.0
"""How many nats below the likeliest token the ones lie that a grammar is asked about first."""
_MARGIN = 7.0
"""How many nats below the best allowed token the unseen ones must lie for the few to stand for the whole."""


class Sampler:
    """Draws one choice's tokens. With the same seed and logits it draws the same tokens."""

    def __init__(self, model: Model, sampling: Sampling, *, bias: Sequence[tuple[int, float]] = ()) -> None:
        self._model = model
        self._sampling = sampling
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._draw = lib.llama_sampler_sample
        for link in _links(model, sampling, bias):
            lib.llama_sampler_chain_add(self._chain, link)
        self._table: Any = None
        self._greedy = sampling.temperature <= 0 and not sampling.penalises and not bias and sampling.mirostat == 0
        # Then the chain comes to one thing: the token with the largest logit, found in a tenth of its time.
        self._largest = (
            self._greedy
            and "temperature" in sampling.samplers
            and sampling.dynatemp_range <= 0
            and sampling.typical_p >= 1
            and sampling.xtc_probability <= 0
            and not _suppressed(model)
        )

    def close(self) -> None:
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None

    @property
    def memory(self) -> int:
        """How many tokens of the prompt count for the penalties."""
        s = self._sampling
        if not s.penalises:
            return 0
        return max(s.repeat_last_n, s.dry_penalty_last_n if s.dries else 0)

    @property
    def _stateless(self) -> bool:
        return not self._sampling.penalises and self._sampling.mirostat == 0

    def accept(self, tokens: Iterable[int]) -> None:
        """Tell the penalties about tokens that were not drawn here."""
        for token in tokens:
            lib.llama_sampler_accept(self._chain, token)

    def sample(self, context: Context) -> int:
        """The next token, from the logits behind the last decode; it counts for the penalties from now on."""
        if self._largest:
            return int(context.logits(self._model.n_vocab).argmax())
        return int(self._draw(self._chain, context.handle, -1))

    def sample_within(self, context: Context, grammar: Grammar) -> int | None:
        """The next token that the grammar allows, which it accepts too unless it ends the text; None: there is none."""
        n_vocab = self._model.n_vocab
        # The quick call counts its token at once, which must not be where earlier tokens count and it is refused.
        quick = self._stateless
        token = self.sample(context) if quick else self._apply(self._fill(None, context.logits(n_vocab)))
        if not grammar.allows(token):
            redrawn = self._redraw(context.logits(n_vocab), grammar)
            if redrawn is None:
                return None
            if not grammar.allows(redrawn):
                return None
            token = redrawn
        if not quick:
            lib.llama_sampler_accept(self._chain, token)
        if token not in self._model.end_tokens:
            grammar.accept(token)
        return token

    def _redraw(self, logits: np.ndarray[Any, Any], grammar: Grammar) -> int | None:
        peak = float(logits.max())
        # Where only the best counts, the unseen ones need only be worse.
        margin = 0.0 if self._greedy else _MARGIN
        reach = _REACH
        while 0 < len(near := np.flatnonzero(logits > peak - reach)) * 2 < len(logits):
            near = grammar.possible(near)
            candidates = self._fill(near, logits)
            grammar.filter(candidates)
            best = float(self._table["logit"][: len(near)].max(initial=-math.inf))
            if not math.isfinite(best):
                reach *= 2
            elif (wanted := peak - best + margin) > reach:
                reach = wanted
            else:
                return self._apply(candidates)
        left = grammar.possible(np.arange(len(logits)))
        candidates = self._fill(left, logits)
        grammar.filter(candidates)
        if not np.isfinite(self._table["logit"][: len(left)].max(initial=-math.inf)):
            return None
        return self._apply(candidates)

    def _fill(self, ids: np.ndarray[Any, Any] | None, logits: np.ndarray[Any, Any]) -> Any:
        if self._table is None:
            self._table = np.zeros(len(logits), DATA)
            self._all = np.arange(len(logits), dtype=np.int32)
            self._pointer = self._table.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        n = len(logits) if ids is None else len(ids)
        self._table["id"][:n] = self._all if ids is None else ids
        self._table["logit"][:n] = logits if ids is None else logits[ids]
        self._table["p"][:n] = 0.0
        return lib.llama_token_data_array(self._pointer, n, -1, False)

    def _apply(self, candidates: Any) -> int:
        lib.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        return int(candidates.data[candidates.selected].id)


def _links(model: Model, s: Sampling, bias: Sequence[tuple[int, float]]) -> list[Any]:
    made: list[Any] = []
    every = [*bias, *((t, -math.inf) for t in _suppressed(model))]
    if every:
        rows = (lib.llama_logit_bias * len(every))(*[lib.llama_logit_bias(t, b) for t, b in every])
        made.append(lib.llama_sampler_init_logit_bias(model.n_vocab, len(every), rows))
    seed = s.seed & 0xFFFFFFFF
    match s.mirostat:
        case 1:
            made.append(lib.llama_sampler_init_temp(s.temperature))
            made.append(lib.llama_sampler_init_mirostat(model.n_vocab, seed, s.mirostat_tau, s.mirostat_eta, 100))
            return made
        case 2:
            made.append(lib.llama_sampler_init_temp(s.temperature))
            made.append(lib.llama_sampler_init_mirostat_v2(seed, s.mirostat_tau, s.mirostat_eta))
            return made
    made += [link for name in s.samplers if (link := _link(name, model, s, seed)) is not None]
    # At temperature 0 everything but the best token has a probability of 0.
    made.append(lib.llama_sampler_init_dist(seed))
    return made


def _link(name: str, model: Model, s: Sampling, seed: int) -> Any:
    match name:
        case "penalties":
            return lib.llama_sampler_init_penalties(
                model.n_vocab, s.repeat_last_n, s.repeat_penalty, s.frequency_penalty, s.presence_penalty
            )
        case "dry":
            if not s.dries:
                return None
            breakers = [b.encode("utf-8", "replace") for b in s.dry_sequence_breakers]
            array = (ctypes.c_char_p * len(breakers))(*breakers)
            return lib.llama_sampler_init_dry(
                model.vocab,
                s.dry_multiplier,
                s.dry_base,
                s.dry_allowed_length,
                s.dry_penalty_last_n,
                array,
                len(breakers),
            )
        case "top_n_sigma":
            return lib.llama_sampler_init_top_n_sigma(s.top_n_sigma) if s.top_n_sigma > 0 else None
        case "top_k":
            return lib.llama_sampler_init_top_k(s.top_k) if s.top_k > 0 else None
        case "typ_p":
            return lib.llama_sampler_init_typical(s.typical_p, 0) if s.typical_p < 1.0 else None
        case "top_p":
            return lib.llama_sampler_init_top_p(s.top_p, 0) if s.top_p < 1.0 else None
        case "min_p":
            return lib.llama_sampler_init_min_p(s.min_p, 0) if s.min_p > 0.0 else None
        case "xtc":
            return lib.llama_sampler_init_xtc(s.xtc_probability, s.xtc_threshold, 0, seed)
        case "temperature":
            return lib.llama_sampler_init_temp_ext(s.temperature, s.dynatemp_range, s.dynatemp_exponent)
    return None


def _suppressed(model: Model) -> list[int]:
    n = ctypes.c_int32()
    tokens = lib.llama_vocab_get_suppress_tokens(model.vocab, ctypes.byref(n))
    return [int(tokens[i]) for i in range(n.value)]
