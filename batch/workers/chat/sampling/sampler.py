"""The sampling chain in C, in llama-server's order; a grammar is asked about the token that was drawn first."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from batch.workers.chat.grammar.matcher import Mask, Matcher
from batch.workers.chat.sampling.sampling_params import ResolvedSampling
from batch.workers.chat.sampling.shortlist import TokenIds, likeliest_token, likeliest_tokens
from batch.workers.llama.context import Context, Logits
from batch.workers.llama.library import lib
from batch.workers.llama.model import Model

DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""llama_token_data"""


class Sampler:
    """Draws one choice's tokens. With the same seed and logits it draws the same tokens."""

    def __init__(
        self, model: Model, context: Context, sampling: ResolvedSampling, *, bias: Sequence[tuple[int, float]] = ()
    ) -> None:
        """Build the chain; `bias`: pairs of a token and what is added to its logit."""
        self._model = model
        self.context = context
        """Whose logits it draws from."""
        self._sampling = sampling
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._sample = lib.llama_sampler_sample
        biases: dict[int, float] = {}
        for token, value in [*bias, *((token, -math.inf) for token in _suppressed_tokens(model))]:
            if 0 <= token < model.n_vocab:
                biases[token] = biases.get(token, 0.0) + value
        self._biased = np.fromiter(biases, np.int64)
        self._biases = np.fromiter(biases.values(), np.float32)
        self._raised = self._biased[self._biases > 0]
        """These may be among the likeliest, however unlikely the model finds them."""
        for link in _chain_links(model, sampling, list(biases.items())):
            lib.llama_sampler_chain_add(self._chain, link)
        self._table: Any = None
        # Then the chain comes to one thing: the token with the largest logit, which is found in a tenth of its time.
        self._is_argmax = (
            sampling.temperature <= 0
            and self._is_stateless
            and "temperature" in sampling.samplers
            and sampling.dynatemp_range <= 0
            and sampling.typical_p >= 1
            and sampling.xtc_probability <= 0
        )
        self._shortlist_tokens = sampling.top_k + len(biases) if self._is_stateless and _cuts_first(sampling) else 0
        """Where the chain first cuts the vocabulary to its likeliest tokens: how many of them it needs; else 0."""
        self._choice: int | TokenIds | None = None
        """What `find` found for the next `sample`."""

    def close(self) -> None:
        """Free the chain. Harmless when called again."""
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None

    @property
    def memory_tokens(self) -> int:
        """How many of the prompt's last tokens weigh on the first draw."""
        s = self._sampling
        if not s.uses_penalties:
            return 0
        return max(s.repeat_last_n, s.dry_penalty_last_n if s.uses_dry else 0)

    @property
    def _is_stateless(self) -> bool:
        return not self._sampling.uses_penalties and self._sampling.mirostat == 0

    def accept(self, tokens: Iterable[int]) -> None:
        """Count tokens that were not drawn here for the penalties."""
        self._choice = None  # nothing was drawn from it
        for token in tokens:
            lib.llama_sampler_accept(self._chain, token)

    def find(self, logits: Logits) -> None:
        """From any thread: find what the next `sample` chooses from, by the logits, (n_vocab,), that it will see."""
        if self._is_argmax:
            self._choice = likeliest_token(logits, self._biased, self._biases)
        elif self._shortlist_tokens:
            tokens = likeliest_tokens(logits, self._shortlist_tokens)
            self._choice = np.union1d(tokens, self._raised) if tokens is not None and len(self._raised) else tokens

    def sample(self, row: int) -> int:
        """The next token, from the logits in `row` of the last decode; it counts for the penalties from now on."""
        if self._is_argmax or self._shortlist_tokens:
            logits = self.context.logits(row)
            if self._choice is None:
                self.find(logits)
            choice, self._choice = self._choice, None
            if isinstance(choice, int):
                return choice
            if choice is not None:
                return self._apply(self._fill(choice, logits))
        return int(self._sample(self._chain, self.context.handle, row))

    def sample_with_probabilities(self, row: int, top: int) -> tuple[int, float, list[tuple[int, float]]]:
        """The next token as `sample` draws it, its probability after sampling, and the `top` likeliest with theirs."""
        candidates = self._fill(None, self.context.logits(row))
        token = self._apply(candidates)
        lib.llama_sampler_accept(self._chain, token)
        # Samplers shorten the array at both ends, so it is read from where they left it.
        size = int(candidates.size) * DATA.itemsize
        data = np.ctypeslib.as_array(ctypes.cast(candidates.data, ctypes.POINTER(ctypes.c_uint8)), shape=(size,))
        remaining = data.view(DATA)
        order = np.argsort(-remaining["p"], kind="stable")[:top]
        likeliest = [(int(remaining["id"][i]), float(remaining["p"][i])) for i in order if remaining["p"][i] > 0]
        return token, float(candidates.data[candidates.selected].p), likeliest

    def sample_within(self, matcher: Matcher, row: int) -> int | None:
        """The next token that the grammar allows, which it accepts too unless it ends the text; None: there is none."""
        logits = self.context.logits(row)
        # The quick call counts its token at once, which must not be where earlier tokens count and it is refused.
        is_quick = self._is_stateless
        token = self.sample(row) if is_quick else self._apply(self._fill(None, logits))
        if not matcher.allows(token):
            redrawn = self._redraw(logits, matcher.mask())
            if redrawn is None:
                return None
            token = redrawn
        if not is_quick:
            lib.llama_sampler_accept(self._chain, token)
        if token not in self._model.end_tokens:
            matcher.accept(token)
        return token

    def _redraw(self, logits: np.ndarray[Any, Any], mask: Mask) -> int | None:
        """One of the tokens in the mask."""
        allowed = np.flatnonzero(mask)
        if not len(allowed):
            return None
        if self._is_argmax:
            sums = logits[allowed]
            _, at, of = np.intersect1d(allowed, self._biased, assume_unique=True, return_indices=True)
            sums[at] += self._biases[of]
            return int(allowed[sums.argmax()])
        return self._apply(self._fill(allowed, logits))

    def _fill(self, ids: np.ndarray[Any, Any] | None, logits: np.ndarray[Any, Any]) -> Any:
        if self._table is None:
            self._table = np.zeros(len(logits), DATA)
            self._pointer = self._table.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        n = len(logits) if ids is None else len(ids)
        self._table["id"][:n] = np.arange(n, dtype=np.int32) if ids is None else ids
        self._table["logit"][:n] = logits if ids is None else logits[ids]
        self._table["p"][:n] = 0.0
        return lib.llama_token_data_array(self._pointer, n, -1, False)

    def _apply(self, candidates: Any) -> int:
        lib.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        return int(candidates.data[candidates.selected].id)


