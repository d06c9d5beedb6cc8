"""The body of /v1/chat/completions and the chat job it stands for."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from batch.api import openapi_schemas as shapes
from batch.api.json_body import Choices, Int, ReasoningFormat, Sampling, Tokens
from batch.errors import BadRequest

ROLES = ("system", "developer", "user", "assistant", "tool")
_KEPT = ("role", "name", "tool_call_id", "reasoning_content")


class ChatBody(Sampling):
    """What a chat request may hold; `job_request` turns it into batch/payloads/'s ChatRequest."""

    messages: Annotated[list[dict[str, Any]], WithJsonSchema(shapes.CHAT_MESSAGES)]
    tools: Annotated[list[dict[str, Any]], WithJsonSchema(shapes.CHAT_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    n: Choices | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Int, Field(ge=0, le=1024)] | None = None
    reasoning_format: ReasoningFormat | None = None
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_budget_tokens: Tokens | None = None
    thinking_budget_tokens: Tokens | None = None

    def job_request(self) -> dict[str, Any]:
        """The job's request, its images still as image_url parts."""
        request: dict[str, Any] = {"messages": messages(self.messages), "generation": self._generation()}
        tools, choice = self._tools()
        if tools:
            request["tools"] = tools
            request["tool_choice"] = choice
            if self.parallel_tool_calls is not None:
                request["parallel_tool_calls"] = self.parallel_tool_calls
        self._think(request)
        if self.reasoning_format is not None:
            request["reasoning_format"] = self.reasoning_format
        if self.n is not None and self.n > 1:
            request["n"] = self.n
        return request

    def _generation(self) -> dict[str, Any]:
        drawn = self.generation()
        if self.response_format is not None:
            schema = _schema(self.response_format)
            if schema is not None and "grammar" in drawn:
                raise BadRequest("Cannot use both response_format and grammar", param="grammar")
            if schema is not None:
                drawn["json_schema"] = schema
        if self.logprobs:
            drawn |= {"logprobs": True, "n_probs": 20 if self.top_logprobs is None else self.top_logprobs}
        elif self.top_logprobs is not None:
            raise BadRequest("top_logprobs requires logprobs to be set to true", param="top_logprobs")
        return drawn

    def _tools(self) -> tuple[list[dict[str, Any]], str | dict[str, Any]]:
        tools = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(self.tools or [])]
        names = [tool["function"]["name"] for tool in tools]
        choice = "auto" if self.tool_choice is None else self.tool_choice
        if isinstance(choice, dict):
            if choice.get("type") == "allowed_tools":
                choice, wanted = _allowed(choice, names)
                tools = [tool for tool in tools if tool["function"]["name"] in wanted]
            else:
                choice = {"type": "function", "function": {"name": _known(choice, names)}}
        elif choice not in ("auto", "none", "required"):
            raise BadRequest(
                "Field 'tool_choice': should be auto, none, required or an object that names a function",
                param="tool_choice",
            )
        if choice == "required" and not tools:
            raise BadRequest("Field 'tool_choice': a call is required, but there are no tools to call", param="tool_choice")
        if tools and choice != "none" and self.grammar:
            raise BadRequest("Cannot use custom grammar constraints with tools.", param="grammar")
        return tools, choice

    def _think(self, request: dict[str, Any]) -> None:
        kwargs = dict(self.chat_template_kwargs or {})
        thinking = self.enable_thinking
        if (named := kwargs.pop("enable_thinking", None)) is not None:
            if not isinstance(named, bool):
                raise BadRequest(
                    "Field 'chat_template_kwargs.enable_thinking': should be true or false",
                    param="chat_template_kwargs.enable_thinking",
                )
            thinking = named
        if self.reasoning_effort == "none":
            thinking = False
            kwargs.pop("reasoning_effort", None)
        elif self.reasoning_effort:
            kwargs["reasoning_effort"] = self.reasoning_effort
        if thinking is not None:
            request["enable_thinking"] = thinking
        if kwargs:
            request["chat_template_kwargs"] = kwargs
        limits = (self.reasoning_budget_tokens, self.thinking_budget_tokens)
        budget = next((v for v in limits if v is not None), -1)
        if budget >= 0:
            request["reasoning_budget"] = budget


def _schema(response_format: dict[str, Any]) -> dict[str, Any] | bool | None:
    kind = response_format.get("type")
    if kind in (None, "", "text"):
        return None
    path = "response_format.schema"
    if kind == "json_object":
        schema = response_format.get("schema")
    elif kind == "json_schema":
        wrapper = response_format.get("json_schema")
        if not isinstance(wrapper, dict):
            raise BadRequest(
                "Field 'response_format.json_schema': should be an object with a schema",
                param="response_format.json_schema",
            )
        schema, path = wrapper.get("schema"), "response_format.json_schema.schema"
    else:
        raise BadRequest(
            f'response_format type must be one of "text", "json_object" or "json_schema", but got: {kind}',
            param="response_format.type",
        )
    if schema is not None and not isinstance(schema, (dict, bool)):
        raise BadRequest(f"Field '{path}': should be an object", param=path)
    return {} if schema is None else schema


