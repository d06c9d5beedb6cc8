"""Text to tokens and back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from msgspec import Meta
from starlette.responses import Response

from batch.api import openapi_schemas
from batch.api.generation.jobs import check_text_bytes, hub_of
from batch.api.json_body import Body, documented, json_body, json_response, reader
from batch.errors import BadRequest, NotFound
from batch.payloads.questions import Detokenize, Tokenize
from batch.queue.jobs import Kind

router = APIRouter()


class TokenizeBody(Body, frozen=True, kw_only=True):
    """What /tokenize takes."""

    content: Annotated[str | list[Any], Meta(extra_json_schema=openapi_schemas.PROMPT)] | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeBody(Body, frozen=True, kw_only=True):
    """What /detokenize takes."""

    tokens: list[int] | None = None


def _text_kind(request: Request) -> Kind:
    """The port's own kind. Raises NotFound where its model has no tokens of text to count."""
    kind: Kind = request.app.state.kind
    if kind is Kind.STT:
        raise NotFound()
    return kind


@router.post("/tokenize", openapi_extra=documented(TokenizeBody))
async def tokenize(request: Request, body: Annotated[TokenizeBody, Depends(json_body(reader(TokenizeBody)))]) -> Response:
    """Tokens of a text, or of a mix of texts and tokens."""
    kind = _text_kind(request)
    await check_text_bytes(request)
    if body.content is None:
        return json_response({"tokens": []})
    if isinstance(body.content, list):
        for at, item in enumerate(body.content):
            if not isinstance(item, (str, int)) or isinstance(item, bool):
                raise BadRequest(f"Field 'content[{at}]': should be a string or a token", param=f"content[{at}]")
    question = Tokenize(
        content=body.content,
        add_special=bool(body.add_special),
        parse_special=body.parse_special is not False,
        with_pieces=bool(body.with_pieces),
    )
    return json_response(await hub_of(request).ask(kind, question))


@router.post("/detokenize", openapi_extra=documented(DetokenizeBody))
async def detokenize(request: Request, body: Annotated[DetokenizeBody, Depends(json_body(reader(DetokenizeBody)))]) -> Response:
    """The text of tokens."""
    await check_text_bytes(request)
    tokens: list[int | str] = list(body.tokens or [])
    return json_response(await hub_of(request).ask(_text_kind(request), Detokenize(tokens=tokens)))
