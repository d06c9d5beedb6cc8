"""POST /v1/completions (OpenAI's shape) and /completion (llama-server's own): a prompt goes on, without a template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from batch.api.completions.response import NativeLines, TextChunks, native, picked, text_completion
from batch.api.generation.jobs import Asked, caller_draft, counting, hub_of, model_name, note_header
from batch.api.jobs.event_stream import EventStream
from batch.api.jobs.submit import accept
from batch.api.json_body import Choices, Int, Sampling, documented, json_body
from batch.errors import BadRequest, NotSupported
from batch.queue.hub import Hub
from batch.queue.jobs import Kind
from batch.queue.untyped_hub import facts

router = APIRouter()

MOST_PROMPTS = 256
"""Prompts in one request; each becomes a job."""


class CompletionBody(Sampling):
    """What a completion request may hold."""

    prompt: str | list[Any] | dict[str, Any]
    n: Choices | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: Int | None = None
    logprobs: Annotated[Int, Field(ge=0, le=1024)] | bool | None = None
    n_probs: Annotated[Int, Field(ge=0, le=1024)] | None = None
    n_cmpl: Choices | None = None
    return_tokens: bool | None = None
    response_fields: list[str] | None = None

    def jobs(self) -> list[dict[str, Any]]:
        """One CompletionRequest a prompt."""
        if self.suffix:
            raise BadRequest("Unsupported param: suffix", param="suffix")
        if self.best_of is not None and self.best_of > (self.n or 1):
            raise BadRequest("Unsupported param: best_of", param="best_of")
        drawn = self.generation()
        probs = self.n_probs if self.n_probs is not None else self.logprobs
        if probs:
            drawn |= {"n_probs": int(probs), "logprobs": True}
        base: dict[str, Any] = {"generation": drawn}
        if (count := self.n_cmpl or self.n or 1) > 1:
            base["n"] = count
        if self.echo:
            base["echo"] = True
        return [{"prompt": prompt, **base} for prompt in prompts(self.prompt)]


def prompts(given: str | list[Any] | dict[str, Any]) -> list[Any]:
    """The prompts in llama-server's shapes: a string, tokens, a mix of both, or a list of those."""
    if isinstance(given, list) and not any(isinstance(item, int) and not isinstance(item, bool) for item in given):
        if not given:
            raise BadRequest('"prompt" must not be empty', param="prompt")
        if len(given) > MOST_PROMPTS:
            raise BadRequest(f"Field 'prompt': {len(given)} prompts; {MOST_PROMPTS} at most go in one request", param="prompt")
        return [_prompt(item, f"prompt[{at}]") for at, item in enumerate(given)]
    return [_prompt(given, "prompt")]


def _prompt(given: Any, path: str) -> Any:
    if isinstance(given, dict) and "prompt_string" in given:
        if given.get("multimodal_data"):
            raise NotSupported(f"Field '{path}.multimodal_data': images go to /v1/chat/completions, as image_url parts")
        given = given["prompt_string"]
    tokens = isinstance(given, list) and bool(given)
    if isinstance(given, str):
        return given
    if tokens and all(isinstance(item, (int, str)) and not isinstance(item, bool) for item in given):
        return given
    raise BadRequest(
        f"Field '{path}': \"prompt\" elements must be a string, a list of tokens or a list of mixed strings & tokens.",
        param=path,
    )


async def ask_completion(
    request: Request, body: CompletionBody, *, describe: bool = False
) -> tuple[Asked, list[dict[str, Any]]]:
    hub = hub_of(request)
    jobs = [job | {"stream": bool(body.stream), "describe": describe} for job in body.jobs()]
    tickets = await accept(request, [caller_draft("completion", job) for job in jobs])

    async def check() -> None:
        await counting(hub, jobs[0])()
        for job in jobs[1:]:  # of the others the prompt alone is new
            await counting(hub, {"prompt": job["prompt"]})()

    return Asked(hub, tickets, model_name(hub, body.model_name), check), jobs