def _chosen(choice: Any) -> Any:
    """The name in OpenAI's chat form {"function": {"name"}} or in the Responses form {"name"}."""
    if not isinstance(choice, dict):
        return None
    function = choice.get("function")
    return function.get("name") if isinstance(function, dict) else choice.get("name")


def _known(choice: Any, names: list[str]) -> str:
    name = _chosen(choice)
    if name not in names:
        raise BadRequest(f"Field 'tool_choice': no tool is named {json.dumps(name)}", param="tool_choice")
    return str(name)


def _allowed(choice: dict[str, Any], names: list[str]) -> tuple[str, list[str]]:
    """Mode and names of an allowed_tools choice, in OpenAI's chat form or in the flat one of Responses."""
    allowed = choice.get("allowed_tools", choice)
    listed = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(listed, list):
        raise BadRequest(
            "Field 'tool_choice.allowed_tools': should be an object with a list of tools",
            param="tool_choice.allowed_tools",
        )
    mode = "auto" if allowed.get("mode") is None else allowed["mode"]
    if mode not in ("auto", "required"):
        raise BadRequest(
            "Field 'tool_choice.allowed_tools.mode': should be auto or required", param="tool_choice.allowed_tools.mode"
        )
    return mode, [_known(item, names) for item in listed]


def _tool(tool: dict[str, Any], path: str) -> dict[str, Any]:
    if tool.get("type", "function") != "function":
        raise BadRequest(f"Field '{path}.type': only tools of type function can be called", param=f"{path}.type")
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise BadRequest(f"Field '{path}.function.name': should be the function's name", param=f"{path}.function.name")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise BadRequest(
            f"Field '{path}.function.parameters': should be a JSON Schema object", param=f"{path}.function.parameters"
        )
    kept = {k: v for k, v in function.items() if v is not None}
    return {"type": "function", "function": kept}


def messages(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with what the engine knows of them; BadRequest names what is wrong in which."""
    return [_message(message, f"messages[{at}]") for at, message in enumerate(given)]


def _message(given: dict[str, Any], path: str) -> dict[str, Any]:
    message = {k: v for k, v in given.items() if v is not None}
    role = message.get("role")
    if role not in ROLES:
        raise BadRequest(f"Field '{path}.role': should be one of {', '.join(ROLES)}", param=f"{path}.role")
    for key in _KEPT:
        if key in message and not isinstance(message[key], str):
            raise BadRequest(f"Field '{path}.{key}': should be a string", param=f"{path}.{key}")
    kept: dict[str, Any] = {key: message[key] for key in _KEPT if key in message}
    if "content" not in given and role != "assistant":
        raise BadRequest(f"Field '{path}': All non-assistant messages must contain 'content'", param=f"{path}.content")
    if "content" not in given and "tool_calls" not in message and "reasoning_content" not in message:
        raise BadRequest(
            f"Field '{path}': Assistant message must contain either 'content' or 'tool_calls'!", param=f"{path}.content"
        )
    content = message.get("content")
    if isinstance(content, list):
        kept["content"] = [_part(part, f"{path}.content[{at}]") for at, part in enumerate(content)]
    elif content is None or isinstance(content, str):
        kept["content"] = content
    else:
        raise BadRequest(f"Field '{path}.content': Expected 'content' to be a string or an array", param=f"{path}.content")
    if calls := message.get("tool_calls"):
        if not isinstance(calls, list):
            raise BadRequest(f"Field '{path}.tool_calls': should be an array", param=f"{path}.tool_calls")
        kept["tool_calls"] = [_call(call, f"{path}.tool_calls[{at}]") for at, call in enumerate(calls)]
    return kept


def _part(part: Any, path: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal"):
        if not isinstance(part.get(kind), str):
            raise BadRequest(f"Field '{path}.{kind}': should be a string", param=f"{path}.{kind}")
        return {"type": "text", "text": part[kind]}
    if kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if not isinstance(url, str):
            raise BadRequest(f"Field '{path}.image_url.url': should be a data: URL", param=f"{path}.image_url.url")
        return {"type": "image_url", "image_url": {"url": url}}
    if kind in ("input_audio", "input_video", "video_url"):
        raise BadRequest(
            f"Field '{path}': this model hears no sound and sees no video; sound goes to /inference on the speech port",
            param=path,
        )
    raise BadRequest(f"Field '{path}.type': unsupported content[].type; should be text or image_url", param=f"{path}.type")


def _call(call: Any, path: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequest(f"Field '{path}.function.name': should be the function's name", param=f"{path}.function.name")
    arguments = function.get("arguments")
    if arguments is None:
        arguments = "{}"
    if isinstance(arguments, dict):  # some clients send the object itself
        arguments = json.dumps(arguments, ensure_ascii=False)
    if not isinstance(arguments, str):
        raise BadRequest(f"Field '{path}.function.arguments': should be a string of JSON", param=f"{path}.function.arguments")
    kept = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    if isinstance(call.get("id"), str):
        kept["id"] = call["id"]
    return kept
