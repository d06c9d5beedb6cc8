"""What the tests of grammars share: the tiny model's vocabulary, and texts and random walks through a grammar."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from batch.payloads.chat import ChatPayload, GenerationParams
from batch.workers.chat.dialects.dialect import Dialect, for_template
from batch.workers.chat.grammar.constraint import Constraint, ConstraintBuilder
from batch.workers.chat.grammar.matcher import Matcher, Vocabulary
from batch.workers.llama.model import Model
from paths import TINY_GEMMA4V

_MARKERS = ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>')
_LONGEST_WALK = 400


@lru_cache(maxsize=1)
def tiny_model() -> Model:
    """The tiny model, loaded once a process."""
    return Model(TINY_GEMMA4V / "tiny-gemma4v-text-f16.gguf")


@lru_cache(maxsize=1)
def tiny_vocabulary() -> Vocabulary:
    """Its vocabulary as grammars see it."""
    model = tiny_model()
    special = {model.token_text(token): token for token in model.control_tokens}
    special.update({text: model.tokenize(text)[0] for text in _MARKERS})
    return Vocabulary(model.all_pieces(), model.end_tokens, special)


def builder(dialect: Dialect | None = None) -> ConstraintBuilder:
    """Constraints for the tiny vocabulary; without a dialect for a model that knows neither thinking nor calls."""
    return ConstraintBuilder(dialect or for_template(""), tiny_vocabulary().token_id)


def build(
    generation: dict[str, Any] | None = None,
    tools: list[dict[str, Any]] | None = None,
    choice: str | dict[str, str] = "auto",
    *,
    dialect: Dialect | None = None,
    parallel: bool = True,
    thinking: bool = False,
    tail: str = "",
) -> Constraint | None:
    """The constraint of a chat."""
    request = {
        "messages": [],
        "generation": generation or {},
        "tools": tools or [],
        "tool_choice": choice,
        "parallel_tool_calls": parallel,
    }
    payload = msgspec.convert(request, ChatPayload)
    return builder(dialect).for_chat(payload, may_think=thinking, prompt_tail=tail)


def schema(value: Any) -> Constraint:
    """The constraint of a completion under a schema."""
    made = builder().for_completion(GenerationParams(json_schema=value))
    assert made is not None
    return made


def matcher(made: Constraint | None) -> Matcher:
    """At the constraint's start."""
    assert made is not None
    return Matcher(tiny_vocabulary(), made.grammar, made.field)


def takes(made: Constraint | None, text: str, *, whole: bool = True) -> bool:
    """Whether the grammar lets the text through, and (whole) lets it end there."""
    follower = matcher(made)
    for token in tiny_model().tokenize(text, parse_special=True):
        if not follower.allows(token):
            assert not follower.mask()[token], "the mask allows what is not allowed"
            return False
        follower.accept(token)
    return not whole or follower.allows(min(tiny_model().end_tokens))


def walk(made: Constraint | None, seed: int) -> str | None:
    """Text of random tokens that the grammar allows; None when it finds no end."""
    follower = matcher(made)
    model, ends = tiny_model(), tiny_model().end_tokens
    chance = random.Random(seed)
    written = b""
    for step in range(_LONGEST_WALK):
        allowed = np.flatnonzero(follower.mask()).tolist()
        may_end = follower.is_complete
        pieces = [t for t in allowed if t not in ends and model.piece(t, special=True)]
        if may_end and (not pieces or chance.random() < 0.5):
            return written.decode("utf-8", "replace")
        assert pieces, f"a dead end after {written!r}"
        # Late in the walk what closes goes first, so that it ends.
        closing = [t for t in pieces if model.piece(t, special=True)[:1] in b'"]}<']
        token = chance.choice(closing if closing and chance.random() < step / 60 else pieces)
        follower.accept(token)
        written += model.piece(token, special=True)
    return None
