"""What the tests of the vision-language engine share: the tiny model, loaded, and works that ask it."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from batch.payloads.chat import ChatPayload, ChatResult
from batch.payloads.events import Delta
from batch.payloads.questions import (
    ApplyTemplate,
    CountTokens,
    Detokenize,
    Detokenized,
    EngineMetrics,
    ReadEngineMetrics,
    TemplateApplied,
    TokenCount,
    Tokenize,
    Tokenized,
)
from batch.queue.jobs import Kind, Priority
from batch.settings import Settings, VlmSettings
from batch.workers.chat.engine import VlmEngine
from batch.workers.chat.generation import Resources
from paths import DATA, TINY_GEMMA4V
from payloads import payload
from scripted_work import ScriptedWork

TINY = TINY_GEMMA4V


def settings(home: Path, **vlm: Any) -> Settings:
    given = {
        "model": str(TINY / "tiny-gemma4v-text-f16.gguf"),
        "threads": 1,
        "mmproj": str(TINY / "tiny-gemma4v-mmproj-f16.gguf"),
        **vlm,
    }
    return Settings(home=home, vlm=VlmSettings(**given))


def loaded(home: Path, **vlm: Any) -> VlmEngine:
    engine = VlmEngine(settings(home, **vlm))
    engine.load(lambda _: None)
    return engine


def run(engine: VlmEngine, work: ScriptedWork) -> ChatResult:
    """Run a job to its end, as the worker does: an engine may end bulk jobs itself."""
    result = engine.run(work)
    if result is None:
        if work.error is not None:
            raise work.error
        result = work.result
    assert isinstance(result, ChatResult)
    return result


def picture(folder: Path, name: str = "sample-red-circle.png") -> dict[str, Any]:
    """An image part, its file spooled in `folder`."""
    path = DATA / name
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    shutil.copy(path, folder / sha256)
    return {"type": "image", "blob": sha256}


def part(folder: Path, data: bytes) -> dict[str, Any]:
    """An image part of these bytes, spooled in `folder`."""
    sha256 = hashlib.sha256(data).hexdigest()
    (folder / sha256).write_bytes(data)
    return {"type": "image", "blob": sha256}


def drawn(folder: Path, width: int, height: int, colour: str = "red", form: str = "PNG") -> dict[str, Any]:
    """An image part: a circle in the middle of white."""
    image = Image.new("RGB", (width, height), "white")
    r = min(width, height) * 0.35
    ImageDraw.Draw(image).ellipse([width / 2 - r, height / 2 - r, width / 2 + r, height / 2 + r], fill=colour)
    out = io.BytesIO()
    image.save(out, form)
    return part(folder, out.getvalue())


def chat(
    folder: Path,
    content: Any,
    *,
    task: str = "chat",
    at: Mapping[int, Callable[[], object]] | None = None,
    priority: Priority = Priority.INTERACTIVE,
    watched: bool = True,
    messages: list[dict[str, Any]] | None = None,
    generation: Mapping[str, Any] | None = None,
    **request: Any,
) -> ScriptedWork:
    """A chat at temperature 0 with one user message, or with `messages`."""
    asked = {
        "messages": messages or [{"role": "user", "content": content}],
        "generation": {"temperature": 0.0, **(generation or {})},
        **request,
    }
    return ScriptedWork(folder, Kind.VLM, task, asked, at=at, priority=priority, watched=watched)


def bulk(folder: Path, text: Any, *, generation: dict[str, Any] | None = None, **more: Any) -> ScriptedWork:
    """A chat that nobody waits for on a socket."""
    priority = more.pop("priority", Priority.INBOX)
    return chat(folder, text, priority=priority, generation={"max_tokens": 200, **(generation or {})}, **more)


def together(engine: VlmEngine, works: list[ScriptedWork]) -> list[ScriptedWork]:
    """Run the first with the others waiting behind it."""
    works[0].waiting = works[1:]
    assert engine.run(works[0]) is None
    return works


def bulk_resources(engine: VlmEngine) -> Resources:
    """What the jobs that are computed together share."""
    scheduler = engine._open_scheduler()
    assert scheduler is not None
    return scheduler.resources


def completion(folder: Path, prompt: Any, *, generation: Mapping[str, Any] | None = None, **more: Any) -> ScriptedWork:
    asked = {"prompt": prompt, "generation": {"temperature": 0.0, **(generation or {})}, **more.pop("request", {})}
    return ScriptedWork(folder, Kind.VLM, "completion", asked, **more)


def deltas(work: ScriptedWork) -> list[Delta]:
    """All deltas that the engine emitted."""
    return [event for event in work.events if isinstance(event, Delta)]


def streamed(work: ScriptedWork, key: str = "content") -> str:
    """The text of all deltas of one kind, joined."""
    return "".join(getattr(event.delta, key) or "" for event in deltas(work))


def content(result: ChatResult, choice: int = 0) -> str:
    """The content of a choice's message."""
    message = result.choices[choice].message
    assert message is not None
    return message.content or ""


def written(result: ChatResult) -> list[tuple[str | None, str | None, str]]:
    """What a result says, for comparisons: (thinking, content, how it ended) of each choice."""
    return [(c.message.reasoning_content, c.message.content, c.finish_reason) for c in result.choices if c.message]


def tokenize(engine: VlmEngine, text: Any, **options: Any) -> list[Any]:
    """Token ids of a text, or its pieces."""
    answer = engine.ask(Tokenize(content=text, **options))
    assert isinstance(answer, Tokenized)
    return answer.tokens


def detokenize(engine: VlmEngine, tokens: list[Any]) -> str:
    """The text of tokens."""
    answer = engine.ask(Detokenize(tokens=tokens))
    assert isinstance(answer, Detokenized)
    return answer.content


def count(engine: VlmEngine, request: Mapping[str, Any]) -> TokenCount:
    """What the engine says of a request before it runs."""
    asked = payload("chat", request)
    assert isinstance(asked, ChatPayload)
    answer = engine.ask(CountTokens(payload=asked))
    assert isinstance(answer, TokenCount)
    return answer


def count_tokens(engine: VlmEngine, request: Mapping[str, Any]) -> int:
    """Tokens of a request's prompt."""
    return count(engine, request).tokens


def rendered(engine: VlmEngine, request: Mapping[str, Any]) -> str:
    """A request's prompt as text."""
    asked = payload("chat", request)
    assert isinstance(asked, ChatPayload)
    answer = engine.ask(ApplyTemplate(payload=asked))
    assert isinstance(answer, TemplateApplied)
    return answer.prompt


def metrics(engine: VlmEngine) -> EngineMetrics:
    """The engine's figures."""
    answer = engine.ask(ReadEngineMetrics())
    assert isinstance(answer, EngineMetrics)
    return answer
