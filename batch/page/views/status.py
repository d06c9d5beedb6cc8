"""GET /page/status: the models, what waits, what was done, as numbers, plots and tables."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from batch.page.endpoint import notice_of, wants_json
from batch.page.live_view import Sample
from batch.page.plots import Plot, bar_plot, line_plot, number_text
from batch.page.reading.history import Day, read_history
from batch.page.rendering import render
from batch.page.service import PageService
from batch.queue.jobs import Kind
from batch.queue.nodes import NODE_STATES, SHOWN_NODE_CHARS, TOLD_CLOCK_DIFFERENCE_S
from batch.service_status import read_status

NAMES = {Kind.VLM: "captions and chat", Kind.EMBEDDING: "embeddings", Kind.STT: "speech"}


async def show(page: PageService, request: Request) -> Response:
    """The status, as `batch status` has it."""
    status, history = await page.read(lambda store: (read_status(store), read_history(store)))
    if wants_json(request):
        return JSONResponse(status)
    return render(
        "status.html",
        page="status",
        status=status,
        names={kind.value: name for kind, name in NAMES.items()},
        plots=_plots(history, list(page.live_view.samples)),
        number_text=number_text,
        node_states=[*reversed(NODE_STATES)],
        node_chars=SHOWN_NODE_CHARS,
        told_clock_difference_s=TOLD_CLOCK_DIFFERENCE_S,
        notice=notice_of(request),
    )


def _plots(history: dict[Kind, list[Day]], samples: Sequence[Sample]) -> list[Plot]:
    days = [day.date[5:] for day in history[Kind.VLM]]
    ended = bar_plot("Jobs done a day", days, [(NAMES[kind], [day.done for day in history[kind]]) for kind in Kind])
    failed = bar_plot("Jobs failed a day", days, [(NAMES[kind], [day.failed for day in history[kind]]) for kind in Kind])
    pace = line_plot(
        "Mean time a job",
        days,
        [(NAMES[kind], [round(day.seconds / day.done, 2) if day.done else None for day in history[kind]]) for kind in Kind],
        " s",
    )
    times = [time.strftime("%H:%M", time.localtime(sample.at)) for sample in samples]
    waiting = line_plot(
        "Jobs waiting, the last hour", times, [(NAMES[kind], [sample.queued[kind] for sample in samples]) for kind in Kind]
    )
    return [waiting, ended, failed, pace]
