"""The page in process: a home with a folder service, workers that answer from a script, and a client of the chat port."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from batch.api.app import create_app
from batch.page.routes import page_router
from batch.page.service import PageService
from batch.queue.jobs import Kind
from batch.search.service import SearchService
from folder_stage import Stage

BASE = "http://127.0.0.1:8080"
SAME_ORIGIN = {"sec-fetch-site": "same-origin"}


class PageStage(Stage):
    """A stage with a page."""

    def __init__(self, home: Path, **folder: Any) -> None:
        super().__init__(home, **folder)
        self.search_service = SearchService(self.hub)
        self.page = PageService(self.settings, self.hub, self.search_service)
        self.app = create_app(Kind.VLM, self.hub, self.settings, None, [page_router(self.page)])
        self.app.state.search = self.search_service
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=BASE)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """A page as a browser that has no Sec-Fetch headers asks for it."""
        return await self.client.get(path, headers={"accept": "text/html", **headers})

    async def post(self, path: str, data: Any = None, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        """A form of the page's own."""
        return await self.client.post(path, data=data, headers={**SAME_ORIGIN, **(headers or {})}, **more)

    async def deliver(self, name: str, data: bytes | str) -> int:
        """Drop a file, have it worked on, and give its id in the ledger."""
        self.drop(name, data)
        await self.until(lambda: self._ended(name))
        return int(self.store.read("select id from file where path=?", (name.encode(),))[0][0])

    def _ended(self, name: str) -> bool:
        rows = self.store.read("select state from file where path=?", (name.encode(),))
        return bool(rows) and rows[0][0] in ("done", "linked", "failed")


@contextlib.asynccontextmanager
async def page_staged(home: Path, **folder: Any) -> AsyncIterator[PageStage]:
    """A page whose service runs until the block is left."""
    stage = PageStage(home, **folder)
    await stage.hub.start()
    await stage.folder.start()
    stage.page.start()
    try:
        yield stage
    finally:
        await stage.client.aclose()
        await stage.page.stop()
        stage.search_service.close()
        await stage.close()
