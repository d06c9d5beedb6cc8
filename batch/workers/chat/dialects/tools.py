"""The functions a request offers, and whether and which of them must be called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from batch.errors import BadRequest

_MOST = 512
_LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class OfferedFunction:
    name: str
    parameters: Any
    """JSON Schema of its arguments; {} when it takes what it likes."""
    where: str
    """The request's field that describes it."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Checked tools and tool_choice."""

    mode: Literal["none", "auto", "required"]
    functions: tuple[OfferedFunction, ...]
    """Those that may be called: none with mode "none", one when tool_choice names it."""

    @classmethod
    def read(cls, tools: Any, choice: Any) -> Tools:
        """From OpenAI's `tools` and `tool_choice`. Raises BadRequest naming the field."""
        functions = _functions(tools)
        if isinstance(choice, Mapping):
            return _named(functions, choice)
        if choice not in (None, "auto", "none", "required"):
            raise BadRequest('tool_choice must be "auto", "none", "required" or an object that names a function.')
        if choice == "required" and not functions:
            raise BadRequest('tool_choice is "required", but tools is empty.')
        if choice == "none" or not functions:
            return cls("none", ())
        return cls("required" if choice == "required" else "auto", functions)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(f.name for f in self.functions)


def _functions(tools: Any) -> tuple[OfferedFunction, ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise BadRequest("tools must be a list.")
    if len(tools) > _MOST:
        raise BadRequest(f"tools must not hold more than {_MOST} functions.")
    found: dict[str, OfferedFunction] = {}
    for i, tool in enumerate(tools):
        where = f"tools[{i}]"
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
            raise BadRequest(f'{where} must be {{"type": "function", "function": {{…}}}}.')
        name = function.get("name")
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            raise BadRequest(f"{where}.function.name must be a string of 1 to {_LONGEST_NAME} characters.")
        if set(name) & set('{}<>|" \t\r\n') or not name.isprintable():
            raise BadRequest(f'{where}.function.name must hold neither spaces nor any of {{}}<>|".')
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise BadRequest(f"{where}.function.parameters must be an object.")
        if name in found:
            raise BadRequest(f"{where}.function.name {name!r} is there twice.")
        found[name] = OfferedFunction(name, parameters or {}, f"{where}.function.parameters")
    return tuple(found.values())


def _named(functions: tuple[OfferedFunction, ...], choice: Mapping[str, Any]) -> Tools:
    if choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        listed = allowed.get("tools") if isinstance(allowed, Mapping) else None
        names = [_name(t) for t in listed] if isinstance(listed, list) else []
        mode = "required" if isinstance(allowed, Mapping) and allowed.get("mode") == "required" else "auto"
    else:
        names, mode = [_name(choice)], "required"
    known = {f.name: f for f in functions}
    for name in names:
        if name not in known:
            raise BadRequest(f"tool_choice names the function {name!r}, which is not in tools.")
    if not names:
        raise BadRequest("tool_choice must name a function of tools.")
    return Tools("required" if mode == "required" else "auto", tuple(known[n] for n in dict.fromkeys(names)))


def _name(choice: Any) -> str:
    if not isinstance(choice, Mapping):
        return ""
    function = choice.get("function", choice)
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else ""
