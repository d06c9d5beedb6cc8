"""What the tests of the vision-language engine share: the tiny model, loaded, and works that ask it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from batch.queue.jobs import Kind, Priority
from batch.settings import Settings, VlmSettings
from batch.workers.chat.engine import VlmEngine
from paths import DATA, TINY_GEMMA4V
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


def picture(folder: Path, name: str = "sample-red-circle.png") -> dict[str, Any]:
    """An image part, its file spooled in `folder`."""
    path = DATA / name
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    shutil.copy(path, folder / sha256)
    return {"type": "image", "blob": sha256}


def chat(
    folder: Path,
    content: Any,
    *,
    task: str = "chat",
    at: Mapping[int, Callable[[], object]] | None = None,
    priority: Priority = Priority.CALLER,
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


def completion(folder: Path, prompt: Any, *, generation: Mapping[str, Any] | None = None, **more: Any) -> ScriptedWork:
    asked = {"prompt": prompt, "generation": {"temperature": 0.0, **(generation or {})}, **more.pop("request", {})}
    return ScriptedWork(folder, Kind.VLM, "completion", asked, **more)


def told(work: ScriptedWork, key: str = "content") -> str:
    """The text of all deltas of one kind, joined."""
    return "".join(e["delta"].get(key) or "" for e in work.events if e["type"] == "delta")


def content(result: Mapping[str, Any], choice: int = 0) -> str:
    return str(result["choices"][choice]["message"]["content"])
