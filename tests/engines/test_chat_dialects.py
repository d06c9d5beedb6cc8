"""Other models' ways of writing through the whole engine: a real small model under their chat templates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlm_setup
from batch.workers.chat.engine import VlmEngine
from batch.workers.llama.model import Model
from vlm_setup import chat, deltas

SHAPE = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "blue"]},
        "sides": {"type": "integer", "minimum": 0, "maximum": 9},
        "round": {"type": "boolean"},
        "name": {"type": "string", "maxLength": 12},
    },
    "required": ["colour", "sides", "round", "name"],
    "additionalProperties": False,
}
TOOLS = [{"function": {"name": "paint", "description": "p", "parameters": SHAPE}}]
TEMPLATES = (
    "Qwen3-Coder",
    "GLM-4.6",
    "moonshotai-Kimi-K2",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "Mistral-Small-3.2-24B-Instruct-2506",
    "meta-llama-Llama-3.1-8B-Instruct",
    "openai-gpt-oss-120b",
    "meetkai-functionary-medium-v3.2",
    "LFM2.5-8B-A1B",
)


@pytest.fixture(params=TEMPLATES)
def engine(
    request: pytest.FixtureRequest, llama_cpp_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VlmEngine]:
    """The tiny model, which believes that its file carries another model's template."""
    source = (llama_cpp_source / "models/templates" / f"{request.param}.jinja").read_text()
    monkeypatch.setattr(Model, "chat_template", lambda self: source)
    engine = vlm_setup.loaded(tmp_path, parallel=1)
    yield engine
    engine.close()


def test_a_required_call_comes_out_as_one_that_fits_the_schema(engine: VlmEngine, tmp_path: Path) -> None:
    for choice in ("required", {"name": "paint"}):
        work = chat(
            tmp_path,
            "Paint.",
            tools=TOOLS,
            tool_choice=choice,
            parallel_tool_calls=False,
            reasoning_budget=8,
            generation={"max_tokens": 400},
        )
        result = vlm_setup.run(engine, work)
        choice_result = result.choices[0]
        assert choice_result.finish_reason in ("tool_calls", "stop")
        assert choice_result.message is not None and choice_result.message.content == ""
        (call,) = choice_result.message.tool_calls
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "paint" and list(arguments) == ["colour", "sides", "round", "name"]
        assert arguments["colour"] in ("red", "blue") and 0 <= arguments["sides"] <= 9
        assert isinstance(arguments["round"], bool) and len(arguments["name"]) <= 12
        told = [c.function.arguments or "" for d in deltas(work) for c in (d.delta.tool_calls if d.delta else ())]
        assert "".join(told) == call.function.arguments
