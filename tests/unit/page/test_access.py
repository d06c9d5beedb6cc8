"""Who may use the page: itself and whoever types its address; and what every answer forbids the browser."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from batch.page.access import POLICY
from batch.page.rendering import HERE
from page_stage import BASE, page_staged

FORMS = (
    "/page/jobs/retry",
    "/page/jobs/cancel",
    "/page/pause",
    "/page/resume",
    "/page/redo",
    "/page/files?name=a.txt",
    "/page/try",
)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_no_other_page_and_no_link_changes_anything(tmp_path: Path, site: str) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            for form in FORMS:
                answer = await stage.client.post(form, content=b"x=1", headers={"sec-fetch-site": site})
                assert answer.status_code == 403, form
            assert not list(stage.inbox.iterdir())

    asyncio.run(main())


def test_without_that_header_a_form_needs_this_very_origin(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            for origin, status in ((None, 403), ("http://127.0.0.1:9999", 403), ("http://localhost:8080", 403), (BASE, 303)):
                headers = {} if origin is None else {"origin": origin}
                answer = await stage.client.post("/page/pause", content=b"kind=vlm", headers=headers)
                assert answer.status_code == status, origin

    asyncio.run(main())


def test_no_other_page_reads_the_page_and_none_is_told_that_it_may(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            for path in ("/", "/page/status", "/page/events", "/page/media/1"):
                for headers in ({"sec-fetch-site": "same-site"}, {"origin": "http://localhost:3000"}):
                    answer = await stage.get(path, **headers)
                    assert answer.status_code == 403, path
                    assert not [name for name in answer.headers if name.startswith("access-control")], path
            typed = await stage.get("/", **{"sec-fetch-site": "none"})
            assert typed.status_code == 200

    asyncio.run(main())


def test_every_answer_carries_the_policy(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            asset = re.findall(r'"(/page/assets/page\.[0-9a-f]{12}\.css)"', (await stage.get("/")).text)[0]
            for path in ("/", "/page/status", "/page/nothing", asset):
                headers = (await stage.get(path)).headers
                assert headers["content-security-policy"] == POLICY, path
                assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
                assert headers["cross-origin-resource-policy"] == headers["cross-origin-opener-policy"] == "same-origin"
            assert (await stage.get("/")).headers["cache-control"] == "no-store"
            assert "immutable" in (await stage.get(asset)).headers["cache-control"]

    asyncio.run(main())


def test_templates_and_scripts_never_turn_text_into_markup() -> None:
    for template in (HERE / "html").iterdir():
        text = template.read_text("utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape|\bstyle=|<style|javascript:|\son[a-z]+=", text), template.name
        assert not re.search(r"https?://", text), template.name
    for script in (HERE / "assets").glob("*.js"):
        text = script.read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), script.name
    code = "".join(file.read_text("utf-8") for file in HERE.rglob("*.py"))
    assert "Markup(" not in code and "autoescape=True" in code


def test_the_pages_own_scripts_are_small() -> None:
    assert sum(file.stat().st_size for file in (HERE / "assets").glob("*.js")) <= 20_000
