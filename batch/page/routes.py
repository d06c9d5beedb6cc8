"""The page's addresses."""

from __future__ import annotations

from fastapi import APIRouter

from batch.page.actions import jobs as job_actions
from batch.page.actions import pausing, redo, upload
from batch.page.endpoint import View, add_view
from batch.page.service import PageService
from batch.page.views import assets, batches, files, gallery, item, jobs, live, media, playground, search, status

READING: tuple[tuple[str, View], ...] = (
    ("/", gallery.show),
    ("/page/search", search.show),
    ("/page/item/{id}", item.show),
    ("/page/files", files.show),
    ("/page/jobs", jobs.show_list),
    ("/page/jobs/{id}", jobs.show_job),
    ("/page/batches", batches.show),
    ("/page/status", status.show),
    ("/page/try", playground.show),
    ("/page/thumb/{id}.webp", media.thumbnail),
    ("/page/preview/{id}.webp", media.preview),
    ("/page/media/{id}", media.original),
    ("/page/events", live.stream),
    ("/page/assets/{name}", assets.asset),
    ("/page/{path:path}", assets.missing),
)
CHANGING: tuple[tuple[str, View], ...] = (
    ("/page/jobs/retry", job_actions.retry),
    ("/page/jobs/cancel", job_actions.cancel),
    ("/page/pause", pausing.pause),
    ("/page/resume", pausing.resume),
    ("/page/redo", redo.redo),
    ("/page/files", upload.upload),
    ("/page/try", playground.run),
)


def page_router(service: PageService) -> APIRouter:
    """The routes of the page, for the port that has it."""
    router = APIRouter()
    for path, view in READING:
        add_view(router, service, path, view)
    for path, view in CHANGING:
        add_view(router, service, path, view, method="POST")
    return router
