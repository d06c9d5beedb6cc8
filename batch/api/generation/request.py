"""What every generating route's body takes: the one table of sampling parameters, and how the answer comes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from msgspec import Meta

from batch.api.generation.logit_bias import read_logit_bias
from batch.api.generation.structured_output import (
    OutputConstraint,
    StructuredOutputs,
    single_constraint,
    vllm_constraints,
)
from batch.api.json_body import Body, JsonObject
from batch.errors import BadRequest
from batch.payloads.chat import MAX_STOP_CHARS, MAX_STOPS, GenerationParams
from batch.payloads.sampling import FLOAT32_MAX, INT32_MAX, SamplingParams, sampler_names

DEFAULT_PING_INTERVAL_S = 30.0
MAX_MODEL_NAME_CHARS = 256
"""Longest `model`: an answer repeats it in every event of a stream."""
MAX_CHOICES = 128
MAX_LOGPROBS = 1024
"""Most likely tokens reported beside each one."""
MAX_LOGPROBS_OF_ALL_CHOICES = 2048
RANDOM_SEED = 0xFFFFFFFF
"""llama.cpp's word for "draw one"."""

TokenLimit = Annotated[int, Meta(ge=-1, le=INT32_MAX)]
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
LogprobCount = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]


class StreamOptions(Body, frozen=True, kw_only=True):
    """OpenAI's stream_options."""

    include_usage: bool | None = None


class GenerationBody(SamplingParams, frozen=True, kw_only=True):
    """What a request to any generating route may hold; sampling parameters are inherited from their one table."""

    model: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    sse_ping_interval: Annotated[int, Meta(ge=-1, le=INT32_MAX)] | None = None
    """Seconds of silence after which a stream gets a comment; 0 or less: never."""
    n_predict: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    max_tokens: TokenLimit | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    t_max_predict_ms: Annotated[int, Meta(ge=-1)] | None = None
    samplers: str | list[str] | None = None  # type: ignore[assignment]  # the table holds the names that this becomes
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=FLOAT32_MAX)] | None = None
    """vLLM's name of repeat_penalty."""
    logit_bias: JsonObject | list[Any] | None = None
    grammar: str | None = None
    json_schema: JsonObject | bool | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonObject | str | bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    cache_prompt: bool | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None

    @property
    def model_name(self) -> str | None:
        """The model that the client names. Raises BadRequest."""
        return read_model_name(self.model)

    @property
    def ping_interval_s(self) -> float:
        """Seconds of silence after which a stream gets a comment; 0: never."""
        if self.sse_ping_interval is None:
            return DEFAULT_PING_INTERVAL_S
        return max(0.0, float(self.sse_ping_interval))

    @property
    def token_limit(self) -> int | None:
        """Most tokens of an answer, under any of its three names; None: not limited."""
        limits = (self.n_predict, self.max_completion_tokens, self.max_tokens)
        return next((limit for limit in limits if limit is not None), None)

    def generation_params(
        self,
        *,
        choices: int = 1,
        logprobs: int | None = None,
        constraints: Iterable[OutputConstraint] = (),
        max_tokens: int | None = None,
        stop: list[str] | None = None,
    ) -> GenerationParams:
        """The job's parameters. Raises BadRequest naming the field.

        `logprobs`: most likely tokens reported beside each one, None for no log probabilities. `constraints`: those
        that the API has besides the ones of this body. `max_tokens` and `stop`: the API's own fields for them.
        """
        if logprobs is not None and choices * logprobs > MAX_LOGPROBS_OF_ALL_CHOICES:
            raise BadRequest(
                f"Field 'n': {choices} choices with {logprobs} log probabilities a token are more than "
                f"{MAX_LOGPROBS_OF_ALL_CHOICES} a token",
                param="n",
            )
        constraint = single_constraint(itertools.chain(constraints, self._constraints()))
        limit = self.token_limit if max_tokens is None else max_tokens
        return GenerationParams(
            **self._sampling(),
            max_tokens=None if limit == -1 else limit,
            stop=self._stops() if stop is None else checked_stops(stop, "stop_sequences"),
            ignore_eos=bool(self.ignore_eos),
            t_max_predict_ms=self.t_max_predict_ms,
            logit_bias=[] if self.logit_bias is None else read_logit_bias(self.logit_bias),
            logprobs=logprobs is not None,
            n_probs=logprobs or 0,
            grammar=constraint.grammar if constraint else None,
            json_schema=constraint.json_schema if constraint else None,
            regex=constraint.regex if constraint else None,
            cache_prompt=self.cache_prompt is not False,
            timings_per_token=bool(self.timings_per_token),
            return_progress=bool(self.return_progress),
        )

    def _sampling(self) -> JsonObject:
        sampling = {name: getattr(self, name) for name in SamplingParams.__struct_fields__}
        if self.samplers is not None:
            sampling["samplers"] = sampler_names(self.samplers)
        if self.seed is not None:
            seed = self.seed & 0xFFFFFFFF
            sampling["seed"] = None if seed == RANDOM_SEED else seed
        if self.top_k is not None:
            sampling["top_k"] = max(0, self.top_k)
        if self.repetition_penalty is not None and self.repeat_penalty is None:
            sampling["repeat_penalty"] = self.repetition_penalty
        return sampling

    def _stops(self) -> list[str]:
        return checked_stops([self.stop] if isinstance(self.stop, str) else self.stop or [], "stop")

    def _constraints(self) -> Iterator[OutputConstraint]:
        if self.json_schema is not None and self.json_schema is not False:
            yield OutputConstraint("json_schema", json_schema=self.json_schema)
        if self.grammar:
            yield OutputConstraint("grammar", grammar=self.grammar)
        if self.structured_outputs is not None:
            yield from vllm_constraints(self.structured_outputs, "structured_outputs.")
        guided = StructuredOutputs(
            json=self.guided_json, regex=self.guided_regex, choice=self.guided_choice, grammar=self.guided_grammar
        )
        yield from vllm_constraints(guided, "guided_")


def read_model_name(value: object) -> str | None:
    """A body's `model`; any name is taken. Raises BadRequest for one that is too long to repeat."""
    if not isinstance(value, str) or not value:
        return None
    if len(value) > MAX_MODEL_NAME_CHARS:
        raise BadRequest(f"Field 'model': should hold at most {MAX_MODEL_NAME_CHARS} characters", param="model")
    return value


def checked_stops(stops: list[str], field: str) -> list[str]:
    """Stop strings without the empty ones. Raises BadRequest for too many or too long ones."""
    stops = [stop for stop in stops if stop]
    if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP_CHARS for stop in stops):
        raise BadRequest(
            f"Field '{field}': should hold at most {MAX_STOPS} strings of {MAX_STOP_CHARS} characters", param=field
        )
    return stops
