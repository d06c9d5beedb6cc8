"""GET /props and /slots: what stands behind a port, in llama-server's words."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from batch.api.generation.defaults import Settings, default_settings
from batch.api.generation.jobs import FINGERPRINT, chat_info, hub_of
from batch.api.json_body import json_response
from batch.api.openapi_schemas import NOTHING
from batch.api.server.models import ready_model
from batch.errors import NotSupported, Unavailable
from batch.payloads.model_info import ChatModelInfo
from batch.queue.jobs import Kind

router = APIRouter()


@router.get("/props")
async def props(request: Request) -> Response:
    """llama-server's properties, as far as they mean something here."""
    kind, state = ready_model(request)
    info = state.info
    chat = info if isinstance(info, ChatModelInfo) else None
    defaults: Settings = default_settings(chat) if kind is Kind.VLM else {}
    return json_response(
        {
            "default_generation_settings": {"params": defaults, "n_ctx": info.n_ctx if info else 0},
            "total_slots": 1,
            "model_alias": state.name or kind.value,
            "model_ftype": chat.ftype if chat else "",
            "model_path": info.path if info else "",
            "modalities": {"vision": bool(info and info.vision), "video": False, "audio": kind is Kind.STT},
            "endpoint_slots": True,
            "endpoint_props": False,
            "endpoint_metrics": True,
            "ui": False,
            "ui_settings": {},
            "chat_template": chat.chat_template if chat else "",
            "bos_token": chat.bos_token if chat else "",
            "eos_token": chat.eos_token if chat else "",
            "build_info": FINGERPRINT,
            "is_sleeping": False,
            "cors_proxy_enabled": False,
            "parallel": chat.parallel if chat else 1,
            "parallel_rates": dict(chat.parallel_rates) if chat else {},
            "kv_cache": chat.kv_cache if chat else "",
            "repacked": bool(chat and chat.repacked),
        }
    )


@router.post("/props", openapi_extra=NOTHING)
async def change_props(request: Request) -> Response:
    """Refused: properties are settings."""
    raise NotSupported("Properties are not changed over HTTP: they stand in batch.toml.")


@router.get("/slots")
async def slots(request: Request) -> Response:
    """The port's one slot: whether it works, and for which job."""
    kind, state = ready_model(request)
    busy = state.busy is not None
    if request.query_params.get("fail_on_no_slot") and busy:
        raise Unavailable("no slot available")
    slot: Settings = {
        "id": 0,
        "n_ctx": state.info.n_ctx if state.info else 0,
        "speculative": False,
        "is_processing": busy,
    }
    if busy:
        slot["id_task"] = state.busy
    if kind is Kind.VLM:
        slot["params"] = default_settings(chat_info(hub_of(request)))
    return json_response([slot])
