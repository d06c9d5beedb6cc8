"""What one job asks of the model, ready to run: its prompt and how to go on from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from batch.payloads.chat import GenerationParams
from batch.workers.chat.dialects.stream_parser import StreamParser
from batch.workers.chat.grammar.constraint import Constraint
from batch.workers.chat.grammar.matcher import Matcher
from batch.workers.chat.kv.token_sequence import TokenSequence
from batch.workers.chat.sampling.sampling_params import ResolvedSampling
from batch.workers.llama.model import Model

_MAX_BIAS = 1e6
"""Infinite favour would make the probabilities of all tokens meaningless."""


@dataclass(slots=True)
class TaskParams:
    """Everything that a generation needs besides the model."""

    prompt: TokenSequence
    sampling: ResolvedSampling
    max_tokens: int = -1
    """-1: until the model ends or the context is full."""
    stops: Sequence[str] = ()
    bias: Sequence[tuple[int, float]] = ()
    n: int = 1
    """Choices."""
    logprobs: int = -1
    """Likeliest tokens reported beside each one; -1: no log probabilities."""
    post_sampling_probs: bool = False
    """Report the probabilities that sampling left instead of the model's own."""
    cache_prompt: bool = True
    prefixes: Sequence[str] = ()
    """Digests by which services know of the prompt's beginnings, where workers share a queue."""
    prompt_bytes: int = 0
    """Of its payload, where there are `prefixes`."""
    time_limit_s: float = math.inf
    """Seconds of generating after which the next line feed ends it."""
    timings_per_token: bool = False
    return_progress: bool = False
    stop_repetition: bool = True
    """Whether a repetition ends the generation."""
    echo: str = ""
    """Text that a completion's choices begin with."""
    shown_tokens: frozenset[int] = frozenset()
    """Control tokens whose text the parser has to see."""
    parser: Callable[[], StreamParser] | None = None
    """Makes the parser of one choice; None: a completion, whose text is reported as it is."""
    is_thinking_in_content: bool = False
    """Whether thinking stays inside the content, markers and all."""
    constraint: Constraint | None = None
    matcher: Callable[[], Matcher] | None = None
    """Makes what follows one choice through the constraint's grammar; None: without a constraint."""
    thinking_budget: int = -1
    """Most tokens of thinking; -1: no limit."""
    end_of_thinking: list[int] = field(default_factory=list)
    """The tokens that end the thinking."""

    @classmethod
    def from_params(
        cls, prompt: TokenSequence, sampling: ResolvedSampling, params: GenerationParams, model: Model
    ) -> TaskParams:
        """The fields that chats and completions share."""
        task = cls(prompt, sampling, bias=logit_bias(params, model))
        if params.max_tokens is not None:
            task.max_tokens = params.max_tokens
        task.stops = params.stop
        if params.ignore_eos:
            task.bias = [*task.bias, *((token, -math.inf) for token in model.end_tokens)]
            task.stop_repetition = False
        if params.logprobs or params.n_probs:
            task.logprobs = min(params.n_probs, model.n_vocab)
            task.post_sampling_probs = params.post_sampling_probs
        task.cache_prompt = params.cache_prompt
        if params.t_max_predict_ms is not None and params.t_max_predict_ms > 0:
            task.time_limit_s = params.t_max_predict_ms / 1000
        task.timings_per_token = params.timings_per_token
        task.return_progress = params.return_progress
        return task


def logit_bias(params: GenerationParams, model: Model) -> list[tuple[int, float]]:
    """Pairs of a token and what is added to its logit."""
    pairs: list[tuple[int, float]] = []
    for key, value in params.logit_bias:
        bias = -math.inf if value is False else min(float(value), _MAX_BIAS)
        tokens = model.tokenize(key, parse_special=False) if isinstance(key, str) else [key]
        pairs += [(token, bias) for token in tokens if 0 <= token < model.n_vocab]
    return pairs
