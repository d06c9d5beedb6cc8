from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path

import pytest

from batch.queue.spool import Spool


def test_identical_content_is_kept_once_under_its_sha256(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    name = spool.keep(b"pixels")
    assert name == hashlib.sha256(b"pixels").hexdigest()
    assert spool.keep_file(io.BytesIO(b"pixels")) == (name, 6)
    assert list(spool.names()) == [name] and spool.read(name) == b"pixels"
    assert list((tmp_path / "spool" / "tmp").iterdir()) == []


def test_a_name_that_is_no_sha256_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    for name in ("../../etc/passwd", "", "A" * 64, "a" * 63):
        with pytest.raises(ValueError, match="not a sha256"):
            spool.path(name)


def test_a_file_put_in_again_is_not_removed_under_its_new_owner(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    name = spool.keep(b"x")
    old = time.time() - 1000
    os.utime(spool.path(name), (old, old))
    spool.keep(b"x")
    assert not spool.remove(name, older_than=60)
    os.utime(spool.path(name), (old, old))
    assert spool.remove(name, older_than=60) and not spool.path(name).exists()
    assert spool.remove(name, older_than=60), "what is gone already is gone"


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")

    def broken() -> object:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        spool.keep_chunks(broken())  # type: ignore[arg-type]
    assert list(spool.names()) == [] and list((tmp_path / "spool" / "tmp").iterdir()) == []
