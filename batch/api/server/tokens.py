"""Text to tokens and back, the chat template, and token counts."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import WithJsonSchema
from starlette.responses import JSONResponse

from batch.api import openapi_schemas as shapes
from batch.api.chat_completions.request import ChatBody
from batch.api.generation.images import keep_images
from batch.api.generation.jobs import count_tokens, hub_of
from batch.api.json_body import Body, Int, documented, json_body
from batch.api.responses.request import ResponsesBody
from batch.errors import BadRequest, NotFound
from batch.queue.jobs import Kind
from batch.queue.untyped_hub import ask_dict

router = APIRouter()


class TokenizeBody(Body):
    content: Annotated[str | list[Any], WithJsonSchema(shapes.PROMPT)] | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeBody(Body):
    tokens: list[Int] | None = None


def _speaks(request: Request, *kinds: Kind) -> Kind:
    kind: Kind = request.app.state.kind
    if kind not in kinds:
        raise NotFound()
    return kind


@router.post("/tokenize", openapi_extra=documented(TokenizeBody))
async def tokenize(request: Request, body: Annotated[TokenizeBody, Depends(json_body(TokenizeBody))]) -> JSONResponse:
    """Tokens of a text, or of a mix of texts and tokens."""
    kind = _speaks(request, Kind.VLM, Kind.EMBEDDING)
    if body.content is None:
        return JSONResponse({"tokens": []})
    if isinstance(body.content, list):
        for at, item in enumerate(body.content):
            if not isinstance(item, (str, int)) or isinstance(item, bool):
                raise BadRequest(f"Field 'content[{at}]': should be a string or a token", param=f"content[{at}]")
    payload = {
        "content": body.content,
        "add_special": bool(body.add_special),
        "parse_special": body.parse_special is not False,
        "with_pieces": bool(body.with_pieces),
    }
    answer = await ask_dict(hub_of(request), kind, "tokenize", payload)
    return JSONResponse({"tokens": answer["tokens"]})


@router.post("/detokenize", openapi_extra=documented(DetokenizeBody))
async def detokenize(request: Request, body: Annotated[DetokenizeBody, Depends(json_body(DetokenizeBody))]) -> JSONResponse:
    """The text of tokens."""
    kind = _speaks(request, Kind.VLM, Kind.EMBEDDING)
    answer = await ask_dict(hub_of(request), kind, "detokenize", {"tokens": body.tokens or []})
    return JSONResponse({"content": answer["content"]})


@router.post("/apply-template", openapi_extra=documented(ChatBody))
async def apply_template(request: Request, body: Annotated[ChatBody, Depends(json_body(ChatBody))]) -> JSONResponse:
    """The prompt that a conversation becomes."""
    answer = await ask_dict(hub_of(request), _speaks(request, Kind.VLM), "apply_template", await _job(request, body))
    return JSONResponse({"prompt": answer["prompt"]})


@router.post("/v1/chat/completions/input_tokens", openapi_extra=documented(ChatBody))
@router.post("/chat/completions/input_tokens", include_in_schema=False)
async def chat_input(request: Request, body: Annotated[ChatBody, Depends(json_body(ChatBody))]) -> JSONResponse:
    """How many tokens the model would read of a chat."""
    return await _counted(request, body)


@router.post("/v1/responses/input_tokens", openapi_extra=documented(ResponsesBody))
@router.post("/responses/input_tokens", include_in_schema=False)
async def responses_input(request: Request, body: Annotated[ResponsesBody, Depends(json_body(ResponsesBody))]) -> JSONResponse:
    """How many tokens the model would read of a Responses input."""
    return await _counted(request, body.chat())


async def _counted(request: Request, body: ChatBody) -> JSONResponse:
    _speaks(request, Kind.VLM)
    tokens, _ = await count_tokens(hub_of(request), await _job(request, body))
    return JSONResponse({"input_tokens": tokens, "object": "response.input_tokens"})


async def _job(request: Request, body: ChatBody) -> dict[str, Any]:
    job = body.job_request()
    await keep_images(job["messages"], hub_of(request), request.app.state.settings.limits)
    return job
