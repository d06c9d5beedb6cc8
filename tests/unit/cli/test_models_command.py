"""`batch models` and `batch models pull`, on the packaged model and with an empty models folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from batch.catalog import find_entry
from run_batch import RunBatch


def test_the_command_pulls_and_lists_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_batch: RunBatch) -> None:
    monkeypatch.setenv("BATCH_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    pulled = run_batch("models", "pull", "tiny-gemma4v", "--json")
    assert pulled.status == 0, pulled.err
    entry = find_entry("tiny-gemma4v")
    assert json.loads(pulled.out)[0] == {
        "name": "tiny-gemma4v",
        "fetched": False,
        "sha256": entry.files[0].sha256,
        "paths": {file.role: str(entry.path(file, tmp_path)) for file in entry.files},
    }
    assert "coloured shapes only" in pulled.err

    rows = {row["name"]: row for row in json.loads(run_batch("models", "--profile", "starter", "--json").out)}
    assert rows["tiny-gemma4v"]["in_use"] and rows["tiny-gemma4v"]["fetched"] and not rows["tiny-gemma4v"]["loaded"]
    assert rows["whisper-base"]["in_use"] and not rows["whisper-base"]["fetched"]
    assert "batch models pull whisper-base" in rows["whisper-base"]["problem"]

    shown = run_batch("models", "--profile", "starter").out
    assert "coloured shapes only" in shown and "Gemma Terms of Use" in shown

    refused = run_batch("models", "pull", "gemma-3-270m")
    assert refused.status == 1
    assert "ai.google.dev/gemma/terms" in refused.err and "--yes" in refused.err
    assert run_batch("models", "pull", "nix").err.startswith('batch: The catalogue has no model "nix"')
