"""The routers of every port: each answers the routes of all three models, so that software with one address works."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter

from batch.api.batches import message_routes as message_batches
from batch.api.batches import routes as batches
from batch.api.chat_completions import routes as chat_completions
from batch.api.chat_completions import stored_routes as stored_completions
from batch.api.completions import routes as completions
from batch.api.conversations import routes as conversations
from batch.api.embeddings import routes as embeddings
from batch.api.files import routes as files
from batch.api.files import upload_routes as uploads
from batch.api.messages import routes as messages
from batch.api.responses import routes as responses
from batch.api.responses import stored_routes as stored_responses
from batch.api.search import routes as search
from batch.api.server import health, metrics, model_loading, models, props, tokens
from batch.api.speech import openai_routes, whisper_server_routes
from batch.api.webhooks import routes as webhooks
from batch.queue.jobs import Kind

ROUTERS: tuple[APIRouter, ...] = (
    embeddings.router,
    chat_completions.router,
    completions.router,
    responses.router,
    stored_responses.router,
    stored_completions.router,
    conversations.router,
    messages.router,
    health.router,
    files.router,
    uploads.router,
    batches.router,
    search.router,
    message_batches.router,
    openai_routes.router,
    whisper_server_routes.router,
    tokens.router,
    models.router,
    model_loading.router,
    props.router,
    metrics.router,
    webhooks.router,
)
"""What depends on the port (health, props, tokens) reads its own kind."""
_OWN_ROUTERS: Mapping[Kind, tuple[APIRouter, ...]] = {
    Kind.VLM: (chat_completions.router, completions.router, responses.router, messages.router),
    Kind.EMBEDDING: (embeddings.router,),
    Kind.STT: (openai_routes.router, whisper_server_routes.router),
}


def routers_of(kind: Kind) -> list[APIRouter]:
    """All routers in the order in which a port matches their paths: what it is asked for most often comes first."""
    own = _OWN_ROUTERS[kind]
    return [*own, *(router for router in ROUTERS if router not in own)]
