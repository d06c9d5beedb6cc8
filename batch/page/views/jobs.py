"""GET /page/jobs and /page/jobs/{id}: the queue, and one job with what it was sent and what came out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from batch.errors import NotFound
from batch.job_description import describe_payload, describe_result
from batch.page.actions.jobs import choice_of
from batch.page.endpoint import notice_of
from batch.page.parameters import Parameters
from batch.page.rendering import render
from batch.page.service import PageService
from batch.queue.jobs import Job, Kind, Origin, State
from batch.queue.store import Store

PAGE_JOBS = 50


async def show_list(page: PageService, request: Request) -> Response:
    """A page of jobs, the newest first, with forms to retry and cancel."""
    parameters = Parameters.of_address(request)
    choice = choice_of(parameters)
    before = parameters.text("before", 64)
    jobs = await page.read(lambda store: store.summary_page(choice, PAGE_JOBS, before))
    return render(
        "jobs.html",
        page="jobs",
        jobs=jobs.rows,
        before=jobs.before,
        choice=choice,
        state=choice.states[0] if choice.states else None,
        kind=choice.kinds[0] if choice.kinds else None,
        origin=choice.origins[0] if choice.origins else None,
        states=list(State),
        kinds=list(Kind),
        origins=list(Origin),
        is_first=before is None,
        bulk=page.bulk_actions.running,
        notice=notice_of(request),
    )


async def show_job(page: PageService, request: Request) -> Response:
    """One job."""
    id = request.path_params["id"]

    def read(store: Store) -> tuple[Job, int, str, str | None]:
        job = store.job(id)
        if job is None:
            raise NotFound("There is no such job, or it is kept no longer.")
        return job, store.ahead(job.id), describe_payload(job), describe_result(job)

    job, ahead, payload_text, result = await page.read(read)
    return render("job.html", page="job", job=job, ahead=ahead, sent=payload_text, result=result, notice=notice_of(request))
