"""The page in a real Chromium: with a keyboard, without scripts, dark and light, narrow and wide, judged by axe."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from batch.queue.jobs import Kind
from batch.queue.nodes import SHOWN_NODES, Node, NodeOverview, QueueNodes
from batch.queue.sqlite.node_rows import NodeRows
from folder_stage import picture, sound
from javascript_packages import install_packages
from page_server import PageServer, page_served
from page_stage import PageStage

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCRIPTED_NAME = "<img src=x onerror=alert(1)>.txt"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="this machine has no Chromium (apt-get install chromium)"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="axe-core comes by npm, which this machine does not have"),
]


class Machines:
    """What a shared database would tell of the workers of all machines."""

    def __init__(self) -> None:
        self.leases = 3

    def overview(self) -> NodeOverview:
        build = f"{'a-model-with-a-long-name-' * 4}Q4_K_M.gguf {'0' * 64}, batch 0.1.0, cuda"
        nodes = [
            Node(f"{number:02}ab34567890", Kind.VLM, "vlm:qwen", "ready", "m.gguf", build, leases=self.leases)
            for number in range(SHOWN_NODES - 1)
        ]
        broken = Node("broken7890ab", Kind.STT, "stt", "failed", error=f"{SCRIPTED_NAME} cannot be read.", beat_age_s=3.0)
        queues = [QueueNodes("stt", {"failed": 1}), QueueNodes("vlm:qwen", {"ready": 5000}, self.leases, 2, 4.0, 3700.0)]
        return NodeOverview([broken, *nodes], queues, clock_difference_s=-7.0)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """The page as that of a home which shares its database: without one, so that it is seen where no PostgreSQL is."""
    machines = Machines()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(NodeRows, "overview", lambda store: machines.overview())
        monkeypatch.setattr(NodeRows, "workers_of", lambda store, jobs: dict.fromkeys(jobs, "00ab34567890"))
        monkeypatch.setattr(NodeRows, "model_counts", lambda store: [("qwen", "vlm", "queued", 7, 0, 0.0)])
        yield machines


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, machines: Machines) -> Iterator[PageServer]:
    """A page with a picture, a recording, texts in two scripts, a hostile name and a failed file, and many workers."""
    with page_served(tmp_path_factory.mktemp("home")) as served:
        for name, data in (
            ("shapes/red.jpg", picture("red", size=400)),
            ("talk.wav", sound(3.0)),
            ("notes.txt", "The budget was cut in the spring."),
            ("会议.txt", "会议讨论了预算。"),
            (SCRIPTED_NAME, f"before {SCRIPTED_NAME} after"),
            ("torn.jpg", picture("blue") + b"BREAK"),
        ):
            served.call(lambda stage, name=name, data=data: stage.deliver(name, data))
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def axe() -> str:
    return (install_packages() / "node_modules/axe-core/axe.min.js").read_text("utf-8")


def id_of(server: PageServer, name: str) -> int:
    assert server.stage is not None
    return int(server.stage.store.read("select id from file where path=?", (name.encode(),))[0][0])


def every_page(server: PageServer) -> list[str]:
    assert server.stage is not None
    job = server.stage.store.jobs(limit=1)[0].id
    items = [f"/page/item/{id_of(server, name)}" for name in ("shapes/red.jpg", "talk.wav", "notes.txt", "torn.jpg")]
    lists = ["/", "/page/search?q=budget", "/page/files", "/page/files?state=ignored", "/page/jobs"]
    lists += ["/page/batches", "/page/status", "/page/try"]
    return [*lists, *items, f"/page/jobs/{job}", "/page/nothing"]


def opened(browser: Browser, server: PageServer, **settings: object) -> tuple[BrowserContext, Page, list[str]]:
    """A page of its own, and what goes wrong in it: errors, dialogs, and requests of other addresses."""
    context = browser.new_context(base_url=server.url, **settings)  # type: ignore[arg-type]
    page, problems = context.new_page(), list[str]()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" and "404" not in said.text else None)
    page.on("request", lambda sent: None if sent.url.startswith(server.url) else problems.append(f"request: {sent.url[:200]}"))
    return context, page, problems


def until(page: Page, expression: str, seconds: float = 30.0) -> None:
    """Wait for something to be true in a page; Playwright's own wait evaluates text, which the page's policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong_with_any_page(browser: Browser, server: PageServer, axe: str, scheme: str) -> None:
    context, page, problems = opened(browser, server, color_scheme=scheme)
    for address in every_page(server):
        page.goto(address)
        page.evaluate(axe)
        judged = page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
        assert len(judged["passes"]) > 10
        wrong = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in judged["violations"]]
        assert not wrong, f"{address}: {wrong}"
    assert not problems
    page.goto("/page/files")
    page.evaluate(axe)
    page.evaluate("document.querySelector('label').replaceWith(document.querySelector('label input'))")
    judged = page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
    assert judged["violations"], "axe would not see a field without its label"
    context.close()


def test_no_page_is_wider_than_its_window_also_at_four_times_the_size(browser: Browser, server: PageServer) -> None:
    context, page, problems = opened(browser, server, viewport={"width": 320, "height": 600})
    for address in every_page(server):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, address
    assert not problems
    context.close()


