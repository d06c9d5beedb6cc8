"""Which routers each port has."""

from __future__ import annotations

from fastapi import APIRouter

from batch.api import audio, chat, completions, embeddings, inference, messages, metrics, props, responses, tokens
from batch.queue.jobs import Kind

_EVERYWHERE = (props.router, metrics.router)


def routers(kind: Kind) -> tuple[APIRouter, ...]:
    match kind:
        case Kind.VLM:
            return (chat.router, completions.router, responses.router, messages.router, tokens.router, *_EVERYWHERE)
        case Kind.EMBEDDING:
            return (embeddings.router, tokens.router, *_EVERYWHERE)
        case Kind.STT:
            return (inference.router, audio.router, *_EVERYWHERE)
