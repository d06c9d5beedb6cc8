"""Whatever strangers write, a reader sees as text."""

from __future__ import annotations

import asyncio
import os
from html.parser import HTMLParser
from pathlib import Path

from batch.errors import BadRequest
from batch.payloads.chat import ChatPayload, Message
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from folder_stage import picture
from page_stage import PageStage, page_staged

SCRIPT = "<script>alert(1)</script>"
BREAKOUT = "\"'><img src=x onerror=alert(1)>"
JINJA = "{{ 7*7 }}{% raw %}"
ANSI = "\x1b[31mred\x1b[0m"
BIDI = "\u202egnp.exe"
LONG = "w" * 65536
HOSTILE = (SCRIPT, BREAKOUT, JINJA, ANSI, BIDI, LONG, "</textarea></title><svg/onload=alert(1)>")


class _Tags(HTMLParser):
    """What of a page a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name.startswith("on") or (value or "").lower().startswith("javascript:"):
                self.problems.append(f"<{tag} {name}={value}>")
            if name in ("src", "href", "action") and not (value or "").startswith(("/", "#")):
                self.problems.append(f"<{tag} {name}={value}>")

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(page: str) -> str:
    """A page's text; fails where there is anything in it that is not the page's own."""
    tags = _Tags()
    tags.feed(page)
    assert not tags.problems, tags.problems
    assert page.count("<script") <= 2 and "<img src=x" not in page and "<svg/onload" not in page
    return tags.text


async def fill(stage: PageStage) -> None:
    """Jobs whose source, prompt and error are hostile."""
    for word in HOSTILE:
        payload = ChatPayload(messages=[Message(role="user", content=word)])
        draft = Draft(payload, Origin.CLI, Priority.BATCH, source=word)
        stage.store.submit(draft)
        stage.worker.take(Kind.VLM)
        stage.worker.end(draft.id, State.FAILED, error=BadRequest(f"This failed: {word}").record())


def test_hostile_strings_are_text_on_every_page(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            stage.hub.models.update("embedding", status="failed", error=f"broken: {SCRIPT}")
            await fill(stage)
            for number, word in enumerate(HOSTILE[:5]):
                name = word.replace("/", "_")[:100]
                await stage.deliver(f"{number}/{name}.txt", f"before {word} after")
                await stage.deliver(f"{number}/{name}.jpg", picture() + b"BREAK" + bytes([number]))
            for path in ("/", "/page/files", "/page/status", "/page/jobs", "/page/files?state=failed"):
                seen((await stage.get(path)).text)
            jobs = await stage.get("/page/jobs")
            assert SCRIPT in seen(jobs.text) and "\\u202egnp.exe" in jobs.text and len(jobs.content) < 120_000
            for job in stage.store.jobs(state=State.FAILED, origin=Origin.CLI):
                assert "This failed" in seen((await stage.get(f"/page/jobs/{job.id}")).text)
            for id, path in stage.store.read("select id, path from file"):
                text = seen((await stage.get(f"/page/item/{id}")).text)
                if os.fsdecode(path).startswith("0/") and path.endswith(b".txt"):
                    assert f"before {SCRIPT} after" in text
            for word in HOSTILE:
                query = await stage.client.get("/page/search", params={"q": word[:1000]}, headers={"accept": "text/html"})
                assert query.status_code == 200
                seen(query.text)
                page = await stage.client.get("/page/files", params={"folder": word[:1000], "error": word[:1000]})
                seen(page.text)
                notice = await stage.client.get("/", params={"notice": word[:1000], "n": "3"})
                assert "notice" not in notice.text

    asyncio.run(main())


def test_names_that_are_no_utf_8_have_pages_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            name = os.fsdecode(b"caf\xe9.txt")
            stage.drop(name, "words in a file whose name is latin-1")
            await stage.until(lambda: stage.store.read("select 1 from file where state='done'"))
            (id,) = stage.store.read("select id from file")[0]
            assert "caf\\xe9.txt" in (await stage.get("/")).text
            page = (await stage.get(f"/page/item/{id}")).text
            assert "words in a file" in page and "like=caf%E9.txt" in page
            stage.hub.models.update("embedding", status="failed", error="no model here")
            assert f'<a href="/page/item/{id}">caf' in (await stage.get("/page/search?q=latin")).text
            answer = await stage.get(f"/page/media/{id}")
            assert answer.status_code == 200 and "caf" in answer.headers["content-disposition"]

    asyncio.run(main())
