"""What one job asks of the model, checked: the prompt and how to go on from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batch.errors import BadRequest
from batch.workers.chat.dialects.stream_parser import StreamParser
from batch.workers.chat.grammar.constraint import Constraint
from batch.workers.chat.sampling_params import Sampling
from batch.workers.chat.token_sequence import Cells
from batch.workers.llama.model import Model


@dataclass(slots=True)
class Plan:
    """Everything a generation needs but the model."""

    prompt: Cells
    sampling: Sampling
    max_tokens: int = -1
    """-1: until the model ends or the context is full."""
    stops: Sequence[str] = ()
    bias: Sequence[tuple[int, float]] = ()
    n: int = 1
    logprobs: int = -1
    """Most likely tokens told beside each; -1: no log probabilities."""
    cache_prompt: bool = True
    time_limit: float = math.inf
    """Seconds of generating after which the next line feed ends it."""
    timings_per_token: bool = False
    progress: bool = False
    guard: bool = True
    """Whether a repetition ends the generation."""
    echo: str = ""
    shown: frozenset[int] = frozenset()
    """Control tokens whose text the parser wants to see."""
    parser: Callable[[], StreamParser] | None = None
    """None: a completion, told as text."""
    constraint: Constraint | None = None
    budget: int = -1
    """Most tokens of thinking; -1: no limit."""
    closing: list[int] = field(default_factory=list)
    """The tokens that end the thinking."""


def apply_generation(plan: Plan, generation: Mapping[str, Any], model: Model) -> None:
    """Fill in the fields that chat and completion share. Raises BadRequest naming the field."""
    g = {k: v for k, v in generation.items() if v is not None}
    plan.max_tokens = int(g.get("max_tokens", -1))
    stops = g.get("stop", [])
    plan.stops = [stops] if isinstance(stops, str) else [str(s) for s in stops if s]
    plan.bias = logit_bias(g.get("logit_bias", []), model)
    if g.get("ignore_eos"):
        plan.bias = [*plan.bias, *((t, -math.inf) for t in model.end_tokens)]
        plan.guard = False
    if g.get("logprobs") or g.get("n_probs"):
        plan.logprobs = min(int(g.get("n_probs", 0)), model.n_vocab)
    plan.cache_prompt = bool(g.get("cache_prompt", True))
    limit = int(g.get("t_max_predict_ms", -1))
    plan.time_limit = limit / 1000 if limit > 0 else math.inf
    plan.timings_per_token = bool(g.get("timings_per_token", False))
    plan.progress = bool(g.get("return_progress", False))


def logit_bias(pairs: Any, model: Model) -> list[tuple[int, float]]:
    """llama-server's and OpenAI's forms: pairs [token or text, bias or false], or an object of them."""
    if isinstance(pairs, Mapping):
        pairs = [[int(k) if str(k).lstrip("-").isdigit() else k, v] for k, v in pairs.items()]
    made: list[tuple[int, float]] = []
    for pair in pairs:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise BadRequest("logit_bias must be pairs of a token or text and a bias.")
        key, value = pair
        if value is False:
            bias = -math.inf
        elif isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
            # Infinite favour makes the probabilities of all tokens meaningless.
            bias = min(float(value), 1e6)
        else:
            raise BadRequest("logit_bias must give a number or false for each token.")
        if isinstance(key, str):
            made += [(t, bias) for t in model.tokenize(key, parse_special=False)]
        elif isinstance(key, int) and not isinstance(key, bool):
            if 0 <= key < model.n_vocab:
                made.append((key, bias))
        else:
            raise BadRequest("logit_bias must name tokens by id or text.")
    return made
