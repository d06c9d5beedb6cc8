"""llama-server's generation settings: its defaults, the model's own over them, a request's over those."""

from __future__ import annotations

import json

import msgspec

from batch.payloads.chat import GenerationParams
from batch.payloads.model_info import ChatModelInfo
from batch.payloads.sampling import DEFAULTS, SamplingParams

Settings = dict[str, object]
"""Settings by llama-server's names."""

_FIXED: Settings = {
    "adaptive_target": -1.0,
    "adaptive_decay": 0.9,
    "n_keep": 0,
    "n_discard": 0,
    "min_keep": 0,
    "chat_format": "Content-only",
    "reasoning_format": "none",
    "reasoning_in_content": False,
    "generation_prompt": "",
    "speculative.types": "none",
    "backend_sampling": False,
    "lora": [],
}
"""What llama-server reports besides, and nothing here changes."""


def default_settings(info: ChatModelInfo | None) -> Settings:
    """The settings of a request that asks for nothing; `info` is None while the model is not loaded."""
    sampling = msgspec.structs.asdict(DEFAULTS) | {"seed": 0xFFFFFFFF}
    if info is not None:
        sampling |= {name: value for name, value in _set_fields(info.sampling).items() if name != "seed"}
    return {
        **sampling,
        **_FIXED,
        "max_tokens": -1,
        "n_predict": -1,
        "ignore_eos": False,
        "stream": False,
        "n_probs": 0,
        "timings_per_token": False,
        "post_sampling_probs": False,
    }


def generation_settings(info: ChatModelInfo | None, generation: GenerationParams, *, stream: bool) -> Settings:
    """The settings that a request runs with."""
    limit = -1 if generation.max_tokens is None else generation.max_tokens
    grammar = generation.grammar or ""
    if generation.json_schema is not None:
        grammar = json.dumps(generation.json_schema)
    return {
        **default_settings(info),
        **_set_fields(generation),
        "stream": stream,
        "max_tokens": limit,
        "n_predict": limit,
        "ignore_eos": generation.ignore_eos,
        "stop": generation.stop,
        "logit_bias": generation.logit_bias,
        "n_probs": generation.n_probs,
        "timings_per_token": generation.timings_per_token,
        "post_sampling_probs": generation.post_sampling_probs,
        "grammar": grammar,
        "grammar_lazy": False,
        "grammar_triggers": [],
        "preserved_tokens": [],
    }


def _set_fields(sampling: SamplingParams) -> Settings:
    """The sampling parameters that are set."""
    values = {name: getattr(sampling, name) for name in SamplingParams.__struct_fields__}
    return {name: value for name, value in values.items() if value is not None}
