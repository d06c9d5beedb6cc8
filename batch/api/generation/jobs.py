"""From a checked body to a job on the vlm queue, and to the answer's frame: what every generating route shares."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from batch import __version__
from batch.api.chat_completions.request import ChatBody
from batch.api.generation.images import keep_images
from batch.api.jobs.disconnect import waiting
from batch.api.jobs.submit import accept, created
from batch.errors import ContextExceeded, Unavailable
from batch.payloads.untyped import to_payload
from batch.queue.hub import Hub, Ticket
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.untyped_hub import ask_dict, facts, result_dict

logger = logging.getLogger("batch.api")

FINGERPRINT = f"b{__version__}-batch"


@dataclass(frozen=True)
class Asked:
    """Jobs that have been accepted for one request."""

    hub: Hub
    tickets: Sequence[Ticket]
    model: str
    """The model as asked for, or the loaded one's name."""
    check: Callable[[], Awaitable[None]] | None = None
    """Raises what the job would end with, when that can be known in advance."""
    created: int = field(default_factory=created)

    @property
    def headers(self) -> dict[str, str]:
        return {"x-batch-job": ",".join(ticket.id for ticket in self.tickets)}

    async def results(self, request: Request) -> list[dict[str, Any]]:
        """Wait for every job; raises the first error, and cancels what is left when the caller hangs up."""
        found: list[dict[str, Any]] = []
        try:
            for ticket in self.tickets:
                async with waiting(request, ticket):
                    found.append(await result_dict(ticket))
        finally:
            for ticket in self.tickets[len(found) + 1 :]:
                await ticket.cancel()
        return found


def hub_of(request: Request) -> Hub:
    hub: Hub = request.app.state.hub
    return hub


def model_name(hub: Hub, asked: str | None) -> str:
    return asked or str(facts(hub.model(Kind.VLM)).get("model") or "") or "vlm"


def caller_draft(task: str, request: Mapping[str, Any], blobs: tuple[str, ...] = ()) -> Draft:
    return Draft(to_payload(task, request), Origin.HTTP, Priority.CALLER, blobs=blobs, waited=True)


async def ask_chat(request: Request, body: ChatBody) -> Asked:
    """Check the rest of a chat body, keep its images and put its job into the queue."""
    hub = hub_of(request)
    job = body.job_request() | {"stream": bool(body.stream)}
    blobs = await keep_images(job["messages"], hub, request.app.state.settings.limits)
    tickets = await accept(request, [caller_draft("chat", job, blobs)])
    return Asked(hub, tickets, model_name(hub, body.model_name), counting(hub, job))


def counting(hub: Hub, job: Mapping[str, Any]) -> Callable[[], Awaitable[None]]:
    """A check that counts the job's tokens and tries its settings, so that one which can't run is refused before it has
    waited."""

    async def count() -> None:
        if hub.model(Kind.VLM).status != "ready":
            return  # nobody can count yet: the job itself will
        try:
            tokens, context = await count_tokens(hub, job, timeout=10.0)
        except Unavailable:
            logger.debug("nobody could count the tokens of a request; its job will")
            return
        if context and tokens >= context:
            raise ContextExceeded.for_prompt(tokens, context)

    return count


async def count_tokens(hub: Hub, job: Mapping[str, Any], timeout: float = 60.0) -> tuple[int, int]:
    """Tokens of a chat or completion job's prompt, and the context's size (0: not known)."""
    answer = await ask_dict(hub, Kind.VLM, "count", job, timeout=timeout)
    return int(answer["tokens"]), int(answer.get("n_ctx") or facts(hub.model(Kind.VLM)).get("n_ctx") or 0)


def note_header(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What a result wants a person to know, for a header."""
    notes = [str(result["note"]) for result in results if result.get("note")]
    return {"x-batch-note": "; ".join(notes).encode("ascii", "replace").decode()} if notes else {}


def note_comment(result: Mapping[str, Any]) -> bytes:
    """The same in a stream, whose headers are gone already."""
    return b": note: " + " ".join(str(result["note"]).split()).encode() + b"\n\n" if result.get("note") else b""
