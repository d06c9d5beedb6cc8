"""JSON Schemas of the nested parts of requests, for /openapi.json: the bodies read them by hand, as errors name the part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}


def an_object(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def a_list(items: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": items, **({"minItems": least} if least else {})}


def one_of(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


_PICTURE: Schema = {"type": "string", "pattern": "^data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]{0,400}$"}
_PARTS = a_list(
    {
        "anyOf": [
            an_object("type", "text", type=one_of("text"), text=_TEXT),
            an_object("type", "image_url", type=one_of("image_url"), image_url=an_object("url", url=_PICTURE)),
        ]
    }
)
_CONTENT: Schema = {"anyOf": [_TEXT, _PARTS]}
_FUNCTION = an_object(
    "name",
    name={"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
    description=_TEXT,
    parameters=an_object(type=one_of("object"), properties={"type": "object"}),
)
_CALL = an_object("function", id=_TEXT, type=one_of("function"), function=an_object("name", name=_TEXT, arguments=_TEXT))

CHAT_MESSAGES = a_list(
    {
        "anyOf": [
            an_object("role", "content", role=one_of("system", "developer", "user"), content=_CONTENT),
            an_object(
                "role",
                "content",
                role=one_of("assistant"),
                content=_CONTENT,
                reasoning_content=_TEXT,
                tool_calls=a_list(_CALL, 1),
            ),
            an_object("role", "content", "tool_call_id", role=one_of("tool"), content=_TEXT, tool_call_id=_TEXT),
        ]
    },
    1,
)
"""OpenAI's chat messages."""

_CUSTOM = an_object("name", name={"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}, description=_TEXT)
CHAT_TOOLS = a_list(
    {
        "anyOf": [
            an_object("function", type=one_of("function"), function=_FUNCTION),
            an_object("type", "custom", type=one_of("custom"), custom=_CUSTOM),
        ]
    }
)

_BLOCKS = a_list(
    {
        "anyOf": [
            an_object("type", "text", type=one_of("text"), text=_TEXT),
            an_object(
                "type",
                "source",
                type=one_of("image"),
                source=an_object("type", "media_type", "data", type=one_of("base64"), media_type=_TEXT, data=_TEXT),
            ),
            an_object("type", "tool_use_id", type=one_of("tool_result"), tool_use_id=_TEXT, content=_TEXT),
            an_object("type", "id", "name", "input", type=one_of("tool_use"), id=_TEXT, name=_TEXT, input={"type": "object"}),
        ]
    }
)
MESSAGES = a_list(an_object("role", "content", role=one_of("user", "assistant"), content={"anyOf": [_TEXT, _BLOCKS]}), 1)
"""Anthropic's messages."""

MESSAGES_TOOLS = a_list(an_object("name", "input_schema", name=_TEXT, description=_TEXT, input_schema={"type": "object"}))

RESPONSES_INPUT: Schema = {
    "anyOf": [
        _TEXT,
        a_list(
            {
                "anyOf": [
                    an_object(
                        "role",
                        "content",
                        role=one_of("system", "user", "assistant", "developer"),
                        content={
                            "anyOf": [
                                _TEXT,
                                a_list(
                                    {
                                        "anyOf": [
                                            an_object("type", "text", type=one_of("input_text", "output_text"), text=_TEXT),
                                            an_object("type", "image_url", type=one_of("input_image"), image_url=_PICTURE),
                                        ]
                                    }
                                ),
                            ]
                        },
                    ),
                    an_object(
                        "type",
                        "call_id",
                        "name",
                        "arguments",
                        type=one_of("function_call"),
                        call_id=_TEXT,
                        name=_TEXT,
                        arguments=_TEXT,
                    ),
                    an_object("type", "call_id", "output", type=one_of("function_call_output"), call_id=_TEXT, output=_TEXT),
                ]
            },
            1,
        ),
    ]
}

RESPONSES_TOOLS = a_list(an_object("type", "name", type=one_of("function"), name=_TEXT, parameters={"type": "object"}))

PROMPT: Schema = {"anyOf": [_TEXT, a_list({"anyOf": [_TEXT, {"type": "integer", "minimum": 0, "maximum": 1000}]}, 1)]}
"""A text, or texts and tokens."""

NOTHING: Schema = {"requestBody": {"required": False, "content": {"application/json": {"schema": {"type": "object"}}}}}
"""`openapi_extra` of a route that refuses whatever it is sent."""


def form_schema(properties: Mapping[str, Any], required: tuple[str, ...]) -> Schema:
    """The `openapi_extra` of a route that takes a multipart form."""
    schema = {"type": "object", "required": list(required), "properties": dict(properties)}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
