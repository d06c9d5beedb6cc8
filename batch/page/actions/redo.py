"""POST /page/redo: have files of the inbox done again, with another prompt or language, say."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from batch.errors import BadRequest, Conflict
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.rows import RedoRequest
from batch.media.language import normalise
from batch.page.endpoint import done
from batch.page.parameters import Parameters
from batch.page.reading.file_pages import read_file
from batch.page.service import PageService
from batch.queue.store import Store

MAX_FILES = 500
"""In one form: `batch redo --folder` has no limit."""
MAX_PROMPT_CHARS = 10_000


async def redo(page: PageService, request: Request) -> Response:
    """The old results stay until the new ones replace them."""
    form = await Parameters.of_form(request)
    ids = form.numbers("files")
    if not ids:
        raise BadRequest("No file was chosen: tick some.")
    if len(ids) > MAX_FILES:
        raise BadRequest(f"At most {MAX_FILES} files are done again by one form: use `batch redo --folder`.")
    prompt, language = form.text("prompt", MAX_PROMPT_CHARS), form.text("language", 64)
    if language is not None and normalise(language) is None:
        raise BadRequest(f"There is no language {language!r}; en, zh or auto, say.", param="language")

    def mark(store: Store) -> int:
        files = [file for id in ids if (file := read_file(store, id)) is not None]
        return len(Ledger(store).request_redo([file.path for file in files], RedoRequest(prompt, language)))

    number = await page.hub.in_thread(lambda: mark(page.hub.store))
    if not number:
        raise Conflict("None of these files can be done again: they are not done yet, or not in the inbox any more.")
    back = f"/page/item/{ids[0]}" if form.text("back") == "item" else "/page/files"
    return done(request, back, "redo", number)
