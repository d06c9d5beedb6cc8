"""What a tool may be given: files below the inbox and the outbox, and nothing that leads elsewhere."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from batch.errors import BadRequest
from batch.mcp.source_files import SourceFiles
from batch.media.kind import MediaKind
from batch.queue.spool import Spool
from batch.settings import Settings
from folder_stage import picture


@pytest.fixture
def files(tmp_path: Path) -> SourceFiles:
    settings = Settings.load(tmp_path)
    settings.inbox_dir.mkdir()
    return SourceFiles(settings, Spool(tmp_path / "spool"))


def test_a_folder_a_pipe_and_a_link_are_refused_and_nothing_stays_open(files: SourceFiles, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "trip").mkdir()
    os.mkfifo(inbox / "pipe")
    (inbox / "link").symlink_to("/etc/passwd")
    (inbox / "out").symlink_to("/etc")
    open_before = len(os.listdir("/dev/fd"))
    for path in ("trip", "inbox/trip", "pipe", "link", "out/passwd", "../.batch/batch.db", "/etc/passwd", "trip//a", "a\0b"):
        with pytest.raises(BadRequest):
            files.keep(path, None, (MediaKind.IMAGE,), "picture")
    assert len(os.listdir("/dev/fd")) == open_before


def test_a_picture_is_kept_by_either_name_of_its_place(files: SourceFiles, tmp_path: Path) -> None:
    (tmp_path / "inbox/a.jpg").write_bytes(picture())
    paths = ("a.jpg", "inbox/a.jpg", str(tmp_path / "inbox/a.jpg"))
    kept = [files.keep(path, None, (MediaKind.IMAGE,), "picture") for path in paths]
    assert len({file.blob for file in kept}) == 1


def test_what_is_of_another_kind_is_refused_before_it_is_copied(files: SourceFiles, tmp_path: Path) -> None:
    (tmp_path / "inbox/a.jpg").write_bytes(picture())
    (tmp_path / "inbox/disk.iso").write_bytes(b"\0" * 9000)
    for path, data in (("a.jpg", None), ("disk.iso", None), (None, base64.b64encode(picture()).decode())):
        with pytest.raises(BadRequest, match="is no recording that batch can read"):
            files.keep(path, data, (MediaKind.AUDIO,), "recording")
    assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]
