"""The functions that a chat offers, and which of them must be called: checked once, for every API's own form of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from batch.api.json_body import JsonObject, quoted
from batch.errors import BadRequest
from batch.payloads.chat import Function, JsonSchema, NamedToolChoice, Tool, ToolChoice

MAX_TOOLS = 512
MAX_NAME_CHARS = 256
"""Longest name of a function: far above OpenAI's 64 and Anthropic's 128, as Model Context Protocol servers join names."""
MAX_DESCRIPTION_CHARS = 1 << 18

_FORBIDDEN_IN_NAME = re.compile(r'[{}<>|"\s]')
"""Characters that end a name in a model's own call syntax."""


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function as a request describes it, and where it does so."""

    name: Any
    description: Any
    parameters: Any
    strict: Any = None
    path: str = "tools[0]"
    """The request's field that holds the three."""
    parameters_field: str = "parameters"
    """The API's own word for the parameters' schema."""
    is_custom: bool = False
    lark: str | None = None


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """Checked tools and tool_choice."""

    tools: list[Tool] = field(default_factory=list)
    choice: ToolChoice = "auto"
    parallel: bool = True
    """Whether one answer may hold several calls."""


def read_functions(functions: Iterable[FunctionTool]) -> list[Tool]:
    """Checked tools in their order. Raises BadRequest naming the field."""
    tools: list[Tool] = []
    names: dict[str, str] = {}
    for function in functions:
        tool = _read_function(function)
        name = tool.function.name
        if name in names:
            raise BadRequest(
                f"Field '{function.path}.name': {names[name]} is named {quoted(name)} already",
                param=f"{function.path}.name",
            )
        names[name] = function.path
        tools.append(tool)
        if len(tools) > MAX_TOOLS:
            raise BadRequest(f"Field 'tools': should hold at most {MAX_TOOLS} functions", param="tools")
    return tools


def _read_function(function: FunctionTool) -> Tool:
    path, name = f"{function.path}.name", function.name
    if not isinstance(name, str) or not name:
        raise BadRequest(f"Field '{path}': should be the function's name", param=path)
    if len(name) > MAX_NAME_CHARS:
        raise BadRequest(f"Field '{path}': should hold at most {MAX_NAME_CHARS} characters", param=path)
    if _FORBIDDEN_IN_NAME.search(name) or not name.isprintable():
        raise BadRequest(f"Field '{path}': should hold neither spaces nor any of {{}}<>|\", not {quoted(name)}", param=path)
    description = function.description
    if description is not None and not isinstance(description, str):
        path = f"{function.path}.description"
        raise BadRequest(f"Field '{path}': should be a string", param=path)
    if description is not None and len(description) > MAX_DESCRIPTION_CHARS:
        path = f"{function.path}.description"
        raise BadRequest(f"Field '{path}': should hold at most {MAX_DESCRIPTION_CHARS} characters", param=path)
    return Tool(
        function=Function(
            name=name,
            description=description,
            parameters=_parameters(function),
            strict=function.strict if isinstance(function.strict, bool) else None,
            is_custom=function.is_custom,
            lark=function.lark,
        )
    )


def _parameters(function: FunctionTool) -> JsonSchema | None:
    parameters = function.parameters
    if parameters is not None and not isinstance(parameters, dict):
        path = f"{function.path}.{function.parameters_field}"
        raise BadRequest(f"Field '{path}': should be a JSON Schema object", param=path)
    return parameters


def offer_tools(
    tools: Sequence[Tool],
    mode: Literal["auto", "none", "required"] = "auto",
    *,
    required_name: str | None = None,
    allowed: Sequence[str] | None = None,
    parallel: bool | None = None,
) -> ToolOffer:
    """Tools and the choice among them: `required_name` is the one that must be called, `allowed` the ones that may be.

    Raises BadRequest naming tool_choice.
    """
    names = {tool.function.name for tool in tools}
    for name in (*([required_name] if required_name is not None else ()), *(allowed or ())):
        if name not in names:
            raise BadRequest(f"Field 'tool_choice': no tool is named {quoted(name)}", param="tool_choice")
    offered = [tool for tool in tools if allowed is None or tool.function.name in allowed]
    if mode == "required" and not offered:
        raise BadRequest("Field 'tool_choice': a call is required, but there are no tools to call", param="tool_choice")
    choice: ToolChoice = NamedToolChoice(name=required_name) if required_name is not None else mode
    return ToolOffer(offered, choice, parallel is not False)


def read_openai_choice(tools: Sequence[Tool], choice: object, parallel: bool | None) -> ToolOffer:
    """Tools under OpenAI's tool_choice: a word, a named function, or allowed_tools.

    The chat form puts names into an object called "function", the Responses form does not; both are taken.
    """
    if choice is None:
        return offer_tools(tools, parallel=parallel)
    if isinstance(choice, dict):
        if choice.get("type") == "allowed_tools":
            mode, allowed = _allowed_tools(choice)
            return offer_tools(tools, mode, allowed=allowed, parallel=parallel)
        if choice.get("type", "function") not in ("function", "custom"):
            raise BadRequest(
                f"Field 'tool_choice.type': should be function, custom or allowed_tools, not {quoted(str(choice['type']))}",
                param="tool_choice.type",
            )
        return offer_tools(tools, required_name=_chosen_name(choice), parallel=parallel)
    if choice == "auto" or choice == "none" or choice == "required":
        return offer_tools(tools, choice, parallel=parallel)
    raise BadRequest(
        "Field 'tool_choice': should be auto, none, required or an object that names a function", param="tool_choice"
    )


def _allowed_tools(choice: JsonObject) -> tuple[Literal["auto", "required"], list[str]]:
    allowed = choice.get("allowed_tools", choice)
    listed = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(listed, list):
        raise BadRequest(
            "Field 'tool_choice.allowed_tools': should be an object with a list of tools", param="tool_choice.allowed_tools"
        )
    names = [_chosen_name(item) for item in listed]
    match allowed.get("mode"):
        case None | "auto":
            return "auto", names
        case "required":
            return "required", names
    raise BadRequest(
        "Field 'tool_choice.allowed_tools.mode': should be auto or required", param="tool_choice.allowed_tools.mode"
    )


def _chosen_name(choice: object) -> str:
    function = choice.get("function", choice.get("custom", choice)) if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise BadRequest("Field 'tool_choice': should name a function of 'tools'", param="tool_choice")
    return name
