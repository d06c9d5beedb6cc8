"""POST /page/jobs/retry and /page/jobs/cancel: jobs by their ids, or all that match a filter, once a person saw how many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from batch.errors import BadRequest, Conflict
from batch.model_kind import MAX_MODEL_NAME_CHARS
from batch.page.endpoint import done, wants_json
from batch.page.parameters import Parameters
from batch.page.rendering import address, render
from batch.page.service import PageService
from batch.queue.jobs import Kind, Origin, State
from batch.queue.selection.job_filter import JobFilter

_RETRIED = (State.FAILED, State.CANCELLED)
_CANCELLED = (State.QUEUED, State.RUNNING)


def choice_of(parameters: Parameters) -> JobFilter:
    """The jobs that are asked for."""
    state, kind = parameters.choice("state", State), parameters.choice("kind", Kind)
    origin = parameters.choice("origin", Origin)
    return JobFilter(
        states=(state,) if state else (),
        kinds=(kind,) if kind else (),
        models=(model,) if (model := parameters.text("model", MAX_MODEL_NAME_CHARS)) else (),
        origins=(origin,) if origin else (),
        parent=parameters.text("parent", 128),
        folder=parameters.text("folder"),
        error=parameters.text("error"),
    )


def keys_of(choice: JobFilter) -> dict[str, str | None]:
    """A filter as keys of an address or a form."""
    return {
        "state": choice.states[0] if choice.states else None,
        "kind": choice.kinds[0] if choice.kinds else None,
        "model": choice.models[0] if choice.models else None,
        "origin": choice.origins[0] if choice.origins else None,
        "parent": choice.parent,
        "folder": choice.folder,
        "error": choice.error,
    }


async def retry(page: PageService, request: Request) -> Response:
    """Queue failed or cancelled jobs again."""

    async def act(id: str) -> None:
        await page.hub.in_thread(lambda: page.hub.store.retry(id))

    return await _act(page, request, "retry", _RETRIED, act, "retried")


async def cancel(page: PageService, request: Request) -> Response:
    """Cancel queued jobs at once, running ones at their next step."""

    async def act(id: str) -> None:
        await page.hub.cancel(id)

    return await _act(page, request, "cancel", _CANCELLED, act, "cancelled")


async def _act(
    page: PageService,
    request: Request,
    verb: str,
    states: tuple[State, ...],
    act: Callable[[str], Awaitable[None]],
    notice: str,
) -> Response:
    form = await Parameters.of_form(request)
    ids = form.texts("ids", 64)
    if ids:
        number = await page.bulk_actions.run(f"{verb} {len(ids)} jobs", ids, act)
        back = f"/page/jobs/{quote(ids[0], safe='')}" if len(ids) == 1 and form.text("back") == "job" else "/page/jobs"
        return done(request, back, notice if number is not None else "background", len(ids) if number is None else number)
    if form.text("filter") is None:
        raise BadRequest("No job was chosen: tick some, or choose all that match.")
    choice = choice_of(form)
    if choice.states and choice.states[0] not in states:
        raise BadRequest(f"A job that is {choice.states[0]} cannot be {notice}.")
    job_filter = replace(choice, states=choice.states or states)
    matching = await page.read(lambda store: store.count_matching(job_filter))
    expected = form.number("expected")
    if expected is None:
        if wants_json(request):
            return JSONResponse({"matching": matching})
        return render("confirm.html", page="jobs", verb=verb, matching=matching, keys=keys_of(choice), notice=None)
    if expected != matching:
        raise Conflict(f"{matching} jobs match by now, not {expected}: look at the list again.")
    number = await page.bulk_actions.run(f"{verb} {matching} jobs", job_filter, act)
    back = address("/page/jobs", **keys_of(replace(choice, states=())))
    return done(request, back, notice if number is not None else "background", matching if number is None else number)
