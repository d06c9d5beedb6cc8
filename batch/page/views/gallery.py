"""GET /: what was captioned and heard, the newest first."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from batch.errors import NotFound
from batch.folder.ledger.file_counts import count_files
from batch.folder.ledger.rows import FileState
from batch.media.kind import MediaKind
from batch.page.endpoint import notice_of, wants_json
from batch.page.parameters import Parameters
from batch.page.reading.file_pages import FileChoice, read_file_page
from batch.page.rendering import render
from batch.page.service import PageService

PAGE_ITEMS = 60


async def show(page: PageService, request: Request) -> Response:
    """The gallery; programs that read JSON alone are told, as ever, that there is nothing here."""
    if wants_json(request):
        raise NotFound("File Not Found")
    parameters = Parameters.of_address(request)
    kind, folder = parameters.choice("kind", MediaKind), parameters.text("folder")
    before = parameters.number("before")
    choice = FileChoice(states=(FileState.DONE, FileState.LINKED), kind=kind, folder=folder)
    files, counts = await page.read(
        lambda store: (read_file_page(store, choice, before, PAGE_ITEMS), count_files(store)),
    )
    return render(
        "gallery.html",
        page="gallery",
        files=files,
        counts=counts,
        kind=kind,
        folder=folder,
        is_first=before is None,
        notice=notice_of(request),
    )
