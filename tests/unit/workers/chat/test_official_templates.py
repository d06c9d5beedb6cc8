"""The official chat templates that llama.cpp's source carries: read from the package, never committed."""

from __future__ import annotations

from pathlib import Path

from jinja2 import nodes

from batch.errors import BatchError
from batch.workers.chat.prompt.template import ChatTemplate
from batch.workers.chat.prompt.template_environment import template_environment
from batch.workers.chat.prompt.template_loops import end_searches
from property_examples import SHARE, example_files

PARAMETERS = {
    "type": "object",
    "properties": {
        "note": {"type": ["string", "null"], "description": "N"},
        "day": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "place": {"$ref": "#/$defs/Place"},
        "unit": {"const": "C"},
    },
    "$defs": {"Place": {"type": "string", "description": "P"}},
}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": PARAMETERS}}


def test_optional_and_referenced_parameters_keep_their_type_in_gemma_4s_template(llama_cpp_source: Path) -> None:
    source = (llama_cpp_source / "models/templates/google-gemma-4-31B-it.jinja").read_text()
    made = ChatTemplate(source, "<bos>").render([{"role": "user", "content": "x"}], tools=[TOOL])
    for name, kind in (("note", "STRING"), ("day", "INTEGER"), ("place", "STRING"), ("unit", "STRING")):
        declared = made.partition(f"{name}:{{")[2].partition("}")[0]
        assert f'type:<|"|>{kind}<|"|>' in declared, (name, declared)


def test_every_official_template_renders_a_conversation(llama_cpp_source: Path) -> None:
    paths = example_files((llama_cpp_source / "models/templates").glob("*.jinja"))
    assert len(paths) >= 60 * SHARE
    refused = []
    for path in paths:
        try:
            made = ChatTemplate(path.read_text(), "<s>", "</s>").render([{"role": "user", "content": "What is up?"}])
        except BatchError:
            refused.append(path.name)
            continue
        assert "What is up?" in made, path.name
    assert len(refused) <= 1, refused


def test_three_thousand_messages_render_in_the_official_template_that_looks_back_from_each(llama_cpp_source: Path) -> None:
    """It took 72 seconds, as it looked through all earlier messages for each one."""
    source = (llama_cpp_source / "models/templates/google-gemma-4-31B-it.jinja").read_text()
    messages = [{"role": "assistant" if number % 2 else "user", "content": f"number {number}"} for number in range(3001)]
    template = ChatTemplate(source, "<bos>")
    made = template.render(messages)  # 10 seconds are the most that it may take
    assert made.count("<|turn>") == 3002 and "number 3000" in made


def test_ended_searches_change_nothing_of_what_official_templates_render(llama_cpp_source: Path) -> None:
    call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "result", "tool_call_id": "call00001", "name": "f"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "second"},
        {"role": "assistant", "content": "", "tool_calls": [call, {**call, "id": "call00002"}]},
        {"role": "tool", "content": "one", "tool_call_id": "call00001", "name": "f"},
        {"role": "tool", "content": "two", "tool_call_id": "call00002", "name": "f"},
    ]
    changed = []
    for path in sorted((llama_cpp_source / "models/templates").glob("*.jinja")):
        searches = template_environment().parse(path.read_text())
        breaks = sum(1 for _ in searches.find_all(nodes.Break))
        end_searches(searches)
        if sum(1 for _ in searches.find_all(nodes.Break)) == breaks:
            continue
        changed.append(path.name)
        with_ends, without = ChatTemplate(path.read_text(), "<s>", "</s>"), ChatTemplate(path.read_text(), "<s>", "</s>")
        without._template = without._environment.from_string(without.source)
        assert _rendered(with_ends, turns) == _rendered(without, turns), path.name
    assert "google-gemma-4-31B-it.jinja" in changed


def _rendered(template: ChatTemplate, messages: list[dict[str, object]]) -> str:
    try:
        return template.render(messages)
    except BatchError as error:
        return error.message
