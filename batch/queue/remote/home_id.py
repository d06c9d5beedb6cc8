"""The id of a home, under which the others that share its database know it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

from batch.durable_folder import make_durable_folder, put_on_disk
from batch.errors import DiskFull

_ID = re.compile(r"[0-9a-f]{16}")


def home_id(state_dir: Path) -> str:
    """A home's id: random, made once, never its machine's name. Raises DiskFull."""
    path = state_dir / "home_id"
    try:
        with contextlib.suppress(FileNotFoundError):
            if _ID.fullmatch(text := path.read_text("ascii", "replace").strip()):
                return text
        make_durable_folder(state_dir, 0o700)
        partial = path.with_name(f".home_id.{os.getpid()}")
        partial.write_text(id := secrets.token_hex(8))
        os.replace(partial, path)
        put_on_disk(state_dir)
        return id
    except OSError as error:
        raise DiskFull(f"{path} cannot be written ({error.strerror}): look after its disk.") from error
