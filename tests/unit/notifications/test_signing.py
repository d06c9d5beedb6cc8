"""Where the endpoints' secrets lie."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from batch.errors import DiskFull
from batch.notifications.signing import SecretFiles


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
