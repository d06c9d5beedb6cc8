"""GET /v1/models: the models of this service, the port's own first."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
from fastapi import APIRouter, Request
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from batch.api.generation.jobs import hub_of
from batch.api.json_body import JsonObject, json_response
from batch.errors import Unavailable
from batch.model_kind import kind_of, model_of
from batch.payloads.model_info import ChatModelInfo
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
    status: JsonObject | UnsetType = UNSET
    """Of a model by name: whether it is loaded."""


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


@dataclass(frozen=True, slots=True)
class _ListedModel:
    """A model by the name that requests use for it."""

    queue: str
    name: str
    state: ModelState


@router.get("/v1/models")
@router.get("/models", include_in_schema=False)
async def models(request: Request) -> Response:
    """Every model that is loaded, and those by name that are when they are wanted: each port answers all routes."""
    entries = _listed_models(request)
    return json_response(
        {
            "models": [_to_ollama(model) for model in entries],
            "object": "list",
            "data": [_to_openai(model.name, model) for model in entries],
        }
    )


@router.get("/v1/models/{name:path}")
@router.get("/models/{name:path}", include_in_schema=False)
async def model(request: Request, name: str) -> Response:
    """One model. Requests may call the port's own by any name, so any name is answered."""
    entries = _listed_models(request)
    model = next((model for model in entries if model.name == name), entries[0])
    return json_response(_to_openai(name[:MAX_NAME_CHARS], model))


def _listed_models(request: Request) -> list[_ListedModel]:
    """The port's own model first. Raises Unavailable while that is not loaded, unless it comes with its jobs."""
    hub, own = hub_of(request), request.app.state.kind
    if hub.model(own).status != "unloaded":
        ready_model(request)
    entries = []
    for queue in (own, *(queue for queue in hub.models.queues if queue != own)):
        state, name = hub.model(queue), model_of(queue)
        if queue == own or name or (state.status == "ready" and state.info is not None):
            entries.append(_ListedModel(queue, name or state.name or queue, state))
    return entries


def _to_openai(name: str, model: _ListedModel) -> OpenAIModel:
    info = model.state.info
    meta: JsonObject = {}
    if info is not None:
        meta = {
            "n_vocab": info.n_vocab,
            "n_ctx": info.n_ctx,
            "n_ctx_train": info.n_ctx_train,
            "n_embd": info.n_embd,
            "n_params": info.n_params,
            "size": info.size,
        }
    if isinstance(info, ChatModelInfo):
        meta |= {"vocab_type": info.vocab_type, "ftype": info.ftype}
    status: JsonObject | UnsetType = UNSET
    if model_of(model.queue):  # as llama-server's router tells of models that come and go
        status = {"value": "loaded" if model.state.status == "ready" else model.state.status}
    return OpenAIModel(id=name, aliases=[name], created=int(time.time()), meta=meta, status=status)


def _to_ollama(model: _ListedModel) -> OllamaModel:
    kind, info = kind_of(model.queue), model.state.info
    return OllamaModel(
        name=model.name,
        model=model.name,
        capabilities=_CAPABILITIES[kind] + (["multimodal"] if info is not None and info.vision else []),
        details=OllamaDetails(format="ggml" if kind is Kind.STT else "gguf"),
    )
