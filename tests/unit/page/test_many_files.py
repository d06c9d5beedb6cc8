"""A hundred thousand files and jobs: every list is there at once, and small, wherever in it one looks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from many_files import fill
from page_stage import page_staged

NUMBER = 100_000
MAX_HTML_BYTES = 120_000
PROMPT_S = 0.5
"""Ten times what a quiet machine may take: others compute beside a test."""


@pytest.mark.slow
def test_a_list_of_a_hundred_thousand_is_there_at_once_and_small(tmp_path: Path) -> None:
    addresses = [
        "/", f"/?before={NUMBER // 2}", "/?before=60", "/?kind=image&folder=folder+7", "/?kind=audio",
        "/page/files", f"/page/files?before={NUMBER // 2}", "/page/files?state=failed", "/page/files?error=number+99900",
        "/page/files?state=failed&error=nothing+says+this", "/page/jobs", "/page/jobs?state=failed",
        f"/page/jobs?before={NUMBER // 2:012x}", "/page/jobs?state=failed&error=number+50000", f"/page/item/{NUMBER // 2}",
        "/page/status",
    ]  # fmt: skip

    async def main() -> None:
        async with page_staged(tmp_path, scan=3600, outbox={"again": False}) as stage:
            await asyncio.to_thread(fill, stage.store, NUMBER)
            await stage.get("/")
            took = {}
            for address in addresses:
                times = []
                for _ in range(3):
                    began = time.perf_counter()
                    answer = await stage.get(address)
                    times.append(time.perf_counter() - began)
                    assert answer.status_code == 200 and len(answer.content) <= MAX_HTML_BYTES, address
                took[address] = min(times)
            print({address: f"{1000 * seconds:.0f} ms" for address, seconds in took.items()})
            assert max(took.values()) < PROMPT_S, took

    asyncio.run(main())


def test_pages_follow_each_other_without_a_gap_and_without_a_repetition(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path, scan=3600, outbox={"again": False}) as stage:
            fill(stage.store, 400)
            for list_, number in (
                ("/page/files", 400),
                ("/page/files?state=failed", 4),
                ("/?kind=image", 396),
                ("/page/jobs", 400),
            ):
                names: list[str] = []
                address: str | None = list_
                while address:
                    page = (await stage.get(address)).text
                    names += [part.split("<")[0] for part in page.split("picture ")[1:] if part.split("<")[0].endswith(".jpg")]
                    more = page.split('rel="next" href="')[1:]
                    address = more[0].split('"')[0].replace("&amp;", "&") if more else None
                assert len(names) == len(set(names)) == number, list_
                assert [int(name[:-4]) for name in names] == sorted((int(name[:-4]) for name in names), reverse=True)

    asyncio.run(main())
