"""Request bodies of the chat port: null counts as absent, unknown fields are ignored, a wrong type or range is a 400.

The bodies are read from the raw bytes whatever Content-Type says, as llama-server does (`curl -d` sends a form's).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal, Self, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from batch.errors import BadRequest

INT32 = 2**31 - 1
MAX_DEPTH = 100
"""Deepest nesting taken: far above any real schema, far below what makes a parser recurse too deep."""


def _whole(value: Any) -> Any:
    """JSON knows no integers: 5.0 is a whole number, "5", true and 5.5 are none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_whole)]
Float = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[Float, Field(ge=0, le=1)]
Size = Annotated[Int, Field(ge=0, le=INT32)]
Tokens = Annotated[Int, Field(ge=-1, le=INT32)]
Choices = Annotated[Int, Field(ge=1, le=128)]
"""How many answers to one request: of chat and completions only, where OpenAI has it."""


class Body(BaseModel):
    """A request body; subclasses give every field a default of None, which stands for absent."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())

    @classmethod
    def read(cls, document: Any) -> Self:
        """The checked body, or BadRequest with one sentence that names the field."""
        if not isinstance(document, dict):
            raise BadRequest("The request body must be a JSON object.")
        try:
            return cls.model_validate({k: v for k, v in document.items() if v is not None})
        except ValidationError as error:
            raise _bad_field(error, document) from None


def _bad_field(error: ValidationError, document: Any) -> BadRequest:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path, node, missing = "", document, first["type"] == "missing"
    for step in first["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
            node = node[step] if isinstance(node, list) and step < len(node) else None
        elif isinstance(node, dict) and (step in node or missing):
            path += f".{step}" if path else step
            node = node.get(step)
        # everything else in a loc is pydantic's name of a union's branch, not the caller's field
    if missing:
        return BadRequest(f"'{path}' is required", param=path)
    return BadRequest(f"Field '{path}': {first['msg']}", param=path)


def _too_deep(document: Any) -> bool:
    level = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            children = node.values() if isinstance(node, dict) else node
            below += [child for child in children if isinstance(child, (dict, list))]
        if not below:
            return False
        level = below
    return True


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _number(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"the number {_cut(text)} is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"the number {_cut(text)} is too large")
    return int(text)


def _cut(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"


def parse_json(data: bytes) -> Any:
    """The document in `data`; BadRequest when it is not JSON, nests too deep or holds half a surrogate pair."""
    try:
        # Decoded here, as json.loads would take half a surrogate pair for a character, and UTF-16 too.
        text = data.decode("utf-8-sig")
        document = json.loads(text, parse_constant=_no_constant, parse_float=_number, parse_int=_integer)
        if b"\\u" in data:
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"The request body is not UTF-8: byte {error.start} is wrong.") from None
    except UnicodeEncodeError:
        raise BadRequest("The request body holds half of a surrogate pair, which is no character.") from None
    except RecursionError:
        raise BadRequest(f"The request body nests deeper than {MAX_DEPTH} levels.") from None
    except ValueError as error:
        raise BadRequest(f"The request body is not JSON: {error}") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and isinstance(document, (dict, list)) and _too_deep(document):
        raise BadRequest(f"The request body nests deeper than {MAX_DEPTH} levels.")
    return document


B = TypeVar("B", bound=Body)


def json_body(model: type[B]) -> Callable[[Request], Coroutine[Any, Any, B]]:
    """A FastAPI dependency that gives the request's body as a checked `model`."""

    async def read(request: Request) -> B:
        return model.read(parse_json(await request.body()))

    return read


_BOUNDS = {"ge": "minimum", "le": "maximum"}


