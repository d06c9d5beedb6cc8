"""The openai JavaScript package and `fetch` against the live ports, on Node."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from javascript import needs_node, run_script
from paths import DATA
from running_service import RunningService

pytestmark = needs_node


@pytest.fixture(scope="module")
def told(service: RunningService) -> dict[str, Any]:
    """What tests/js/clients.mjs saw."""
    return run_script("clients.mjs", {"BASE_URL": service.url("vlm"), "IMAGE": str(DATA / "sample-red-circle.png")})


def text(answer: dict[str, Any]) -> str:
    content: str = answer["choices"][0]["message"]["content"]
    return content


def test_the_promised_fetch_example_runs(told: dict[str, Any]) -> None:
    assert text(told["fetch"]) == "Hello! Send me a picture."


def test_javascript_chats_about_text_and_pictures(told: dict[str, Any]) -> None:
    assert text(told["chat"]) == "Hello! Send me a picture."
    assert text(told["image"]) == "a red circle"


def test_javascript_reads_a_stream(told: dict[str, Any]) -> None:
    assert told["stream"] == told["helper"] == "Hello! Send me a picture."
    assert told["streamUsage"]["completion_tokens"] > 0


def test_javascript_gets_tool_calls(told: dict[str, Any]) -> None:
    choice = told["tool"]["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls" and call["function"]["name"] == "look"
    assert isinstance(json.loads(call["function"]["arguments"])["deep"], bool)


def test_javascript_gets_responses(told: dict[str, Any]) -> None:
    assert told["response"]["output_text"] == "Hello! Send me a picture."
    assert told["events"][0] == "response.created" and told["events"][-1] == "response.completed"


def test_javascript_sees_our_errors(told: dict[str, Any]) -> None:
    assert told["error"]["status"] == 400 and told["error"]["type"] == "invalid_request_error"
    assert "temperature" in told["error"]["message"]


def test_the_embedding_and_speech_ports_through_the_javascript_package(service: RunningService) -> None:
    ports = {"EMBEDDING_URL": service.url("embedding"), "STT_URL": service.url("stt")}
    found = run_script("vectors-and-speech.mjs", {**ports, "SOUND": str(DATA / "jfk.wav")})
    assert found["lengths"] == [384] * 3 and abs(found["norm"] - 1) < 1e-5
    assert found["tooLong"][:2] == ["BadRequestError", 400] and "602 tokens" in found["tooLong"][2]
    for said in (found["text"], found["streamed"], found["fetched"]):
        assert "what you can do for your country" in said
    assert found["last"] == "transcript.text.done"


# -- stream helpers, the Vercel AI SDK, Anthropic's package, one address for everything


@pytest.fixture(scope="module")
def helped(service: RunningService) -> dict[str, Any]:
    """What tests/js/helpers.mjs saw."""
    return run_script("helpers.mjs", {"BASE_URL": service.url("vlm"), "SOUND": str(DATA / "jfk.wav")})


GREETING = "Hello! Send me a picture."


def test_openai_nodes_helper_follows_a_stream_of_thinking_text_and_calls(helped: dict[str, Any]) -> None:
    assert helped["plain"]["text"] == helped["thinking"]["text"] == helped["summarized"]["text"] == GREETING
    assert helped["thinking"]["items"] == [["reasoning", "completed"], ["message", "completed"]]
    assert helped["thinking"]["thought"] and helped["summarized"]["summary"] == helped["thinking"]["thought"]
    assert helped["thinking"]["events"][-1] == helped["plain"]["events"][-1] == "response.completed"
    assert helped["cut"]["status"] == "incomplete" and helped["cut"]["events"][-1] == "response.incomplete"
    assert isinstance(json.loads(helped["called"]["call"])["deep"], bool)


def test_a_custom_tools_text_follows_its_grammar_in_the_stream_helper(helped: dict[str, Any]) -> None:
    assert re.fullmatch("go [a-z]{2,4}", helped["custom"]["input"])
    assert "response.custom_tool_call_input.done" in helped["custom"]["events"]


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_the_vercel_ai_sdk_generates_streams_and_calls(helped: dict[str, Any], api: str) -> None:
    told = helped[f"ai-{api}"]
    assert told["whole"] == told["text"] == GREETING and told["finish"] == "stop" and told["tokens"] > 0
    assert told["parts"][0] == "start" and told["parts"][-1] == "finish" and "error" not in told["parts"]
    ((name, arguments),) = told["calls"]
    assert name == "look" and isinstance(arguments["deep"], bool)


def test_the_vercel_ai_sdk_shows_the_reasoning_as_a_summary(helped: dict[str, Any]) -> None:
    assert helped["ai-reasoning"]["text"] and helped["ai-reasoning"]["reasoning"]


def test_anthropics_package_gets_text_first_and_thinking_when_it_asks(helped: dict[str, Any]) -> None:
    assert helped["claude"] == {"first": GREETING, "kinds": ["thinking", "text"]}


def test_one_address_serves_vectors_and_speech_too(helped: dict[str, Any]) -> None:
    told = helped["everything"]
    assert told["lengths"] == told["many"] == [384, 384] and told["any"] == "gpt-4o" and len(told["models"]) == 3
    assert "what you can do for your country" in told["said"]
