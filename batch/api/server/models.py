"""GET /v1/models: the models of this service, the port's own first."""

from __future__ import annotations

import time

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from batch.api.generation.jobs import hub_of
from batch.api.json_body import JsonObject, json_response
from batch.errors import Unavailable
from batch.payloads.model_info import AnyModelInfo, ChatModelInfo
from batch.queue.hub.hub import Hub
from batch.queue.hub.model_state import ModelState
from batch.queue.jobs import Kind

router = APIRouter()

MAX_NAME_CHARS = 256

_CAPABILITIES = {Kind.VLM: ["completion"], Kind.EMBEDDING: ["embedding"], Kind.STT: ["transcription"]}


class OpenAIModel(msgspec.Struct, kw_only=True):
    """A model as OpenAI's clients read it, with llama-server's figures."""

    id: str
    aliases: list[str]
    tags: list[str] = []
    object: str = "model"
    created: int
    owned_by: str = "batch"
    meta: JsonObject


class OllamaDetails(msgspec.Struct, kw_only=True):
    """What llama-server says of every model's file."""

    parent_model: str = ""
    format: str
    family: str = ""
    families: list[str] = msgspec.field(default_factory=lambda: [""])
    parameter_size: str = ""
    quantization_level: str = ""


class OllamaModel(msgspec.Struct, kw_only=True):
    """A model as Ollama's clients read it."""

    name: str
    model: str
    modified_at: str = ""
    size: str = ""
    digest: str = ""
    type: str = "model"
    description: str = ""
    tags: list[str] = msgspec.field(default_factory=lambda: [""])
    capabilities: list[str]
    parameters: str = ""
    details: OllamaDetails


def ready_model(request: Request) -> tuple[Kind, ModelState]:
    """The kind and the state of the port's own model. Raises Unavailable while it is not loaded."""
    kind: Kind = request.app.state.kind
    state = hub_of(request).model(kind)
    if state.status != "ready":
        raise Unavailable(state.error if state.status == "failed" else "Loading model")
    return kind, state


@router.get("/v1/models")
@router.get("/models", include_in_schema=False)
async def models(request: Request) -> Response:
    """Every model that is loaded: each port answers the routes of all three."""
    own, _ = ready_model(request)
    loaded = _loaded_models(hub_of(request), own)
    return json_response(
        {
            "models": [_to_ollama(kind, info) for kind, info in loaded],
            "object": "list",
            "data": [_to_openai(info.model, info) for _, info in loaded],
        }
    )


@router.get("/v1/models/{name:path}")
@router.get("/models/{name:path}", include_in_schema=False)
async def model(request: Request, name: str) -> Response:
    """One model. Requests may call the port's own by any name, so any name is answered."""
    own, _ = ready_model(request)
    loaded = _loaded_models(hub_of(request), own)
    info = next((info for _, info in loaded if info.model == name), loaded[0][1])
    return json_response(_to_openai(name[:MAX_NAME_CHARS], info))


def _loaded_models(hub: Hub, own: Kind) -> list[tuple[Kind, AnyModelInfo]]:
    states = [(kind, hub.model(kind)) for kind in (own, *(kind for kind in Kind if kind is not own))]
    return [(kind, state.info) for kind, state in states if state.status == "ready" and state.info is not None]


def _to_openai(name: str, info: AnyModelInfo) -> OpenAIModel:
    meta: JsonObject = {
        "n_vocab": info.n_vocab,
        "n_ctx": info.n_ctx,
        "n_ctx_train": info.n_ctx_train,
        "n_embd": info.n_embd,
        "n_params": info.n_params,
        "size": info.size,
    }
    if isinstance(info, ChatModelInfo):
        meta |= {"vocab_type": info.vocab_type, "ftype": info.ftype}
    return OpenAIModel(id=name, aliases=[name], created=int(time.time()), meta=meta)


def _to_ollama(kind: Kind, info: AnyModelInfo) -> OllamaModel:
    return OllamaModel(
        name=info.model,
        model=info.model,
        capabilities=_CAPABILITIES[kind] + (["multimodal"] if info.vision else []),
        details=OllamaDetails(format="ggml" if kind is Kind.STT else "gguf"),
    )
