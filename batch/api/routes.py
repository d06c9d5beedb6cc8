"""Which routers each port has."""

from __future__ import annotations

import importlib

from fastapi import APIRouter

from batch.queue.jobs import Kind

_EVERYWHERE = ("tokens", "props", "metrics")
_ROUTERS = {
    Kind.VLM: ("chat", "completions", "responses", "messages"),
    Kind.EMBEDDING: ("embeddings",),
    Kind.STT: ("inference", "audio"),
}


def routers(kind: Kind) -> list[APIRouter]:
    found = []
    for name in (*_ROUTERS[kind], *_EVERYWHERE):
        try:
            found.append(importlib.import_module(f"batch.api.{name}").router)
        except ModuleNotFoundError as error:
            if error.name != f"batch.api.{name}":
                raise
    return found
