"""By what workers are known to draw the same tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batch.payloads.model_info import ChatModelInfo, EmbeddingModelInfo, SpeechModelInfo
from batch.workers import build
from batch.workers.build import build_of

MIB = 1 << 20


def chat(path: Path, **facts: Any) -> str:
    return build_of(ChatModelInfo(model="m", path=str(path), build="AVX2 = 1", **facts))


def test_the_same_weights_on_the_same_kind_of_machine_are_one_build_wherever_they_lie(tmp_path: Path) -> None:
    weights = bytes(range(256)) * (20 * MIB // 256)
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    for path in (one, two):
        path.write_bytes(weights)
    assert chat(one) == chat(two)
    assert "m, " in chat(one) and "llama-cpp-python " in chat(one)


def test_a_fine_tune_of_the_same_name_and_size_another_cache_or_other_instructions_are_another_build(tmp_path: Path) -> None:
    path, tuned, projector = tmp_path / "one.gguf", tmp_path / "tuned.gguf", tmp_path / "mmproj.gguf"
    path.write_bytes(bytes(20 * MIB))
    tuned.write_bytes(bytes(10 * MIB) + b"\1" * (10 * MIB))
    projector.write_bytes(b"eyes")
    builds = [
        chat(path),
        chat(tuned),
        chat(path, mmproj=str(projector)),
        chat(path, kv_cache="q8_0"),
        chat(path, repacked=False),
        chat(path, gpu=True),
        build_of(ChatModelInfo(model="m", path=str(path), build="AVX512 = 1")),
        build_of(EmbeddingModelInfo(model="m", path=str(path))),
        build_of(SpeechModelInfo(model="m", path=str(path))),
    ]
    assert len(set(builds)) == len(builds)


def test_a_library_whose_source_was_changed_is_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BUILD_NOTE", tmp_path / "note.json")
    path = tmp_path / "one.gguf"
    path.write_bytes(b"x")
    builds = [chat(path)]
    for note in ("{}", "[]", "torn", '{"llama-cpp-python": {"variant": "for this processor"}}'):
        build.BUILD_NOTE.write_text(note)
        assert chat(path) == builds[0]
    for changes in ("1a2b", "3c4d"):
        build.BUILD_NOTE.write_text(json.dumps({"llama-cpp-python": {"changes": changes}}))
        builds.append(chat(path))
        assert f" changed by {changes}, " in builds[-1]
        assert changes not in build_of(SpeechModelInfo(model="m", path=str(path)))
    assert len(set(builds)) == 3


def test_small_files_and_models_without_one_have_a_build_too(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    builds = set()
    for content in (b"", b"x", b"y"):
        path.write_bytes(content)
        builds.add(chat(path))
    builds.add(chat(tmp_path / "none.gguf"))
    assert len(builds) == 4