def test_everything_is_reached_by_the_keyboard_and_seen_to_be(browser: Browser, server: PageServer) -> None:
    context, page, problems = opened(browser, server)
    page.goto("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for address in ("/", "/page/files", "/page/jobs", "/page/status", "/page/try"):
        page.goto(address)
        usable = page.evaluate(
            "Array.from(document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, summary'))"
            ".filter(one => one.tabIndex < 0).length"
        )
        assert usable == 0, address
        sizes = page.evaluate(
            "Array.from(document.querySelectorAll('button, input:not([type=hidden]), select, nav a'))"
            ".map(one => one.getBoundingClientRect()).filter(box => box.width && (box.width < 24 || box.height < 24)).length"
        )
        assert sizes == 0, f"{address}: targets under 24 pixels"
    page.goto("/page/status")
    page.get_by_role("button", name="Pause inbox of speech").focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Resume inbox of speech").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Pause inbox of speech").wait_for()
    assert not problems
    context.close()


def test_a_click_in_the_transcript_moves_the_player_and_the_running_segment_is_told(
    browser: Browser, server: PageServer
) -> None:
    context, page, problems = opened(browser, server)
    page.goto(f"/page/item/{id_of(server, 'talk.wav')}")
    until(page, "document.getElementById('player').readyState >= 1")
    page.get_by_role("link", name="General.").click()
    until(page, "document.getElementById('player').currentTime >= 1.5")
    until(page, "document.querySelector('[aria-current=true]')?.textContent.includes('General')")
    assert page.url.endswith("?t=1.5") and not problems
    context.close()


def test_without_scripts_people_look_search_listen_and_upload(browser: Browser, server: PageServer) -> None:
    context, page, problems = opened(browser, server, java_script_enabled=False)
    page.goto("/")
    page.get_by_role("link", name="red.jpg").click()
    assert page.get_by_role("heading", level=1).inner_text() == "shapes/red.jpg"
    page.get_by_role("searchbox").fill("budget")
    page.get_by_role("searchbox").press("Enter")
    assert page.locator("mark").first.inner_text() == "budget"
    page.goto(f"/page/item/{id_of(server, 'talk.wav')}")
    page.get_by_role("link", name="General.").click()
    assert page.locator("#player").get_attribute("src").endswith("#t=1.5")  # type: ignore[union-attr]
    page.goto("/page/files")
    page.locator("#chosen").set_input_files({"name": "plain.txt", "mimeType": "text/plain", "buffer": b"without scripts"})
    page.get_by_role("button", name="Put it there").click()
    assert "Files put into the inbox: 1." in page.content()
    assert server.stage is not None and (server.stage.inbox / "plain.txt").read_text() == "without scripts"
    assert not problems
    context.close()


def test_files_are_dropped_on_the_page_and_numbers_move_by_themselves(
    browser: Browser, server: PageServer, machines: Machines
) -> None:
    context, page, problems = opened(browser, server)
    page.goto("/page/status")
    done = page.locator("[data-live='inbox.done']")
    before = int(done.inner_text())
    other = context.new_page()
    other.goto("/page/files")
    other.evaluate(
        """() => {
          const data = new DataTransfer();
          for (const name of ["dropped one.txt", "dropped two.txt"]) data.items.add(new File([`text of ${name}`], name));
          document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }"""
    )
    other.get_by_text("Files put into the inbox: 2.").wait_for()
    until(page, f"Number(document.querySelector(\"[data-live='inbox.done']\").textContent) >= {before + 2}")
    machines.leases = 4
    until(page, "document.querySelector(\"[data-node='00ab34567890'] [data-part='jobs']\").textContent === '4'")
    until(page, "document.querySelector(\"[data-queue='vlm:qwen'] [data-part='jobs']\").textContent === '4'")
    assert not problems
    context.close()


def test_the_playground_shows_the_answer_and_a_line_for_the_shell(browser: Browser, server: PageServer) -> None:
    async def load_embeddings(stage: PageStage) -> None:
        stage.hub.models.update("embedding", status="ready", error=None)

    server.call(load_embeddings)
    context, page, problems = opened(browser, server)
    page.goto("/page/try")
    page.get_by_label("Make a vector of a text").check()
    page.get_by_label("Text", exact=True).fill("it's red")
    page.get_by_role("button", name="Send").click()
    until(page, "document.getElementById('output').textContent.startsWith('3 dimensions')")
    line = page.locator("#line").inner_text()
    assert f"curl {server.url}/v1/embeddings" in line and """'{"input":"it'\\''s red"}'""" in line
    page.get_by_label("Write down what a recording says").check()
    page.get_by_label("Picture or recording").set_input_files({"name": "a.wav", "mimeType": "audio/wav", "buffer": sound(3.0)})
    page.get_by_role("button", name="Send").click()
    until(page, "document.getElementById('output').textContent.includes('General')")
    assert not problems
    context.close()


def test_a_hostile_name_is_text_and_runs_nothing(browser: Browser, server: PageServer) -> None:
    context, page, problems = opened(browser, server)
    page.goto("/page/files")
    page.get_by_role("link", name=SCRIPTED_NAME).click()
    assert page.get_by_role("heading", level=1).inner_text() == SCRIPTED_NAME
    assert page.locator(".text").inner_text() == f"before {SCRIPTED_NAME} after"
    assert page.evaluate("document.querySelectorAll('img').length") == 0 and not problems
    context.close()


def test_the_policy_stops_what_a_mistake_would_let_through(browser: Browser, server: PageServer) -> None:
    context, page, _ = opened(browser, server)
    page.goto("/")
    blocked = page.evaluate(
        """async () => {
          const results = [];
          try { document.body.innerHTML += "<b>x</b>"; } catch (error) { results.push(error.name); }
          const script = document.createElement("script");
          try { script.textContent = "window.ran = true"; } catch (error) { results.push(error.name); }
          document.body.append(script);
          await fetch("http://127.0.0.1:9/").catch(error => results.push(error.name));
          return [results, window.ran === true];
        }"""
    )
    assert blocked == [["TypeError", "TypeError", "TypeError"], False]
    context.close()
