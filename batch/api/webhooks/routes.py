"""OpenAI's webhook endpoints: who is told of what, over the API."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from batch.api.generation.jobs import hub_of
from batch.api.json_body import documented, json_body, json_response, reader
from batch.api.webhooks.request import EndpointBody, EndpointChanges, RotationBody, TrialBody, check_event_types
from batch.batches.rows import new_public_id
from batch.errors import BadRequest, Conflict, NotFound, QueueFull
from batch.notifications.address import read_url, resolve
from batch.notifications.event_body import Event, EventData
from batch.notifications.notification_store import NotificationStore
from batch.notifications.rows import COMMAND_TARGET, EVENT_TYPES, Target
from batch.notifications.service import secrets_folder
from batch.notifications.shared_secrets import open_secrets
from batch.notifications.signing import SecretFiles
from batch.notifications.webhook_sender import send_webhook
from batch.payloads.json_text import encode
from batch.settings import Settings

router = APIRouter()
T = TypeVar("T")

MAX_ENDPOINTS = 100
MAX_CALLS_OUT = 2
"""Names looked up and sample events sent for clients at a time: each may keep a thread for many seconds, of which others have
need."""
_calls_out = threading.BoundedSemaphore(MAX_CALLS_OUT)
TRIAL_OBJECTS = {"batch": "batch_test", "response": "resp_test", "file": "test.jpg", "service": "vlm"}


class EndpointObject(msgspec.Struct, kw_only=True):
    """OpenAI's webhook_endpoint."""

    id: str
    object: str = "webhook_endpoint"
    name: str
    url: str
    event_types: list[str]
    created_at: int
    updated_at: int
    signing_secret_hint: str | None
    signing_secret: str | UnsetType = UNSET


@router.post("/v1/webhook_endpoints", openapi_extra=documented(EndpointBody))
async def create_endpoint(
    request: Request, body: Annotated[EndpointBody, Depends(json_body(reader(EndpointBody)))]
) -> Response:
    """Have events sent to an address; its secret is shown this once."""
    store, secrets, now = _store(request), _secrets(request), int(time.time())
    types = check_event_types(body.event_types)
    await _check_url(request, body.url)

    def create() -> Target:
        if len(store.targets()) >= MAX_ENDPOINTS:
            raise BadRequest(f"There are {MAX_ENDPOINTS} webhook endpoints already: delete one first.")
        id = new_public_id("we_")
        target = Target(id=id, name=body.name, url=body.url, event_types=types, created_at=now, updated_at=now)
        secrets.ensure(id)
        store.put_target(target)
        return target

    target = await hub_of(request).in_thread(create)
    return json_response(await _view(request, target, with_secret=True))


@router.get("/v1/webhook_endpoints")
async def list_endpoints(request: Request, after: str | None = None, limit: int = Query(20, ge=1, le=100)) -> Response:
    """Endpoints, newest first."""
    targets = [one for one in await hub_of(request).in_thread(_store(request).targets) if one.id != COMMAND_TARGET]
    if after is not None:
        ids = [one.id for one in targets]
        if after not in ids:
            raise BadRequest(f"'after': no such webhook endpoint: {after[:100]}", param="after")
        targets = targets[ids.index(after) + 1 :]
    views = [await _view(request, one) for one in targets[:limit]]
    first, last = (views[0].id, views[-1].id) if views else (None, None)
    page = {"object": "list", "data": views, "first_id": first, "last_id": last, "has_more": len(targets) > limit}
    return json_response(page)


@router.get("/v1/webhook_event_types")
async def list_event_types() -> Response:
    """What can be told."""
    return json_response({"object": "list", "data": EVENT_TYPES})


@router.get("/v1/webhook_endpoints/{endpoint_id}")
async def get_endpoint(request: Request, endpoint_id: str) -> Response:
    """One endpoint."""
    return json_response(await _view(request, await _target(request, endpoint_id)))


@router.post("/v1/webhook_endpoints/{endpoint_id}", openapi_extra=documented(EndpointChanges))
async def update_endpoint(
    request: Request, endpoint_id: str, body: Annotated[EndpointChanges, Depends(json_body(reader(EndpointChanges)))]
) -> Response:
    """Change an endpoint; one that answered 410 is told again."""
    target = await _changeable(request, endpoint_id)
    if isinstance(body.url, str):
        await _check_url(request, body.url)
    target = msgspec.structs.replace(
        target,
        name=target.name if isinstance(body.name, UnsetType) else body.name,
        url=target.url if isinstance(body.url, UnsetType) else body.url,
        event_types=target.event_types if isinstance(body.event_types, UnsetType) else check_event_types(body.event_types),
        updated_at=int(time.time()),
        is_enabled=True,
    )
    await hub_of(request).in_thread(lambda: _store(request).change_target(target))
    return json_response(await _view(request, target))


