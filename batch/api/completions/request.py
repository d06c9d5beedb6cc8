"""The body of /v1/completions and /completion, and the jobs that it becomes: one a prompt."""

from __future__ import annotations

from typing import Annotated, Any, TypeGuard

import msgspec
from msgspec import Meta

from batch.api import openapi_schemas
from batch.api.generation.request import Choices, GenerationBody, LogprobCount
from batch.api.json_body import parse_json, read_body
from batch.errors import BadRequest, NotSupported
from batch.payloads.chat import CompletionPayload

MAX_PROMPTS = 256
"""Prompts in one request; each becomes a job."""
MAX_RESPONSE_FIELDS = 256

Prompt = str | list[int | str]
"""Text, or token ids and texts mixed."""


class CompletionBody(GenerationBody, frozen=True, kw_only=True):
    """What a completion request may hold."""

    prompt: Annotated[Any, Meta(extra_json_schema=openapi_schemas.PROMPT)]
    n: Choices | None = None
    n_cmpl: Choices | None = None
    """llama-server's name of n."""
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    logprobs: LogprobCount | bool | None = None
    n_probs: LogprobCount | None = None
    post_sampling_probs: bool | None = None
    return_tokens: bool | None = None
    response_fields: Annotated[list[str], Meta(max_length=MAX_RESPONSE_FIELDS)] | None = None

    @property
    def choices(self) -> int:
        """Choices a prompt."""
        return self.n_cmpl or self.n or 1

    def payloads(self, *, describe: bool) -> list[CompletionPayload]:
        """One payload a prompt. Raises BadRequest naming the field.

        `describe`: the results hold the prompts' texts, and streams begin with their token counts.
        """
        if self.suffix:
            raise BadRequest("Unsupported param: suffix", param="suffix")
        if self.best_of is not None and self.best_of > (self.n or 1):
            raise BadRequest("Unsupported param: best_of", param="best_of")
        count = self.n_probs if self.n_probs is not None else self.logprobs
        generation = self.generation_params(choices=self.choices, logprobs=int(count) if count else None)
        if self.post_sampling_probs:
            generation = msgspec.structs.replace(generation, post_sampling_probs=True)
        return [
            CompletionPayload(
                prompt=prompt,
                generation=generation,
                n=self.choices,
                echo=bool(self.echo),
                stream=bool(self.stream),
                describe=describe,
            )
            for prompt in read_prompts(self.prompt)
        ]


def read_completion(data: bytes) -> tuple[CompletionBody, list[CompletionPayload]]:
    """An OpenAI completion request's bytes as its checked body and its jobs. Raises BadRequest naming the field."""
    body = read_body(CompletionBody, parse_json(data))
    return body, body.payloads(describe=False)


def read_native_completion(data: bytes) -> tuple[CompletionBody, list[CompletionPayload]]:
    """A llama-server completion request's bytes as its checked body and its jobs. Raises BadRequest naming the field."""
    body = read_body(CompletionBody, parse_json(data))
    return body, body.payloads(describe=True)


def read_prompts(value: Any) -> list[Prompt]:
    """The prompts in llama-server's forms: a string, tokens, a mix of both, or a list of those.

    Raises BadRequest naming the prompt that is none.
    """
    if isinstance(value, list) and not any(_is_token(item) for item in value):
        if not value:
            raise BadRequest('"prompt" must not be empty', param="prompt")
        if len(value) > MAX_PROMPTS:
            raise BadRequest(f"Field 'prompt': {len(value)} prompts; {MAX_PROMPTS} at most go in one request", param="prompt")
        return [_prompt(item, f"prompt[{at}]") for at, item in enumerate(value)]
    return [_prompt(value, "prompt")]


def _prompt(value: Any, path: str) -> Prompt:
    if isinstance(value, dict) and "prompt_string" in value:
        if value.get("multimodal_data"):
            raise NotSupported(f"Field '{path}.multimodal_data': images go to /v1/chat/completions, as image_url parts")
        value = value["prompt_string"]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) or _is_token(item) for item in value):
        return value
    raise BadRequest(
        f"Field '{path}': \"prompt\" elements must be a string, a list of tokens or a list of mixed strings & tokens.",
        param=path,
    )


def _is_token(item: object) -> TypeGuard[int]:
    return isinstance(item, int) and not isinstance(item, bool)
