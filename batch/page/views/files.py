"""GET /page/files: every file that was taken from the inbox, and what became of it."""

from __future__ import annotations

import time
from enum import StrEnum
from itertools import islice

from starlette.requests import Request
from starlette.responses import Response

from batch.folder.inbox.ignored_files import ignored_files
from batch.folder.ledger.file_counts import FileCounts, count_files
from batch.folder.ledger.rows import FileState
from batch.media.kind import MediaKind
from batch.page.actions.upload import clean_folder
from batch.page.endpoint import notice_of
from batch.page.parameters import Parameters
from batch.page.reading.file_pages import FileChoice, FilePage, read_file_page
from batch.page.rendering import render
from batch.page.service import PageService
from batch.queue.store import Store

PAGE_FILES = 50
MAX_IGNORED = 500
IGNORED_SCAN_S = 3.0
"""After which no further folder of the inbox is looked into for what is passed over."""


class FileStateChoice(StrEnum):
    """What may be asked for."""

    WAITING = "waiting"
    DONE = "done"
    LINKED = "linked"
    FAILED = "failed"
    IGNORED = "ignored"
    """Passed over, as they lie in the inbox now; the ledger does not know them."""


_STATES: dict[FileStateChoice | None, tuple[FileState, ...]] = {
    None: tuple(FileState),
    FileStateChoice.WAITING: (FileState.WAITING, FileState.WRITING),
    FileStateChoice.DONE: (FileState.DONE,),
    FileStateChoice.LINKED: (FileState.LINKED,),
    FileStateChoice.FAILED: (FileState.FAILED,),
}


async def show(page: PageService, request: Request) -> Response:
    """A page of files, the newest first."""
    parameters = Parameters.of_address(request)
    state = parameters.choice("state", FileStateChoice)
    kind, folder, error = parameters.choice("kind", MediaKind), parameters.text("folder"), parameters.text("error")
    before = parameters.number("before")
    if state is FileStateChoice.IGNORED:
        return await _show_ignored(page, request, folder)
    choice = FileChoice(states=_STATES[state], kind=kind, folder=folder, error=error)
    files, counts = await page.read(
        lambda store: (read_file_page(store, choice, before, PAGE_FILES), count_files(store)),
    )
    return _page(page, request, files, counts, state, kind, folder, error, is_first=before is None)


async def _show_ignored(page: PageService, request: Request, folder: str | None) -> Response:
    """What no scan takes of the inbox, or of a folder of it."""
    start, settings = clean_folder(folder or ""), page.settings

    def read(store: Store) -> tuple[list[str], bool, FileCounts]:
        deadline = time.monotonic() + IGNORED_SCAN_S
        ignored = list(islice(ignored_files(settings, start, deadline), MAX_IGNORED))
        return ignored, len(ignored) < MAX_IGNORED and time.monotonic() < deadline, count_files(store)

    ignored, is_whole, counts = await page.read(read)
    return _page(
        page,
        request,
        FilePage([], None),
        counts,
        FileStateChoice.IGNORED,
        None,
        folder,
        None,
        ignored=ignored,
        is_ignored_whole=is_whole,
    )


def _page(
    page: PageService,
    request: Request,
    files: FilePage,
    counts: FileCounts,
    state: FileStateChoice | None,
    kind: MediaKind | None,
    folder: str | None,
    error: str | None,
    *,
    is_first: bool = True,
    ignored: list[str] | None = None,
    is_ignored_whole: bool = True,
) -> Response:
    return render(
        "files.html",
        page="files",
        files=files,
        counts=counts,
        ignored=ignored,
        is_ignored_whole=is_ignored_whole,
        state=state,
        states=list(FileStateChoice),
        kind=kind,
        kinds=[one for one in MediaKind if one is not MediaKind.UNKNOWN],
        folder=folder,
        error=error,
        is_first=is_first,
        inbox=str(page.settings.inbox_dir),
        notice=notice_of(request),
    )
