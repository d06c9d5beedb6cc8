"""Models that were fetched and converted here are the published ones."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from batch.catalog import find_entry, resolve
from batch.catalog.pull import pull
from batch.model_kind import Kind
from batch.settings import Settings
from paths import DATA as TESTDATA


def test_the_converted_embedding_model_agrees_with_transformers() -> None:
    """The reference vectors were made by transformers 5.23 in f32 from the same weights."""
    code = """
import json, sys, numpy as np
from llama_cpp import Llama
from batch.catalog import resolve
from batch.model_kind import Kind
from batch.settings import Settings
path = resolve(Settings(embedding={"model": "all-minilm-l6-v2"}), Kind.EMBEDDING).path
model = Llama(str(path), embedding=True, n_ctx=512, n_batch=512, n_ubatch=512, n_threads=1, n_threads_batch=1,
              verbose=False)
texts = json.load(sys.stdin)
print(json.dumps([[model.tokenize(text.encode(), add_bos=True), model.embed(text)] for text in texts]))
"""
    reference = json.loads((TESTDATA / "minilm-reference.json").read_text("utf-8"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([item["text"] for item in reference]),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )
    for item, (tokens, vector) in zip(reference, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert tokens == item["tokens"]
        ours = np.array(vector) / np.linalg.norm(vector)
        theirs = np.frombuffer(base64.b64decode(item["vector"]), "<f4")
        assert ours @ theirs >= 0.99999


def test_whisper_base_is_the_published_file() -> None:
    """Byte for byte what whisper.cpp publishes: its own list names this SHA-1."""
    path = resolve(Settings(stt={"model": "whisper-base"}), Kind.STT).path
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha1").hexdigest() == "465707469ff3a37a2b9b8d8f89f2f99de7299dac"


def test_a_copied_models_folder_works_without_its_records(tmp_path: Path) -> None:
    source = resolve(Settings(stt={"model": "whisper-base"}), Kind.STT).path
    (tmp_path / "models").mkdir()
    shutil.copyfile(source, tmp_path / "models" / source.name)
    assert (
        resolve(Settings(home=tmp_path, models_dir=tmp_path / "models", profile="starter"), Kind.STT).sha256
        == find_entry("whisper-base").files[0].sha256
    )


def test_the_starter_models_are_what_a_pull_leaves() -> None:
    """`make test` has pulled them, so that a second pull has nothing to do."""
    settings = Settings(profile="starter")
    for kind in ("vlm", "embedding", "stt"):
        name = resolve(settings, kind).name
        assert pull(find_entry(name), settings, lambda *_: None, lambda entry: False) is False
