"""The official chat templates that llama.cpp's source carries: read from the package, never committed."""

from __future__ import annotations

from pathlib import Path

from batch.errors import BatchError
from batch.workers.chat.prompt.template import ChatTemplate

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
    paths = sorted((llama_cpp_source / "models/templates").glob("*.jinja"))
    assert len(paths) >= 60
    refused = []
    for path in paths:
        try:
            made = ChatTemplate(path.read_text(), "<s>", "</s>").render([{"role": "user", "content": "What is up?"}])
        except BatchError:
            refused.append(path.name)
            continue
        assert "What is up?" in made, path.name
    assert len(refused) <= 1, refused
