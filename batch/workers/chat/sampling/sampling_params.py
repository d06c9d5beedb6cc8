"""A request's sampling parameters, resolved: the request over the catalogue over the model file over llama-server."""

from __future__ import annotations

from typing import Any

import msgspec

from batch.payloads.sampling import DEFAULTS, GGUF_KEYS, SamplingParams, sampler_names
from batch.workers.llama.model import Model


class ResolvedSampling(msgspec.Struct, frozen=True, kw_only=True):
    """SamplingParams with every field set and every length in tokens."""

    seed: int
    """-1: a random one."""
    temperature: float
    dynatemp_range: float
    dynatemp_exponent: float
    top_k: int
    top_p: float
    min_p: float
    top_n_sigma: float
    typical_p: float
    xtc_probability: float
    xtc_threshold: float
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: tuple[str, ...]
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    samplers: tuple[str, ...]

    @property
    def uses_penalties(self) -> bool:
        """Whether the tokens so far weigh on the next one."""
        counts = self.repeat_last_n != 0 and (
            self.repeat_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
        )
        return self.mirostat == 0 and ((counts and "penalties" in self.samplers) or self.uses_dry)

    @property
    def uses_dry(self) -> bool:
        """Whether repeated sequences are penalised (the DRY sampler)."""
        return self.dry_multiplier != 0 and self.dry_base >= 1.0 and self.dry_penalty_last_n != 0 and "dry" in self.samplers


def model_defaults(model: Model, recommended: SamplingParams) -> SamplingParams:
    """What this model uses where a request does not say, every field set.

    The catalogue's recommendation over the file's `general.sampling.*` over llama-server's defaults.
    """
    merged = _set_fields(DEFAULTS)
    sequence = model.metadata("general.sampling.sequence")
    if sequence:
        merged["samplers"] = sampler_names(sequence.split(";"))
    for key, name in GGUF_KEYS.items():
        text = model.metadata(f"general.sampling.{key}")
        if text is not None:
            try:
                params = msgspec.convert({name: float(text)}, SamplingParams, strict=False)
            except ValueError:
                continue  # a value out of range in the file is as good as none
            merged |= _set_fields(params)
    return SamplingParams(**{**merged, **_set_fields(recommended)})


def resolve_sampling(request: SamplingParams, defaults: SamplingParams, n_ctx: int) -> ResolvedSampling:
    """A request's parameters over a model's defaults; windows of -1 become all of the context's `n_ctx` tokens."""
    values = _set_fields(defaults) | _set_fields(request)
    if values["dry_base"] < 1.0:
        values["dry_base"] = defaults.dry_base  # as llama-server does: less would switch DRY off
    for name in ("repeat_last_n", "dry_penalty_last_n"):
        values[name] = n_ctx if values[name] < 0 else min(values[name], n_ctx)
    return ResolvedSampling(**values)


def _set_fields(params: SamplingParams) -> dict[str, Any]:
    return {name: value for name in SamplingParams.__struct_fields__ if (value := getattr(params, name)) is not None}
