"""A front's certificate."""

from __future__ import annotations

import builtins
import stat
from pathlib import Path

import pytest

from batch.errors import DiskFull, SettingsProblem
from batch.queue.remote.worker_port.certificate import own_certificate


def test_it_is_made_once_for_this_user_alone_and_says_nothing_of_the_machine(tmp_path: Path) -> None:
    from cryptography import x509

    first = own_certificate(tmp_path / ".batch")
    assert stat.S_IMODE(first.file.stat().st_mode) == 0o600
    assert [path.name for path in first.file.parent.iterdir()] == ["worker_port.pem"]
    assert len(first.sha256) == 64 and own_certificate(tmp_path / ".batch") == first
    read = x509.load_pem_x509_certificate(first.file.read_bytes()[first.file.read_bytes().index(b"-----BEGIN CERT") :])
    assert [attribute.value for attribute in read.subject] == ["batch worker port"]
    assert own_certificate(tmp_path / "other").sha256 != first.sha256


def test_a_file_that_is_damaged_is_made_anew_and_one_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    first = own_certificate(tmp_path)
    first.file.chmod(0o644)
    assert own_certificate(tmp_path) == first and stat.S_IMODE(first.file.stat().st_mode) == 0o600
    first.file.write_text("-----BEGIN CERTIFICATE-----\nnothing\n")
    assert own_certificate(tmp_path).sha256 not in ("", first.sha256)


def test_what_is_missing_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskFull, match="cannot be written"):
        own_certificate(tmp_path / "file")
    load = builtins.__import__

    def missing(name: str, *arguments: object, **options: object) -> object:
        if name.startswith("cryptography"):
            raise ModuleNotFoundError(name)
        return load(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SettingsProblem, match=r"batch-engine\[postgres\]"):
        own_certificate(tmp_path)
