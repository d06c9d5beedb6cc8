"""GET /page/jobs and /page/jobs/{id}: the queue, and one job with what it was sent and what came out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from batch.errors import NotFound
from batch.job_description import describe_payload, describe_result, model_name
from batch.page.actions.jobs import choice_of
from batch.page.endpoint import notice_of
from batch.page.parameters import Parameters
from batch.page.rendering import render
from batch.page.service import PageService
from batch.queue.jobs import Job, Kind, Origin, State, SummaryPage
from batch.queue.nodes import SHOWN_NODE_CHARS
from batch.queue.store import Store

PAGE_JOBS = 50


async def show_list(page: PageService, request: Request) -> Response:
    """A page of jobs, the newest first, with forms to retry and cancel."""
    parameters = Parameters.of_address(request)
    choice = choice_of(parameters)
    before = parameters.text("before", 64)

    def read(store: Store) -> tuple[SummaryPage, dict[str, str]]:
        jobs = store.summary_page(choice, PAGE_JOBS, before)
        return jobs, store.workers_of([job.id for job in jobs.rows])

    jobs, workers = await page.read(read)
    model = choice.models[0] if choice.models else None
    return render(
        "jobs.html",
        page="jobs",
        jobs=jobs.rows,
        before=jobs.before,
        workers=workers,
        node_chars=SHOWN_NODE_CHARS,
        model=model,
        models=[*dict.fromkeys([*sorted(page.settings.models), *choice.models])],
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

    def read(store: Store) -> tuple[Job, int, str, str | None, str | None]:
        job = store.job(id)
        if job is None:
            raise NotFound("There is no such job, or it is kept no longer.")
        worker = store.workers_of([job.id]).get(job.id)
        return job, store.ahead(job.id), describe_payload(job), describe_result(job), worker

    job, ahead, payload_text, result, worker = await page.read(read)
    return render(
        "job.html",
        page="job",
        job=job,
        model=model_name(job),
        worker=worker,
        ahead=ahead,
        sent=payload_text,
        result=result,
        notice=notice_of(request),
    )
