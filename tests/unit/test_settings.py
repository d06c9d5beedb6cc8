"""Settings: what wins over what, and that every wrong value is one sentence before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batch.errors import NotFound, SettingsProblem
from batch.settings import Settings
from batch.settings.reference import entries, entry_of


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("BATCH_"):
            monkeypatch.delenv(name)


def refusal(home: Path, **flags: object) -> str:
    """The sentence that refuses these flags."""
    with pytest.raises(SettingsProblem) as caught:
        Settings.load(home, flags)
    assert "\n" not in caught.value.message and caught.value.message.endswith(".")
    return caught.value.message


def nested(key: str, value: object) -> dict[str, object]:
    table, _, leaf = key.rpartition(".")
    return {table: {leaf: value}} if table else {leaf: value}


def test_flags_win_over_variables_and_these_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "batch.toml").write_text("[vlm]\nport = 1001\nthreads = 3\n[stt]\nport = 1003\n[embedding]\nport = 1002\n")
    monkeypatch.setenv("BATCH_VLM__PORT", "2001")
    monkeypatch.setenv("BATCH_STT__PORT", "2003")
    settings, sources = Settings.trace(tmp_path, {"vlm": {"port": 3001}})
    assert (settings.vlm.port, settings.stt.port, settings.embedding.port, settings.vlm.threads) == (3001, 2003, 1002, 3)
    assert sources["vlm.port"] == "--vlm-port" and sources["stt.port"] == "BATCH_STT__PORT"
    assert sources["embedding.port"] == str(tmp_path / "batch.toml") and "vlm.context" not in sources


@pytest.mark.parametrize(
    ("toml", "variables", "words"),
    [
        ("colour = 1", {}, ["no setting colour", "batch.toml"]),
        ("[vlm]\nports = 1", {}, ["no setting vlm.ports"]),
        ("[vlm]\nport = 70000", {}, ["vlm.port", "is 70000", "from 0 to 65535"]),
        ("vlm = [", {}, ["batch.toml", "TOML"]),
        ("vlm = 3", {}, ["vlm", "a table of settings"]),
        ("[queue]\nattempts = true", {}, ["queue.attempts", "a whole number"]),
        (f"[queue]\nattempts = {'9' * 5000}", {}, ["batch.toml", "TOML"]),
        ("hub = 3", {}, ["hub", "is 3", "a text"]),
        ('[vlm]\nmodel = "~nobody-of-that-name/x.gguf"', {}, ["vlm.model", "~nobody-of-that-name", "home folder"]),
        ('hub = "a\\u0000b"', {}, ["hub", "control characters"]),
        ("[folder]\nformats = ['doc']", {}, ["folder.formats", "txt, json, srt, vtt"]),
        ('home = "/tmp"', {}, ["cannot set home", "--home"]),
        ("", {"BATCH_VLM__PORT": "many"}, ["vlm.port", "BATCH_VLM__PORT", "is many"]),
        ("", {"BATCH_COLOUR": "red"}, ["no setting colour", "BATCH_COLOUR"]),
        ("", {"BATCH_LIMITS__ORIGINS": "[broken"}, ["BATCH_LIMITS__ORIGINS", "JSON"]),
        ("", {"BATCH_VLM": "1", "BATCH_VLM__PORT": "1"}, ["contradicts"]),
        ("", {"BATCH_HUB": "http://h\udcff"}, ["hub", "not UTF-8"]),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence_naming_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toml: str, variables: dict[str, str], words: list[str]
) -> None:
    (tmp_path / "batch.toml").write_text(toml)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    sentence = refusal(tmp_path)
    assert all(word in sentence for word in words), sentence


UNWRITABLE = ["home", *(entry.key for entry in entries() if entry.key.startswith("models.NAME."))]
NUMBERS = [entry.key for entry in entries() if "number" in entry.values]


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_has_a_bound_at_both_ends_and_is_finite(tmp_path: Path, key: str) -> None:
    for value in ("inf", "-inf", "nan", float("inf"), float("nan"), 1e300, -1e300, "", [], 10**30):
        sentence = refusal(tmp_path, **nested(key, value))
        assert f"The setting {key} " in sentence and "number from " in sentence


@pytest.mark.parametrize("key", [entry.key for entry in entries() if entry.key not in NUMBERS and entry.key not in UNWRITABLE])
def test_every_text_path_and_list_has_a_bound(tmp_path: Path, key: str) -> None:
    for value in ("x" * 100_000, ["x" * 100_000], "x," * 100_000):
        assert f"The setting {key} " in refusal(tmp_path, **nested(key, value))


def test_every_setting_has_a_meaning_for_people() -> None:
    assert [entry.key for entry in entries() if len(entry.meaning) < 20 or not entry.meaning.endswith(".")] == []
    assert entry_of("queue.grace").variable == "BATCH_QUEUE__GRACE"
    assert "number from 0 to" in entry_of("queue.grace").text()
    with pytest.raises(NotFound, match=r"no setting queue\.grave"):
        entry_of("queue.grave")


@pytest.mark.parametrize("written", ["txt,vtt", " txt , vtt ", '["txt", "vtt"]'])
def test_a_list_may_be_written_with_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("BATCH_FOLDER__FORMATS", written)
    assert Settings.load(tmp_path).folder.formats == ("txt", "vtt")


def test_a_tilde_in_a_path_is_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "batch.toml").write_text(
        'models_dir = "~/models"\ninbox = "~/in"\n[vlm]\nmodel = "~/a.gguf"\n[folder]\ndone = "~/d"'
    )
    settings = Settings.load(tmp_path)
    assert (settings.models_dir, settings.inbox_dir) == (tmp_path / "me" / "models", tmp_path / "me" / "in")
    assert (settings.vlm.model, settings.folder.done) == (str(tmp_path / "me" / "a.gguf"), tmp_path / "me" / "d")


def test_a_relative_models_folder_lies_in_the_home_wherever_batch_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "batch.toml").write_text('models_dir = "weights"')
    for folder in (tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        assert Settings.load(tmp_path).models_dir == tmp_path / "weights"


def test_a_relative_xdg_cache_home_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    assert Settings.load(tmp_path).models_dir == tmp_path / ".cache" / "batch" / "models"


@pytest.mark.parametrize(("inbox", "outbox"), [("x", "x"), ("x", "x/out"), ("x/in", "x"), (".", "outbox"), ("link", "x")])
def test_an_inbox_that_is_the_outbox_or_lies_in_it_is_refused(tmp_path: Path, inbox: str, outbox: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("x")
    assert "taken in again" in refusal(tmp_path, inbox=inbox, outbox=outbox)


def test_a_settings_file_that_is_no_file_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "batch.toml")
    assert "is not a file" in refusal(tmp_path)
    (tmp_path / "batch.toml").unlink()
    (tmp_path / "batch.toml").write_bytes(b"#" * 2_000_000)
    assert "larger than" in refusal(tmp_path)


def test_a_home_that_is_gone_or_not_utf_8_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SettingsProblem, match="current folder is gone"):
        Settings.load()
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    odd.mkdir()
    assert "not UTF-8" in refusal(odd)
    assert "does not exist" in refusal(tmp_path / "missing")
    for unusable in ("a\0b", "x" * 5000, "~nobody-of-that-name"):
        assert "--home" in refusal(Path(unusable))
    (tmp_path / "file").touch()
    assert "not a folder" in refusal(tmp_path / "file")


def test_settings_reach_a_worker_whole(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path, {"vlm": {"port": 5, "cache_bytes": 7}, "folder": {"formats": ["txt"]}})
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        settings.profile = "starter"  # type: ignore[misc]


@pytest.mark.parametrize("address", ["9000", "host:", "host:99999", "::1:9000", "ho st:1", "host:1/x"])
def test_a_worker_port_that_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(SettingsProblem, match=r"front\.listen .*host:port"):
        Settings.load(tmp_path, {"front": {"listen": address}})


def test_a_worker_port_on_all_addresses_needs_the_one_that_workers_dial(tmp_path: Path) -> None:
    for everywhere in ("0.0.0.0:9000", "[::]:9000"):
        with pytest.raises(SettingsProblem, match=r"set front\.advertise"):
            Settings.load(tmp_path, {"front": {"listen": everywhere}})
        with pytest.raises(SettingsProblem, match=r"front\.advertise .*nobody can dial that"):
            Settings.load(tmp_path, {"front": {"listen": everywhere, "advertise": everywhere}})
        assert Settings.load(tmp_path, {"front": {"listen": everywhere, "advertise": "gw:9000"}}).front.advertise == "gw:9000"
