"""logit_bias in OpenAI's form (an object) and in llama-server's (pairs)."""

from __future__ import annotations

import math
from typing import Any, Literal

from batch.api.json_body import JsonObject
from batch.errors import BadRequest
from batch.payloads.chat import MAX_BIASES

MAX_BIASED_TEXTS = 1024
"""Most tokens that are biased by their text: each costs the worker about 80 microseconds, which others wait for."""
MAX_BIASED_TEXT_CHARS = 65_536
"""All these texts together."""
MAX_TOKEN_DIGITS = 20

Bias = tuple[int | str, float | Literal[False]]


def read_logit_bias(value: JsonObject | list[Any]) -> list[Bias]:
    """Pairs of a token (id or text) and its bias; False forbids the token. Raises BadRequest naming the entry."""
    if len(value) > MAX_BIASES:
        raise BadRequest(f"Field 'logit_bias': should hold at most {MAX_BIASES} entries", param="logit_bias")
    if isinstance(value, dict):
        biases = [_bias(_token(key), bias, f"logit_bias.{key[:60]}") for key, bias in value.items()]
    else:
        biases = [_pair(pair, f"logit_bias[{at}]") for at, pair in enumerate(value)]
    texts = [token for token, _ in biases if isinstance(token, str)]
    if len(texts) > MAX_BIASED_TEXTS or sum(map(len, texts)) > MAX_BIASED_TEXT_CHARS:
        raise BadRequest(
            f"Field 'logit_bias': should name at most {MAX_BIASED_TEXTS} tokens by their texts of {MAX_BIASED_TEXT_CHARS} "
            "characters together, the others by their id",
            param="logit_bias",
        )
    return biases


def _token(key: str) -> int | str:
    digits = key.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()):
        return key
    if len(digits) > MAX_TOKEN_DIGITS:
        raise BadRequest(f"Field 'logit_bias': {key[:20]}… is no token's id", param="logit_bias")
    return int(key)


def _pair(pair: Any, path: str) -> Bias:
    if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], (int, str)) and not isinstance(pair[0], bool):
        return _bias(pair[0], pair[1], path)
    raise BadRequest(
        f"Field '{path}': should be a pair of a token (id or text) and a number or false",
        param=path,
    )


def _bias(token: int | str, bias: Any, path: str) -> Bias:
    if bias is False:
        return token, False
    if isinstance(bias, (int, float)) and not isinstance(bias, bool) and math.isfinite(bias):
        return token, float(bias)
    raise BadRequest(f"Field '{path}': should be a number or false", param=path)
