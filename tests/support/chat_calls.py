"""Requests to the chat port's app in this process, and hubs that answer them from a script."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import httpx
from PIL import Image

from batch.api.app import create_app
from batch.queue.jobs import Kind
from batch.settings import Settings
from scripted_hub import TIMINGS, USAGE, ScriptedHub, answer

HELLO = [{"role": "user", "content": "Hello"}]


def call(hub: ScriptedHub, method: str, path: str, content: bytes | str | None = None, **settings: Any) -> httpx.Response:
    """One request to the chat app in this process."""

    async def ask() -> httpx.Response:
        app = create_app(Kind.VLM, hub, Settings(**settings))  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, content=content)

    return asyncio.run(ask())


def post(hub: ScriptedHub, path: str, body: Any, **settings: Any) -> httpx.Response:
    """One POST; a str or bytes body goes as it is."""
    return call(hub, "POST", path, body if isinstance(body, (bytes, str)) else json.dumps(body), **settings)


def says(*items: Any) -> ScriptedHub:
    """A hub whose every job plays these items."""
    return ScriptedHub(lambda draft: [{"type": "started"}, *items])


def chat(body: dict[str, Any], hub: ScriptedHub | None = None, **settings: Any) -> httpx.Response:
    return post(hub or says(answer("Hi")), "/v1/chat/completions", {"messages": HELLO, **body}, **settings)


def job_of(body: dict[str, Any]) -> dict[str, Any]:
    """The job that a chat body becomes."""
    hub = says(answer("Hi"))
    reply = chat(body, hub)
    assert reply.status_code == 200, reply.text
    return hub.requests[0]


def chunks(reply: httpx.Response) -> list[Any]:
    """The JSON of a stream's data lines; [DONE] as that string."""
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def png(width: int = 8, height: int = 8) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    """A tool_choice that allows some of the tools."""
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def with_image(url: str) -> dict[str, Any]:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": parts}]}


def streamed(hub: ScriptedHub, **body: Any) -> list[Any]:
    reply = chat({"stream": True, **body}, hub)
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream"), reply.text
    return chunks(reply)


def spoken(text: str, finish: str = "stop", **more: Any) -> dict[str, Any]:
    stop = {"stop_type": "limit" if finish == "length" else "word" if "stopping_word" in more else "eos"}
    return {
        "choices": [{"index": 0, "text": text, "finish_reason": finish, **stop, **more}],
        "usage": USAGE,
        "timings": TIMINGS,
    }


def native_hub(*items: Any) -> ScriptedHub:
    *events, result = items
    return says({"type": "prompt", "tokens": 2}, *events, {**result, "prompt": "<bos>Hello"})
