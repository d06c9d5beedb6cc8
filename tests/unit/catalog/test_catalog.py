"""The catalogue, where models are looked for, and what is refused."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batch.catalog import configured, entries, find_entry, look, profile, resolve, vad
from batch.catalog.entry import DATA
from batch.catalog.fetched import Record, read_record, write_record
from batch.errors import ModelProblem
from batch.model_kind import Kind
from batch.settings import Settings


def settings(tmp_path: Path, **values: object) -> Settings:
    return Settings(**{"home": tmp_path, "models_dir": tmp_path / "models", **values})


def toy(folder: Path, name: str, content: bytes = b"GGUF rest") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def test_every_profile_has_a_model_for_each_kind() -> None:
    for name in ("default", "starter"):
        models = profile(name)
        assert {"vlm", "embedding", "stt"} <= set(models)
        assert all(entry.kind == kind for kind, entry in models.items())


def test_every_model_says_its_licence_and_what_it_can_do() -> None:
    for entry in entries():
        assert entry.licence.name and entry.licence.url.startswith("https://")
        assert len(entry.notes) > 20
    assert "coloured shapes only" in find_entry("tiny-gemma4v").notes


def test_every_wheel_is_pinned_by_sha256() -> None:
    wheels = [wheel for entry in entries() for source in entry.sources for wheel in source.wheels]
    assert len(wheels) >= 7
    assert all(re.fullmatch("[0-9a-f]{64}", wheel.sha256) for wheel in wheels)


def test_gemma_terms_are_asked_for() -> None:
    assert find_entry("gemma-3-270m").licence.ask


def test_the_packaged_model_is_the_published_one() -> None:
    for line in (DATA / "tiny-gemma4v" / "SHA256SUMS").read_text().splitlines():
        sha256, name = line.split()
        assert hashlib.sha256((DATA / "tiny-gemma4v" / name).read_bytes()).hexdigest() == sha256
        assert sha256 in {file.sha256 for file in find_entry("tiny-gemma4v").files}


def test_the_starter_vision_model_resolves_without_a_pull(tmp_path: Path) -> None:
    found = resolve(settings(tmp_path, profile="starter"), Kind.VLM)
    assert found.name == "tiny-gemma4v"
    assert found.path.is_file() and found.mmproj and found.mmproj.is_file()


def test_gemma_4_is_sampled_as_its_makers_advise() -> None:
    assert find_entry("gemma-4-e4b").sampling == {"temperature": 1.0, "top_p": 0.95, "top_k": 64}


def test_a_model_that_is_not_fetched_is_one_sentence_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match=r"bge-base-zh is not fetched .* run `batch models pull bge-base-zh`"):
        resolve(settings(tmp_path), Kind.EMBEDDING)


def test_a_name_of_the_catalogue_overrides_the_profile(tmp_path: Path) -> None:
    chosen = settings(tmp_path, stt={"model": "whisper-tiny-en"})
    entry = configured(chosen, Kind.STT)
    assert entry is not None and entry.name == "whisper-tiny-en"
    with pytest.raises(ModelProblem, match=r"pull whisper-tiny-en"):
        resolve(chosen, Kind.STT)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match=r"vlm\.model is \"whisper-base\", which is a model for stt"):
        resolve(settings(tmp_path, vlm={"model": "whisper-base"}), Kind.VLM)


def test_a_local_path_is_taken_as_it_is_or_below_the_home(tmp_path: Path) -> None:
    path = toy(tmp_path / "mine", "my-model.gguf")
    for text in (str(path), "mine/my-model.gguf"):
        found = resolve(settings(tmp_path, embedding={"model": text}), Kind.EMBEDDING)
        assert (found.name, found.path, found.licence) == ("my-model", path, None)


def test_an_mmproj_of_the_settings_joins_any_model(tmp_path: Path) -> None:
    eyes = toy(tmp_path, "eyes.gguf")
    found = resolve(settings(tmp_path, profile="starter", vlm={"mmproj": "eyes.gguf"}), Kind.VLM)
    assert found.mmproj == eyes
    assert found.name == "tiny-gemma4v"


def test_a_name_that_is_neither_model_nor_file_lists_the_models_of_its_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match=r"stt\.model is \"nix\".*whisper-large-v3-turbo, whisper-base") as problem:
        resolve(settings(tmp_path, stt={"model": "nix"}), Kind.STT)
    assert "gemma" not in problem.value.message


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    toy(tmp_path, "notes.gguf", b"Dear diary")
    with pytest.raises(ModelProblem, match=r"notes\.gguf is not a GGUF file"):
        resolve(settings(tmp_path, vlm={"model": "notes.gguf"}), Kind.VLM)
    toy(tmp_path, "chat.bin", b"GGUF for another library")
    with pytest.raises(ModelProblem, match=r"chat\.bin is not a whisper\.cpp ggml file"):
        resolve(settings(tmp_path, stt={"model": "chat.bin"}), Kind.STT)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    chosen = settings(tmp_path, stt={"model": "whisper-tiny-en"})
    toy(chosen.models_dir, "ggml-tiny.en.bin", b"lmgg" + bytes(1000))
    with pytest.raises(ModelProblem, match=r"damaged \(1004 bytes instead of 77704715\).*pull whisper-tiny-en"):
        resolve(chosen, Kind.STT)


def test_a_fetched_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    chosen = settings(tmp_path, embedding={"model": "all-minilm-l6-v2"})
    path = toy(chosen.models_dir, "all-MiniLM-L6-v2-f16.gguf", b"GGUF good")
    write_record(path, Record(sha256=hashlib.sha256(b"GGUF good").hexdigest()))
    assert resolve(chosen, Kind.EMBEDDING).sha256 == hashlib.sha256(b"GGUF good").hexdigest()
    path.write_bytes(b"GGUF evil")  # as many bytes
    os.utime(path, ns=(1, 1))
    with pytest.raises(ModelProblem, match=r"damaged \(its sha256 is not"):
        resolve(chosen, Kind.EMBEDDING)


def test_a_file_is_read_through_only_once_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(tmp_path, embedding={"model": "all-minilm-l6-v2"})
    path = toy(chosen.models_dir, "all-MiniLM-L6-v2-f16.gguf")
    write_record(path, Record(sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    os.utime(path, ns=(5, 5))
    resolve(chosen, Kind.EMBEDDING)
    assert read_record(path).mtime_ns == 5
    monkeypatch.setattr("batch.catalog.fetched.sha256_of", lambda path: pytest.fail("read through again"))
    resolve(chosen, Kind.EMBEDDING)


def test_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    chosen = settings(tmp_path, embedding={"model": "all-minilm-l6-v2"})
    toy(chosen.models_dir, "all-MiniLM-L6-v2-f16.gguf")
    (chosen.models_dir / "all-MiniLM-L6-v2-f16.gguf.json").write_text("{ half")
    assert resolve(chosen, Kind.EMBEDDING).sha256 is None


def test_the_voice_activity_model_comes_along_and_is_optional(tmp_path: Path) -> None:
    shipped = vad(settings(tmp_path))
    assert shipped is not None and shipped.name == "ggml-silero-v6.2.0.bin"
    assert vad(settings(tmp_path, stt={"vad_model": "none"})) is None
    mine = toy(tmp_path, "vad.bin", b"lmgg")
    assert vad(settings(tmp_path, stt={"vad_model": "vad.bin"})) == mine
    with pytest.raises(ModelProblem, match=r"stt\.vad_model is \"none\.bin\", but there is no such file"):
        vad(settings(tmp_path, stt={"vad_model": "none.bin"}))


def test_looking_tells_what_is_missing(tmp_path: Path) -> None:
    toy(tmp_path, "gemma-4-E4B-it-Q4_K_M.gguf")
    found = look(find_entry("gemma-4-e4b"), tmp_path)
    assert not found.complete
    assert [path.name for path in found.missing] == ["mmproj-gemma-4-E4B-it.gguf"]


def test_importing_the_catalogue_loads_nothing_heavy() -> None:
    code = (
        "import sys, batch.catalog; print([m for m in ('numpy', 'gguf', 'huggingface_hub', 'llama_cpp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
