"""The one table of sampling parameters: names, spellings, ranges and llama-server's defaults."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

INT32_MAX = 2**31 - 1

FLOAT32_MAX = 3.4028234663852886e38

Real = Annotated[float, Meta(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0, le=INT32_MAX)]
Window = Annotated[int, Meta(ge=-1, le=INT32_MAX)]
"""How many of the last tokens count; -1: all of the context."""
Breaker = Annotated[str, Meta(max_length=256)]
"""A text at which DRY begins anew; llama.cpp compares each with the whole vocabulary."""


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How the next token is drawn, by llama-server's names. None: the model's own default, else `DEFAULTS`."""

    seed: int | None = None
    """32 bits; None or -1: a random one."""
    temperature: Annotated[float, Meta(ge=0.0, le=FLOAT32_MAX)] | None = None
    dynatemp_range: Real | None = None
    dynatemp_exponent: Real | None = None
    top_k: Annotated[int, Meta(ge=-1, le=INT32_MAX)] | None = None
    """0 or less: all tokens."""
    top_p: Share | None = None
    min_p: Share | None = None
    top_n_sigma: Real | None = None
    typical_p: Real | None = None
    xtc_probability: Share | None = None
    xtc_threshold: Share | None = None
    repeat_last_n: Window | None = None
    repeat_penalty: Annotated[float, Meta(gt=0.0, le=FLOAT32_MAX)] | None = None
    presence_penalty: Real | None = None
    frequency_penalty: Real | None = None
    dry_multiplier: Real | None = None
    dry_base: Real | None = None
    """Below 1.0 it is ignored, as llama-server does."""
    dry_allowed_length: Count | None = None
    dry_penalty_last_n: Window | None = None
    dry_sequence_breakers: Annotated[tuple[Breaker, ...], Meta(min_length=1, max_length=64)] | None = None
    mirostat: Annotated[int, Meta(ge=0, le=2)] | None = None
    mirostat_tau: Real | None = None
    mirostat_eta: Real | None = None
    samplers: tuple[str, ...] | None = None
    """Names from `SAMPLERS`, in the order in which they are applied."""


SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
"""The samplers llama-server knows, in its default order."""

DEFAULTS = SamplingParams(
    seed=-1,
    temperature=0.8,
    dynatemp_range=0.0,
    dynatemp_exponent=1.0,
    top_k=40,
    top_p=0.95,
    min_p=0.05,
    top_n_sigma=-1.0,
    typical_p=1.0,
    xtc_probability=0.0,
    xtc_threshold=0.1,
    repeat_last_n=64,
    repeat_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    dry_multiplier=0.0,
    dry_base=1.75,
    dry_allowed_length=2,
    dry_penalty_last_n=64,
    dry_sequence_breakers=("\n", ":", '"', "*"),
    mirostat=0,
    mirostat_tau=5.0,
    mirostat_eta=0.1,
    samplers=SAMPLERS,
)
"""llama-server's defaults, every field set."""

_SPELLINGS = {
    "topk": "top_k",
    "topp": "top_p",
    "nucleus": "top_p",
    "topnsigma": "top_n_sigma",
    "typ": "typ_p",
    "typp": "typ_p",
    "typical": "typ_p",
    "typical_p": "typ_p",
    "minp": "min_p",
    "temp": "temperature",
}
_LETTERS = {
    "e": "penalties",
    "d": "dry",
    "s": "top_n_sigma",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "m": "min_p",
    "x": "xtc",
    "t": "temperature",
}

GGUF_KEYS = {
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "temp": "temperature",
    "penalty_last_n": "repeat_last_n",
    "penalty_repeat": "repeat_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
"""A GGUF file's `general.sampling.KEY` by the field it sets."""


def sampler_names(samplers: str | Iterable[str]) -> tuple[str, ...]:
    """Samplers in order, from names in any of llama-server's spellings or from a string of its letters.

    Unknown ones are left out, as llama-server does.
    """
    if isinstance(samplers, str):
        return tuple(_LETTERS[letter] for letter in samplers if letter in _LETTERS)
    names = [name.lower().replace("-", "_") for name in samplers]
    return tuple(name for name in (_SPELLINGS.get(name, name) for name in names) if name in SAMPLERS)
