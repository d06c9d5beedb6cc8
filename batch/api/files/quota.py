"""How many bytes all files may take together."""

from __future__ import annotations

from batch.batches.file_store import FileStore
from batch.errors import DiskFull
from batch.settings import FileSettings


def check_quota(files: FileStore, settings: FileSettings, size: int) -> None:
    """Raise DiskFull where a file of `size` bytes more would go beyond `files.total_bytes`."""
    if settings.total_bytes and files.total_bytes() + size > settings.total_bytes:
        raise DiskFull(
            f"All files together may take {settings.total_bytes} bytes (files.total_bytes in batch.toml): delete some first."
        )
