"""LangChain and Outlines, whole, against the live ports."""

from __future__ import annotations

import re
from typing import Any, Literal

import openai
import outlines
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from outlines.types import CFG, Regex
from pydantic import BaseModel

from running_service import RunningService

GREETING = "Hello! Send me a picture."


class Shape(BaseModel):
    """What the model is to give."""

    sides: int
    kind: Literal["round", "square"]


@tool
def look(deep: bool) -> str:
    """Looks."""
    return f"seen, deep: {deep}"


@pytest.fixture(scope="module")
def model(service: RunningService) -> ChatOpenAI:
    # LangChain's own type of the key is a secret's; a text is what everybody writes.
    key: Any = "not-needed"
    return ChatOpenAI(base_url=service.url("vlm") + "/v1", api_key=key, model="gemma-4-e4b", temperature=0, max_retries=0)


def test_langchain_chats_whole_and_streamed(model: ChatOpenAI) -> None:
    assert model.invoke("Hello").content == GREETING
    assert "".join(str(chunk.content) for chunk in model.stream("Hello")) == GREETING


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_langchain_calls_a_tool_and_gives_back_what_it_said(model: ChatOpenAI, is_streamed: bool) -> None:
    bound = model.bind_tools([look], tool_choice="required")
    message: Any = None
    if is_streamed:
        for chunk in bound.stream("Hello"):
            message = chunk if message is None else message + chunk
    else:
        message = bound.invoke("Hello")
    (call,) = message.tool_calls
    assert call["name"] == "look" and isinstance(call["args"]["deep"], bool)
    result = ToolMessage(look.invoke(call["args"]), tool_call_id=call["id"])
    assert model.bind_tools([look]).invoke([HumanMessage("Hello"), message, result]).content


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_objects(model: ChatOpenAI, method: Literal["json_schema", "function_calling"]) -> None:
    assert isinstance(model.with_structured_output(Shape, method=method).invoke("Hello"), Shape)


def test_langchain_embeds_texts(service: RunningService) -> None:
    key: Any = "not-needed"
    embeddings = OpenAIEmbeddings(
        base_url=service.url("embedding") + "/v1", api_key=key, model="bge", check_embedding_ctx_length=False
    )
    vectors = embeddings.embed_documents(["one", "two"])
    assert [len(vector) for vector in vectors] == [384, 384] and vectors[0] != vectors[1]
    assert len(embeddings.embed_query("one")) == 384


@pytest.mark.parametrize("make", [outlines.from_openai, outlines.from_vllm], ids=["openai", "vllm"])
def test_outlines_gets_objects(service: RunningService, make: Any) -> None:
    client = openai.OpenAI(base_url=service.url("vlm") + "/v1", api_key="not-needed", max_retries=0)
    assert Shape.model_validate_json(make(client, "gemma-4-e4b")("Hello", Shape, max_tokens=300))


def test_outlines_gets_choices_expressions_and_grammars_as_from_vllm(service: RunningService) -> None:
    client = openai.OpenAI(base_url=service.url("vlm") + "/v1", api_key="not-needed", max_retries=0)
    ask = outlines.from_vllm(client, "gemma-4-e4b")
    assert ask("Hello", Literal["yes", "no"], max_tokens=100) in ("yes", "no")
    assert str(ask("Hello", Regex("[0-9]{3}"), max_tokens=100)).isdecimal()
    grammar = 'start: /[a-z]{2,4}/ " " DIGIT\n%import common.DIGIT'
    assert re.fullmatch("[a-z]{2,4} [0-9]", str(ask("Hello", CFG(grammar), max_tokens=100)))
