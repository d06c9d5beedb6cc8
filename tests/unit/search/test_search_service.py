"""Searches of the service: two at once, a bounded number behind them, and a clear answer to one more."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from batch.errors import QueueFull
from batch.search.request import SearchRequest
from batch.search.service import MAX_RUNNING, MAX_WAITING
from page_stage import page_staged


def test_two_searches_run_at_once_and_one_beyond_those_that_may_wait_is_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    counting = threading.Lock()
    running: list[int] = []
    most = 0

    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            service = stage.search_service
            search = service._searcher.search

            def slow_search(*arguments: Any) -> Any:
                nonlocal most
                with counting:
                    running.append(1)
                    most = max(most, len(running))
                assert may_go_on.wait(30)
                with counting:
                    running.pop()
                return search(*arguments)

            monkeypatch.setattr(service._searcher, "search", slow_search)
            request = SearchRequest.of(query="bridge", mode="text")
            admitted = [asyncio.ensure_future(service.search(request)) for _ in range(MAX_RUNNING + MAX_WAITING)]
            try:
                async with asyncio.timeout(20):
                    while len(running) < MAX_RUNNING:
                        await asyncio.sleep(0.01)
                with pytest.raises(QueueFull) as refused:
                    await service.search(request)
                assert refused.value.status == 429
                answer = await stage.client.get("/v1/search", params={"q": "bridge", "mode": "text"})
                assert answer.status_code == 429 and answer.headers["retry-after"]
            finally:
                may_go_on.set()
            results = await asyncio.gather(*admitted)
            assert most == MAX_RUNNING and all(result.data == [] for result in results)
            assert (await service.search(request)).data == [], "there is room again"

    asyncio.run(main())
