"""Which routers each port has."""

from __future__ import annotations

from fastapi import APIRouter

from batch.api.chat_completions import routes as chat_completions
from batch.api.completions import routes as completions
from batch.api.embeddings import routes as embeddings
from batch.api.messages import routes as messages
from batch.api.responses import routes as responses
from batch.api.server import metrics, props, tokens
from batch.api.speech import openai_routes, whisper_server_routes
from batch.queue.jobs import Kind

_ON_EVERY_PORT = (props.router, metrics.router)


def routers(kind: Kind) -> tuple[APIRouter, ...]:
    """The routers of a model's port, in the order in which their paths are matched."""
    match kind:
        case Kind.VLM:
            text = (chat_completions.router, completions.router, responses.router, messages.router)
            return (*text, tokens.router, *_ON_EVERY_PORT)
        case Kind.EMBEDDING:
            return (embeddings.router, tokens.router, *_ON_EVERY_PORT)
        case Kind.STT:
            return (whisper_server_routes.router, openai_routes.router, *_ON_EVERY_PORT)
