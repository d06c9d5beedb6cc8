"""Log probabilities of a completion's tokens, or probabilities after the samplers, in llama-server's shape."""

from __future__ import annotations

import math

import msgspec

from batch.payloads.chat import Logprobs, TokenLogprob, TopLogprob


class TopProbability(msgspec.Struct):
    """One likely token and its probability after the samplers."""

    id: int
    token: str
    bytes: list[int]
    prob: float


class TokenProbability(msgspec.Struct):
    """A drawn token's probability after the samplers."""

    id: int
    token: str
    bytes: list[int]
    prob: float
    top_probs: list[TopProbability]


Probabilities = list[TokenLogprob] | list[TokenProbability]


class ProbabilityContent(msgspec.Struct):
    """The probabilities of a choice, as its `logprobs` holds them."""

    content: Probabilities


def to_probabilities(logprobs: Logprobs) -> Probabilities:
    """Log probabilities of the model; where the samplers' are asked for, probabilities among the tokens that these left."""
    if not logprobs.post_sampling:
        return logprobs.content
    return [
        TokenProbability(
            token.id, token.token, token.bytes, math.exp(token.logprob), [_probability(top) for top in token.top_logprobs]
        )
        for token in logprobs.content
    ]


def _probability(top: TopLogprob) -> TopProbability:
    return TopProbability(top.id, top.token, top.bytes, math.exp(top.logprob))