def documented(model: type[Body]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body with `json_body`."""
    schema = model.model_json_schema(mode="validation")
    shared = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inline(shared[node["$ref"].rsplit("/", 1)[1]])
            # pydantic leaves the bounds of a number that is looked at first under its own names
            return {_BOUNDS.get(key, key): inline(value) for key, value in node.items()}
        return [inline(item) for item in node] if isinstance(node, list) else node

    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inline(schema)}}}}


class StreamOptions(Body):
    include_usage: bool | None = None


class Sampling(Body):
    """How tokens are drawn, and how the answer comes: what every generating route takes."""

    model: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    sse_ping_interval: Annotated[Int, Field(ge=-1, le=INT32)] | None = None
    n_predict: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    stop: str | list[str] | None = None
    seed: Int | None = None
    ignore_eos: bool | None = None
    t_max_predict_ms: Annotated[Int, Field(ge=-1)] | None = None
    temperature: Annotated[Float, Field(ge=0)] | None = None
    top_k: Annotated[Int, Field(ge=-1, le=INT32)] | None = None
    top_p: Share | None = None
    min_p: Share | None = None
    typical_p: Float | None = None
    top_n_sigma: Float | None = None
    repeat_penalty: Float | None = None
    repeat_last_n: Size | None = None
    presence_penalty: Float | None = None
    frequency_penalty: Float | None = None
    dry_multiplier: Float | None = None
    dry_base: Float | None = None
    dry_allowed_length: Size | None = None
    dry_penalty_last_n: Size | None = None
    dry_sequence_breakers: Annotated[list[str], Field(min_length=1)] | None = None
    xtc_probability: Share | None = None
    xtc_threshold: Share | None = None
    mirostat: Annotated[Int, Field(ge=0, le=2)] | None = None
    mirostat_tau: Float | None = None
    mirostat_eta: Float | None = None
    dynatemp_range: Float | None = None
    dynatemp_exponent: Float | None = None
    logit_bias: dict[str, Float | bool] | list[list[Any]] | None = None
    samplers: list[str] | str | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | bool | None = None
    cache_prompt: bool | None = None
    timings_per_token: bool | None = None
    return_progress: bool | None = None

    @property
    def model_name(self) -> str | None:
        return self.model if isinstance(self.model, str) and self.model else None

    @property
    def ping(self) -> float:
        """Seconds of silence after which a stream gets a comment; 0: never."""
        return 30.0 if self.sse_ping_interval is None else max(0.0, float(self.sse_ping_interval))

    def generation(self) -> dict[str, Any]:
        """batch/payloads/'s Generation without its logprobs."""
        named = (
            "ignore_eos",
            "t_max_predict_ms",
            "temperature",
            "top_p",
            "min_p",
            "typical_p",
            "top_n_sigma",
            "repeat_penalty",
            "repeat_last_n",
            "presence_penalty",
            "frequency_penalty",
            "dry_multiplier",
            "dry_base",
            "dry_allowed_length",
            "dry_penalty_last_n",
            "dry_sequence_breakers",
            "xtc_probability",
            "xtc_threshold",
            "mirostat",
            "mirostat_tau",
            "mirostat_eta",
            "dynatemp_range",
            "dynatemp_exponent",
            "cache_prompt",
            "timings_per_token",
            "return_progress",
        )
        drawn = {name: value for name in named if (value := getattr(self, name)) is not None}
        limits = (self.n_predict, self.max_completion_tokens, self.max_tokens)
        if (limit := next((v for v in limits if v is not None), None)) is not None:
            drawn["max_tokens"] = limit
        if self.top_k is not None:
            drawn["top_k"] = max(0, self.top_k)
        if self.seed is not None and self.seed & 0xFFFFFFFF != 0xFFFFFFFF:  # llama.cpp's "draw one"
            drawn["seed"] = self.seed & 0xFFFFFFFF
        words = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if words := [word for word in words if word]:
            drawn["stop"] = words
        if self.logit_bias is not None:
            drawn["logit_bias"] = _biases(self.logit_bias)
        if self.samplers is not None:
            drawn["samplers"] = _samplers(self.samplers)
        if self.grammar and self.json_schema is not None:
            raise BadRequest("Cannot use both json_schema and grammar", param="grammar")
        if self.grammar:
            drawn["grammar"] = self.grammar
        if self.json_schema is not None:
            drawn["json_schema"] = self.json_schema
        return drawn


def _token(key: str) -> int | str:
    """A token by its id, or by its text."""
    if not key.isdecimal():
        return key
    try:
        return _integer(key)
    except ValueError as error:
        raise BadRequest(f"Field 'logit_bias': {error}", param="logit_bias") from None


def _biases(given: dict[str, float | bool] | list[list[Any]]) -> list[list[Any]]:
    pairs = [[_token(k), v] for k, v in given.items()] if isinstance(given, dict) else given
    for at, pair in enumerate(pairs):
        bias = pair[1] if len(pair) == 2 else None
        number = isinstance(bias, (int, float)) and not isinstance(bias, bool)
        named = len(pair) == 2 and isinstance(pair[0], (int, str)) and not isinstance(pair[0], bool)
        if not named or not (number or bias is False):
            raise BadRequest(
                f"Field 'logit_bias[{at}]': should be a pair of a token (id or text) and a number or false",
                param=f"logit_bias[{at}]",
            )
    return pairs


SAMPLERS = {
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
_SPELLINGS = {"typical_p": "typ_p", "typical": "typ_p", "temp": "temperature", "nucleus": "top_p"}


def _underscored(name: str) -> str:
    return name.replace("-", "_")


def _samplers(given: list[str] | str) -> list[str]:
    """llama-server takes names in a list or letters in a string, and passes over what it does not know."""
    if isinstance(given, str):
        return [SAMPLERS[letter] for letter in given if letter in SAMPLERS]
    names = [_SPELLINGS.get(name, name) for name in map(_underscored, given)]
    return [name for name in names if name in SAMPLERS.values()]


ReasoningFormat = Literal["none", "auto", "deepseek"]
