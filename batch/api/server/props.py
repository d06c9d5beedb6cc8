"""What stands behind a port: its model, its settings, its one slot."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from batch.api.completions.routes import default_settings
from batch.api.generation.jobs import FINGERPRINT, hub_of
from batch.api.openapi_schemas import NOTHING
from batch.errors import NotFound, NotSupported, Unavailable
from batch.queue.hub import ModelState
from batch.queue.jobs import Kind
from batch.queue.untyped_hub import facts

router = APIRouter()

_CAPABILITIES = {Kind.VLM: ["completion"], Kind.EMBEDDING: ["embedding"], Kind.STT: ["transcription"]}


def _ready(request: Request) -> tuple[Kind, ModelState]:
    kind: Kind = request.app.state.kind
    state = hub_of(request).model(kind)
    if state.status != "ready":
        raise Unavailable(state.error if state.status == "failed" else "Loading model")
    return kind, state


def _name(kind: Kind, known: Mapping[str, Any]) -> str:
    return str(known.get("model") or kind.value)


def _meta(known: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("vocab_type", "n_vocab", "n_ctx", "n_ctx_train", "n_embd", "n_params", "size", "ftype")
    return {key: known[key] for key in keys if key in known}


@router.get("/v1/models")
@router.get("/models", include_in_schema=False)
async def models(request: Request) -> JSONResponse:
    """The one model of this port."""
    kind, state = _ready(request)
    name = _name(kind, facts(state))
    capabilities = _CAPABILITIES[kind] + (["multimodal"] if facts(state).get("vision") else [])
    details = {
        "parent_model": "",
        "format": "ggml" if kind is Kind.STT else "gguf",
        "family": "",
        "families": [""],
        "parameter_size": "",
        "quantization_level": "",
    }
    return JSONResponse(
        {
            "models": [
                {
                    "name": name,
                    "model": name,
                    "modified_at": "",
                    "size": "",
                    "digest": "",
                    "type": "model",
                    "description": "",
                    "tags": [""],
                    "capabilities": capabilities,
                    "parameters": "",
                    "details": details,
                }
            ],
            "object": "list",
            "data": [
                {
                    "id": name,
                    "aliases": [name],
                    "tags": [],
                    "object": "model",
                    "created": int(time.time()),
                    "owned_by": "batch",
                    "meta": _meta(facts(state)),
                }
            ],
        }
    )


@router.get("/v1/models/{model:path}")
async def model(request: Request, model: str) -> JSONResponse:
    """The one model of this port, when it is called that."""
    kind, state = _ready(request)
    if model != _name(kind, facts(state)):
        raise NotFound(f"This port has one model, {_name(kind, facts(state))}; any name is taken in a request.")
    return JSONResponse(
        {"id": model, "object": "model", "created": int(time.time()), "owned_by": "batch", "meta": _meta(facts(state))}
    )


@router.get("/props")
async def props(request: Request) -> JSONResponse:
    """llama-server's properties, as far as they mean something here."""
    kind, state = _ready(request)
    known = facts(state)
    defaults = default_settings(known) if kind is Kind.VLM else {}
    return JSONResponse(
        {
            "default_generation_settings": {"params": defaults, "n_ctx": known.get("n_ctx", 0)},
            "total_slots": 1,
            "model_alias": _name(kind, known),
            "model_ftype": known.get("ftype", ""),
            "model_path": str(known.get("path", "")),
            "modalities": {"vision": bool(known.get("vision")), "video": False, "audio": kind is Kind.STT},
            "endpoint_slots": True,
            "endpoint_props": False,
            "endpoint_metrics": True,
            "ui": False,
            "ui_settings": {},
            "chat_template": known.get("template") or known.get("chat_template") or "",
            "chat_template_caps": known.get("chat_template_caps", {}),
            "bos_token": known.get("bos_token", ""),
            "eos_token": known.get("eos_token", ""),
            "build_info": FINGERPRINT,
            "is_sleeping": False,
            "cors_proxy_enabled": False,
        }
    )


@router.post("/props", openapi_extra=NOTHING)
async def change_props(request: Request) -> JSONResponse:
    raise NotSupported("Properties are not changed over HTTP: they stand in batch.toml.")


@router.get("/slots")
async def slots(request: Request) -> JSONResponse:
    """The one slot: does it work, and for which job."""
    kind, state = _ready(request)
    busy = state.busy is not None
    if request.query_params.get("fail_on_no_slot") and busy:
        raise Unavailable("no slot available")
    slot: dict[str, Any] = {"id": 0, "n_ctx": facts(state).get("n_ctx", 0), "speculative": False, "is_processing": busy}
    if busy:
        slot["id_task"] = state.busy
    if kind is Kind.VLM:
        slot["params"] = default_settings(facts(state))
    return JSONResponse([slot])
