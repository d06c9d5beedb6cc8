"""The sampling chain over logits that no model has computed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from batch.payloads.sampling import DEFAULTS, SamplingParams
from batch.workers.chat.sampling import sampler as sampler_module
from batch.workers.chat.sampling.sampler import Sampler
from batch.workers.chat.sampling.sampling_params import resolve_sampling

N_VOCAB = 65_536

MakeSampler = Callable[..., Sampler]


@pytest.fixture
def logits() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(5).normal(0, 3, N_VOCAB).astype(np.float32)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, logits: np.ndarray[Any, np.dtype[np.float32]]) -> MakeSampler:
    monkeypatch.setattr(sampler_module, "_suppressed_tokens", lambda model: [])
    model: Any = SimpleNamespace(n_vocab=N_VOCAB)
    context: Any = SimpleNamespace(logits=lambda row: logits)

    def make(bias: list[tuple[int, float]]) -> Sampler:
        sampling = resolve_sampling(SamplingParams(temperature=1.0, top_k=10, seed=3), DEFAULTS, 4096)
        return Sampler(model, context, sampling, bias=bias)

    return make


def test_an_unlikely_token_with_a_large_bias_is_drawn_as_the_whole_chain_draws_it(
    make: MakeSampler, logits: np.ndarray[Any, np.dtype[np.float32]]
) -> None:
    rare, other = (int(token) for token in np.argsort(logits)[:2])
    bias = [(rare, float(logits.max() - logits[rare])), (other, -1.0)]
    quick, whole = make(bias), make(bias)
    assert quick._shortlist_tokens
    drawn = [quick.sample(-1) for _ in range(40)]
    assert drawn == [whole._apply(whole._fill(None, logits)) for _ in range(40)]
    assert rare in drawn and len(set(drawn)) > 1
    quick.close()
    whole.close()


def test_what_was_found_for_a_token_that_was_not_drawn_is_not_drawn_later(
    make: MakeSampler, logits: np.ndarray[Any, np.dtype[np.float32]]
) -> None:
    sampler = make([])
    sampler.find(logits)
    sampler.accept([7])  # the token was forced
    logits[:] = -logits
    assert sampler.sample(-1) in np.argsort(-logits)[:10]
    sampler.close()
