"""GET /page/files: every file that was taken from the inbox, and what became of it."""

from __future__ import annotations

from enum import StrEnum

from starlette.requests import Request
from starlette.responses import Response

from batch.folder.ledger.file_counts import count_files
from batch.folder.ledger.rows import FileState
from batch.media.kind import MediaKind
from batch.page.endpoint import notice_of
from batch.page.parameters import Parameters
from batch.page.reading.file_pages import FileChoice, read_file_page
from batch.page.rendering import render
from batch.page.service import PageService

PAGE_FILES = 50


class FileStateChoice(StrEnum):
    """What may be asked for."""

    WAITING = "waiting"
    DONE = "done"
    LINKED = "linked"
    FAILED = "failed"


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
    choice = FileChoice(states=_STATES[state], kind=kind, folder=folder, error=error)
    files, counts = await page.read(
        lambda store: (read_file_page(store, choice, before, PAGE_FILES), count_files(store)),
    )
    return render(
        "files.html",
        page="files",
        files=files,
        counts=counts,
        state=state,
        states=list(FileStateChoice),
        kind=kind,
        kinds=[one for one in MediaKind if one is not MediaKind.UNKNOWN],
        folder=folder,
        error=error,
        is_first=before is None,
        inbox=str(page.settings.inbox_dir),
        notice=notice_of(request),
    )
