"""POST /page/pause and /page/resume: hold bulk work back, or let it go on."""

from __future__ import annotations

from enum import StrEnum

from starlette.requests import Request
from starlette.responses import Response

from batch.page.endpoint import done
from batch.page.parameters import Parameters
from batch.page.service import PageService
from batch.queue.jobs import Kind, Priority
from batch.queue.selection.pauses import Pause


class PausedClass(StrEnum):
    """What `class` takes."""

    INBOX = "inbox"
    BATCH = "batch"


_PRIORITIES = {PausedClass.INBOX: Priority.INBOX, PausedClass.BATCH: Priority.BATCH}


async def pause(page: PageService, request: Request) -> Response:
    """Begin no more of it; what runs goes on."""
    pauses = _pauses(await Parameters.of_form(request))
    await page.hub.in_thread(lambda: page.hub.store.pause(pauses))
    return done(request, "/page/status", "paused")


async def resume(page: PageService, request: Request) -> Response:
    """Let it go on."""
    pauses = _pauses(await Parameters.of_form(request))
    await page.hub.in_thread(lambda: page.hub.store.resume(pauses))
    return done(request, "/page/status", "resumed")


def _pauses(form: Parameters) -> list[Pause]:
    """The classes that are meant; all where none is named."""
    kind, job_class = form.choice("kind", Kind), form.choice("class", PausedClass)
    return [
        Pause(one, _PRIORITIES[name])
        for one in ([kind] if kind else list(Kind))
        for name in ([job_class] if job_class else list(PausedClass))
    ]
