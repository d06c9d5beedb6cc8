"""docs/http.md: every route with the keys of its body, from the OpenAPI document that the ports serve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from batch.api.routes import ROUTERS

_HEAD = """\
# HTTP

Every route of the three ports, as `/openapi.json` of each describes it (a client can be generated from that). All ports answer
all of them: 8080 with the chat model for `model`-less questions such as `/health`, 8081 with the embedding model, 8082 with the
speech model. Errors are OpenAI's `{"error": {"message", "type", "code", "param"}}`, on `/v1/messages` Anthropic's. This page is
made from `batch/api/`: after a change there run `make docs-pages`.
"""
_MAX_TYPE_CHARS = 60


def page() -> str:
    """The page as Markdown."""
    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router)
    parts = [_HEAD]
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            parts.append(f"\n## {method.upper()} {path}\n\n{_sentence(operation)}\n")
            if rows := list(_keys(operation)):
                parts.append("\n| key | type |\n|---|---|\n")
                parts += rows
    return "".join(parts)


def _sentence(operation: dict[str, Any]) -> str:
    return " ".join(str(operation.get("description") or operation["summary"]).split())


def _keys(operation: dict[str, Any]) -> Iterator[str]:
    for parameter in operation.get("parameters", ()):
        yield _row(parameter["name"], parameter["schema"], parameter["in"], is_required=parameter.get("required", False))
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        for name, key in schema.get("properties", {}).items():
            where = "form" if media.startswith("multipart") else ""
            yield _row(name, key, where, is_required=name in schema.get("required", ()))


def _row(name: str, schema: dict[str, Any], where: str, *, is_required: bool) -> str:
    notes = [note for note in ("required" if is_required else "", f"in the {where}" if where else "") if note]
    return f"| `{name}` | {', '.join([_type(schema), *notes])} |\n"


def _type(schema: dict[str, Any]) -> str:
    """A type in a word or two."""
    if "enum" in schema:
        text = ", ".join(f"`{value}`" for value in schema["enum"])
        return text if len(text) <= 4 * _MAX_TYPE_CHARS else "one of many words"
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            words = dict.fromkeys(_type(part) for part in schema[choice] if part.get("type") != "null")
            text = " or ".join(words)
            return text if len(text) <= _MAX_TYPE_CHARS or "`" in text else "several forms"
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_type(schema['items'])}" if schema.get("items") else "list"
    bounds = [
        f"{word} {schema[key]:g}" for key, word in (("minimum", "from"), ("maximum", "to")) if _is_telling(schema.get(key))
    ]
    return " ".join([str(kind or "any"), *bounds])


def _is_telling(bound: float | None) -> bool:
    """Whether a bound says something: not one that only keeps numbers within 32 or 64 bits."""
    return bound is not None and abs(bound) < 1e6
