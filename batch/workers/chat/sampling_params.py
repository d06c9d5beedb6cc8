"""How tokens are drawn: the fields of a request over the model file's over llama-server's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from batch.errors import BadRequest
from batch.workers.llama.model import Model

_NAMES = {
    "dry": "dry",
    "top_k": "top_k",
    "top_p": "top_p",
    "top_n_sigma": "top_n_sigma",
    "typ_p": "typ_p",
    "min_p": "min_p",
    "temperature": "temperature",
    "xtc": "xtc",
    "penalties": "penalties",
    # llama-server's other spellings
    "topk": "top_k",
    "topp": "top_p",
    "nucleus": "top_p",
    "topnsigma": "top_n_sigma",
    "typp": "typ_p",
    "typ": "typ_p",
    "typical_p": "typ_p",
    "minp": "min_p",
    "temp": "temperature",
}
_LETTERS = {
    "d": "dry",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "s": "top_n_sigma",
    "m": "min_p",
    "t": "temperature",
    "x": "xtc",
    "e": "penalties",
}
_GGUF = {
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


@dataclass(frozen=True, slots=True)
class Sampling:
    """Every field has llama-server's name and default."""

    seed: int = -1
    """-1: a random one."""
    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    top_n_sigma: float = -1.0
    typical_p: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    samplers: tuple[str, ...] = (
        "penalties",
        "dry",
        "top_n_sigma",
        "top_k",
        "typ_p",
        "top_p",
        "min_p",
        "xtc",
        "temperature",
    )

    @property
    def penalises(self) -> bool:
        """Whether earlier tokens count."""
        penalties = self.repeat_last_n != 0 and (
            self.repeat_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
        )
        return self.mirostat == 0 and ((penalties and "penalties" in self.samplers) or self.dries)

    @property
    def dries(self) -> bool:
        return self.dry_multiplier != 0 and self.dry_base >= 1.0 and self.dry_penalty_last_n != 0 and ("dry" in self.samplers)

    def told(self) -> dict[str, Any]:
        """The fields as JSON, for /props."""
        return {f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v for f in fields(self)}

    def asked(self, generation: Mapping[str, Any], n_ctx: int) -> Sampling:
        """These defaults under a request's fields. Raises BadRequest naming the field."""
        given: dict[str, Any] = {}
        for f in fields(self):
            value = generation.get(f.name)
            if value is None:
                continue
            if f.name == "samplers":
                value = sampler_names(value)
            elif f.name == "dry_sequence_breakers":
                value = tuple(str(v) for v in value)
            elif isinstance(f.default, float):
                value = _number(f.name, value)
            else:
                value = int(_number(f.name, value))
            given[f.name] = value
        if given.get("dry_base", 1.0) < 1.0:
            del given["dry_base"]  # as llama-server does: less would switch DRY off
        for name in ("repeat_last_n", "dry_penalty_last_n"):
            if given.get(name, 0) < -1:
                raise BadRequest(f"{name} must be -1 or more.")
            if name in given:
                given[name] = n_ctx if given[name] == -1 else min(given[name], n_ctx)
        made = replace(self, **given)
        if made.repeat_penalty <= 0:
            raise BadRequest("repeat_penalty must be greater than 0.")
        if made.mirostat not in (0, 1, 2):
            raise BadRequest("mirostat must be 0, 1 or 2.")
        return made


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(float(value)) < 1e38:
        raise BadRequest(f"{name} must be a finite number.")
    return value


def sampler_names(value: Any) -> tuple[str, ...]:
    """The samplers in order, from a list of names or a string of llama-server's letters; unknown ones are dropped."""
    if isinstance(value, str):
        return tuple(_LETTERS[c] for c in value if c in _LETTERS)
    names = (str(v).lower().replace("-", "_") for v in value)
    return tuple(_NAMES[n] for n in names if n in _NAMES)


def model_defaults(model: Model, recommended: Mapping[str, Any]) -> Sampling:
    """The catalogue's recommendation over the file's `general.sampling.*` over llama-server's defaults."""
    given: dict[str, Any] = {}
    sequence = model.metadata("general.sampling.sequence")
    if sequence:
        given["samplers"] = sampler_names(sequence.split(";"))
    for key, name in _GGUF.items():
        text = model.metadata(f"general.sampling.{key}")
        if text is not None:
            try:
                given[name] = float(text)
            except ValueError:
                continue
    return Sampling().asked({**given, **recommended}, model.n_ctx_train)
