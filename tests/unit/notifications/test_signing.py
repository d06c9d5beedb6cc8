"""Where the endpoints' secrets lie."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from batch.errors import DiskFull
from batch.notifications.shared_secrets import open_secrets
from batch.notifications.signing import SecretFiles
from batch.queue.open_store import open_store


def test_a_secret_that_cannot_be_read_for_now_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many files open, say: its receiver would refuse all that is signed with another one."""
    secrets = SecretFiles(tmp_path / "webhooks")
    before = secrets.ensure("we_1")

    def fail(self: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fail)
        with pytest.raises(DiskFull, match="cannot be read"):
            secrets.ensure("we_1")
    assert secrets.ensure("we_1") == before
    (tmp_path / "webhooks" / "we_1.json").write_bytes(b"damaged")
    assert secrets.ensure("we_1") != before


def test_services_that_share_a_database_sign_with_the_same_secret_whichever_of_them_sends(
    tmp_path: Path, database: Path | str
) -> None:
    before = SecretFiles(tmp_path / "one").ensure("we_1")
    with contextlib.closing(open_store(database)) as store:
        one, other = (open_secrets(store, tmp_path / name) for name in ("one", "other"))
        assert one.ensure("we_1") == before, "of the time in which it was alone"
        if not store.is_shared:
            assert type(one) is SecretFiles and other.read("we_1") is None, "each home has its own"
            return
        assert other.ensure("we_1") == other.read("we_1") == before
        rotated = other.rotate("we_1", keep_old=True)
        assert one.ensure("we_1") == rotated and rotated.old == before.current
        one.remove("we_1")
        assert other.read("we_1") is None and other.ensure("we_1") not in (before, rotated)