@router.post("/v1/completions", openapi_extra=documented(CompletionBody))
@router.post("/completions", include_in_schema=False)
async def completions(request: Request, body: Annotated[CompletionBody, Depends(json_body(CompletionBody))]) -> Response:
    """Go on with one or several prompts, in OpenAI's shape."""
    asked, jobs = await ask_completion(request, body)
    if body.stream:
        wire = TextChunks(asked.model, asked.created, len(jobs), jobs[0].get("n", 1), progress=bool(body.return_progress))
        return EventStream(asked.hub, asked.tickets, wire, check=asked.check, ping=body.ping, headers=asked.headers)
    results = await asked.results(request)
    answer = text_completion(results, asked.model, asked.created)
    return JSONResponse(answer, headers=asked.headers | note_header(results))


@router.post("/completion", openapi_extra=documented(CompletionBody))
async def completion(request: Request, body: Annotated[CompletionBody, Depends(json_body(CompletionBody))]) -> Response:
    """Go on with one or several prompts, in llama-server's own shape."""
    asked, jobs = await ask_completion(request, body, describe=True)

    def settings() -> dict[str, Any]:  # only known once the model is loaded
        return generation_settings(asked.hub, jobs[0]["generation"], stream=bool(body.stream))

    if body.stream:
        lines = NativeLines(
            asked.model, settings, len(jobs), progress=bool(body.return_progress), fields=body.response_fields or ()
        )
        return EventStream(asked.hub, asked.tickets, lines, check=asked.check, ping=body.ping, headers=asked.headers)
    results = await asked.results(request)
    answers: list[dict[str, Any]] = []
    for result in results:
        for choice in result["choices"]:
            given = {**choice, "index": len(answers)}
            answer = native(given, result, asked.model, settings(), tokens=bool(body.return_tokens))
            answers.append(picked(answer, body.response_fields or ()))
    return JSONResponse(answers[0] if len(answers) == 1 else answers, headers=asked.headers | note_header(results))


def generation_settings(hub: Hub, generation: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """llama-server's generation_settings: the model's defaults with the request's values over them."""
    settings = default_settings(facts(hub.model(Kind.VLM))) | {"stream": stream, **_UNSET}
    given = {k: v for k, v in generation.items() if k in settings}
    if "max_tokens" in given:
        given["n_predict"] = given["max_tokens"]
    if "json_schema" in generation:
        given["grammar"] = json.dumps(generation["json_schema"])
    return settings | given


_UNSET: dict[str, Any] = {
    "stop": [],
    "logit_bias": [],
    "grammar": "",
    "grammar_lazy": False,
    "grammar_triggers": [],
    "preserved_tokens": [],
    "dry_sequence_breakers": ["\n", ":", '"', "*"],
}


def default_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """llama-server's sampling defaults, with what the model's file or the catalogue recommends over them."""
    own = {
        "seed": 4294967295,
        "temperature": 0.8,
        "dynatemp_range": 0.0,
        "dynatemp_exponent": 1.0,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "top_n_sigma": -1.0,
        "xtc_probability": 0.0,
        "xtc_threshold": 0.1,
        "typical_p": 1.0,
        "repeat_last_n": 64,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "dry_multiplier": 0.0,
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "dry_penalty_last_n": 64,
        "mirostat": 0,
        "mirostat_tau": 5.0,
        "mirostat_eta": 0.1,
        "adaptive_target": -1.0,
        "adaptive_decay": 0.9,
        "max_tokens": -1,
        "n_predict": -1,
        "n_keep": 0,
        "n_discard": 0,
        "ignore_eos": False,
        "stream": False,
        "n_probs": 0,
        "min_keep": 0,
        "chat_format": "Content-only",
        "reasoning_format": "none",
        "reasoning_in_content": False,
        "generation_prompt": "",
        "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"],
        "speculative.types": "none",
        "timings_per_token": False,
        "post_sampling_probs": False,
        "backend_sampling": False,
        "lora": [],
    }
    recommended = {k: v for k, v in (facts.get("sampling") or {}).items() if k in own and k != "seed"}
    return own | recommended