@router.delete("/v1/webhook_endpoints/{endpoint_id}")
async def delete_endpoint(request: Request, endpoint_id: str) -> Response:
    """Remove an endpoint with what was still to be told to it."""
    await _changeable(request, endpoint_id)
    await hub_of(request).in_thread(lambda: _store(request).delete_target(endpoint_id))
    await asyncio.to_thread(_secrets(request).remove, endpoint_id)
    return json_response({"id": endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True})


@router.post("/v1/webhook_endpoints/{endpoint_id}/rotate_secret", openapi_extra=documented(RotationBody))
async def rotate_secret(
    request: Request, endpoint_id: str, body: Annotated[RotationBody, Depends(json_body(reader(RotationBody)))]
) -> Response:
    """A new secret, shown this once; the old one signs beside it for a day where that is asked."""
    target = msgspec.structs.replace(await _target(request, endpoint_id), updated_at=int(time.time()))
    keep_old = body.keep_old_secret_active_for_24_hours
    await hub_of(request).in_thread(lambda: _store(request).change_target(target))
    await asyncio.to_thread(lambda: _secrets(request).rotate(endpoint_id, keep_old=keep_old))
    return json_response(await _view(request, target, with_secret=True))


@router.post("/v1/webhook_endpoints/{endpoint_id}/test", openapi_extra=documented(TrialBody))
async def test_endpoint(
    request: Request, endpoint_id: str, body: Annotated[TrialBody, Depends(json_body(reader(TrialBody)))]
) -> Response:
    """Send a sample event at once, and say what the receiver answered."""
    (type,) = check_event_types([body.event_type], "event_type")
    target, settings = await _target(request, endpoint_id), _settings(request)
    data = EventData(id=TRIAL_OBJECTS[type.partition(".")[0]])
    event = Event(id=new_public_id("evt_"), created_at=int(time.time()), type=type, data=data)

    def send() -> int:
        address = resolve(read_url(target.url), settings.notifications.hosts)
        keys = _secrets(request).ensure(target.id).valid(time.time())
        return send_webhook(address, event.id, encode(event), keys).status

    try:
        status = await _call_out(send)
    except (OSError, http.client.HTTPException) as error:
        raise BadRequest(f"The receiver did not answer: {type_name(error)}.", param="webhook_endpoint_id") from None
    trial = {"object": "webhook_endpoint.test", "event_type": type, "status_code": status, "success": True}
    return json_response({**trial, "webhook_endpoint_id": target.id})


def type_name(error: Exception) -> str:
    """An error in a word or a sentence, without what the receiver sent."""
    return getattr(error, "strerror", None) or type(error).__name__


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _store(request: Request) -> NotificationStore:
    return NotificationStore(hub_of(request).store)


def _secrets(request: Request) -> SecretFiles:
    return open_secrets(hub_of(request).store, secrets_folder(_settings(request)))


async def _call_out(work: Callable[[], T]) -> T:
    """Do what may wait for others, in a thread. Raises QueueFull where `MAX_CALLS_OUT` do so already."""
    if not _calls_out.acquire(blocking=False):
        raise QueueFull("Other webhook endpoints are being looked up or tried; try again in some seconds.")

    def run() -> T:
        try:
            return work()
        finally:
            _calls_out.release()

    return await asyncio.to_thread(run)


async def _check_url(request: Request, url: str) -> None:
    """Raise BadRequest for an address that nothing may be sent to."""
    hosts = _settings(request).notifications.hosts
    try:
        await _call_out(lambda: resolve(read_url(url), hosts))
    except OSError:
        raise BadRequest("'url' names a host that cannot be resolved", param="url") from None


async def _target(request: Request, id: str) -> Target:
    if id == COMMAND_TARGET:
        raise NotFound(f"No such webhook endpoint: {id}", param="id")
    return await hub_of(request).in_thread(lambda: _store(request).target(id))


async def _changeable(request: Request, id: str) -> Target:
    target = await _target(request, id)
    if target.is_from_settings:
        raise Conflict("This endpoint stands in the settings (notifications.urls): change it there.")
    return target


async def _view(request: Request, target: Target, *, with_secret: bool = False) -> EndpointObject:
    secret = await asyncio.to_thread(_secrets(request).read, target.id)
    return EndpointObject(
        id=target.id,
        name=target.name,
        url=target.url,
        event_types=target.event_types or list(EVENT_TYPES),
        created_at=target.created_at,
        updated_at=target.updated_at,
        signing_secret_hint=secret.hint if secret else None,
        signing_secret=secret.current if secret and with_secret else UNSET,
    )
