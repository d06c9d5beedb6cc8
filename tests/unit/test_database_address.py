"""Where a home's jobs are, as each of its commands finds out."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch.database_address import address_of, remember_address, remembered_address
from batch.errors import SettingsProblem
from batch.settings import Settings

URL = "postgresql://me@/jobs?host=/run/postgresql"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("BATCH_DATABASE", raising=False)
    (tmp_path / ".batch").mkdir()
    return tmp_path


def addresses(home: Path) -> tuple[Path | str, Path | str]:
    """What commands without settings find, and what the settings say."""
    return address_of(home), Settings.load(home).database_address


def test_a_home_keeps_its_jobs_in_its_own_file_unless_told_otherwise(home: Path) -> None:
    assert addresses(home) == (home / ".batch" / "batch.db",) * 2


def test_commands_and_settings_agree_on_who_says_where(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember_address(home / ".batch", "postgresql://flag@localhost/a")
    assert addresses(home) == ("postgresql://flag@localhost/a",) * 2
    (home / "batch.toml").write_text(f'database = "{URL}"\n')
    assert addresses(home) == (URL,) * 2
    monkeypatch.setenv("BATCH_DATABASE", "postgresql://variable@localhost/b")
    assert addresses(home) == ("postgresql://variable@localhost/b",) * 2
    monkeypatch.setenv("BATCH_DATABASE", "sqlite")
    assert addresses(home) == (home / ".batch" / "batch.db",) * 2


def test_the_file_is_returned_to_by_name(home: Path) -> None:
    remember_address(home / ".batch", URL)
    assert remembered_address(home / ".batch") == URL
    remember_address(home / ".batch", "sqlite")
    assert addresses(home) == (home / ".batch" / "batch.db",) * 2


@pytest.mark.parametrize("wrong", ["jobs", "mysql://me@localhost/jobs", "postgresql://[half"])
def test_what_is_no_address_is_one_sentence(home: Path, wrong: str) -> None:
    with pytest.raises(SettingsProblem, match="database"):
        Settings.load(home, {"database": wrong})


def test_the_settings_that_people_are_shown_hold_no_password(home: Path) -> None:
    leaves = Settings.load(home, {"database": "postgresql://me:s3cret@localhost/a"}).leaves()
    assert leaves["database"] == "postgresql://me:***@localhost/a"