def _chain_links(model: Model, s: ResolvedSampling, bias: Sequence[tuple[int, float]]) -> list[Any]:
    links: list[Any] = []
    if bias:
        rows = (lib.llama_logit_bias * len(bias))(*[lib.llama_logit_bias(t, b) for t, b in bias])
        links.append(lib.llama_sampler_init_logit_bias(model.n_vocab, len(bias), rows))
    seed = s.seed & 0xFFFFFFFF
    match s.mirostat:
        case 1:
            links.append(lib.llama_sampler_init_temp(s.temperature))
            links.append(lib.llama_sampler_init_mirostat(model.n_vocab, seed, s.mirostat_tau, s.mirostat_eta, 100))
            return links
        case 2:
            links.append(lib.llama_sampler_init_temp(s.temperature))
            links.append(lib.llama_sampler_init_mirostat_v2(seed, s.mirostat_tau, s.mirostat_eta))
            return links
    links += [link for name in s.samplers if (link := _link(name, model, s, seed)) is not None]
    # At temperature 0 everything but the best token has a probability of 0.
    links.append(lib.llama_sampler_init_dist(seed))
    return links


def _cuts_first(s: ResolvedSampling) -> bool:
    """Whether the chain cuts the vocabulary to its `top_k` likeliest tokens before anything else weighs on which they are."""
    if s.top_k <= 0 or "top_k" not in s.samplers:
        return False
    is_used = {
        "top_n_sigma": s.top_n_sigma > 0,
        "typ_p": s.typical_p < 1.0,
        "top_p": s.top_p < 1.0,
        "min_p": s.min_p > 0.0,
        "xtc": s.xtc_probability > 0.0,
        "temperature": True,
    }
    return not any(is_used.get(name, False) for name in s.samplers[: s.samplers.index("top_k")])


def _link(name: str, model: Model, s: ResolvedSampling, seed: int) -> Any:
    match name:
        case "penalties":
            return lib.llama_sampler_init_penalties(
                model.n_vocab, s.repeat_last_n, s.repeat_penalty, s.frequency_penalty, s.presence_penalty
            )
        case "dry":
            if not s.uses_dry:
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


def _suppressed_tokens(model: Model) -> list[int]:
    n = ctypes.c_int32()
    tokens = lib.llama_vocab_get_suppress_tokens(model.vocab, ctypes.byref(n))
    return [int(tokens[i]) for i in range(n.value)]
