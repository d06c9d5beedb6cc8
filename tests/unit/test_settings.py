from __future__ import annotations

from pathlib import Path

import pytest

from batch.errors import SettingsProblem
from batch.settings import Settings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("BATCH_"):
            monkeypatch.delenv(name)


def test_flags_win_over_variables_and_these_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "batch.toml").write_text("[vlm]\nport = 1001\nthreads = 3\n[stt]\nport = 1003\n[embedding]\nport = 1002\n")
    monkeypatch.setenv("BATCH_VLM__PORT", "2001")
    monkeypatch.setenv("BATCH_STT__PORT", "2003")
    settings, sources = Settings.trace(tmp_path, {"vlm": {"port": 3001}})
    assert (settings.vlm.port, settings.stt.port, settings.embedding.port, settings.vlm.threads) == (
        3001,
        2003,
        1002,
        3,
    )
    assert sources["vlm.port"] == "--vlm-port" and sources["stt.port"] == "BATCH_STT__PORT"
    assert sources["embedding.port"] == str(tmp_path / "batch.toml") and "vlm.context" not in sources


@pytest.mark.parametrize(
    ("toml", "variables", "words"),
    [
        ("colour = 1", {}, ["no setting colour", "batch.toml"]),
        ("[vlm]\nports = 1", {}, ["no setting vlm.ports"]),
        ("[vlm]\nport = 70000", {}, ["vlm.port", "65535"]),
        ("vlm = [", {}, ["batch.toml", "TOML"]),
        ("", {"BATCH_VLM__PORT": "many"}, ["vlm.port", "BATCH_VLM__PORT"]),
        ("", {"BATCH_COLOUR": "red"}, ["no setting colour", "BATCH_COLOUR"]),
        ("", {"BATCH_LIMITS__ORIGINS": "[broken"}, ["BATCH_LIMITS__ORIGINS", "JSON"]),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence_naming_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toml: str, variables: dict[str, str], words: list[str]
) -> None:
    (tmp_path / "batch.toml").write_text(toml)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsProblem) as caught:
        Settings.load(tmp_path)
    assert all(word in caught.value.message for word in words), caught.value.message
    assert "\n" not in caught.value.message


def test_settings_reach_a_worker_whole(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path, {"vlm": {"port": 5, "cache_bytes": 7}, "folder": {"formats": ["txt"]}})
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        settings.profile = "starter"  # type: ignore[misc]
