"""The picture or sound that a tool is given: a file of the inbox or the outbox, or its bytes in base64."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from batch.errors import BadRequest, TooLarge
from batch.folder.safe_open import open_below
from batch.media.kind import HEAD_BYTES, MediaKind, kind_of
from batch.queue.spool import Spool
from batch.settings import Settings

MAX_PATH_CHARS = 4096
_CHUNK_BYTES = 1 << 20


class KeptFile(NamedTuple):
    """Bytes that lie in the spool."""

    blob: str
    kind: MediaKind
    name: str


class SourceFiles:
    """Opens what lies below the inbox or the outbox, and nothing else; no link is followed. Blocking."""

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self._folders = {"inbox": settings.inbox_dir, "outbox": settings.outbox_dir}
        self._max_image_bytes = settings.limits.image_bytes
        self._max_data_bytes = settings.limits.body_bytes
        self._spool = spool

    def keep(self, path: str | None, data: str | None, kinds: Collection[MediaKind], noun: str) -> KeptFile:
        """Put a file, or bytes in base64, into the spool, if it is of one of these kinds; `noun` is what they are called.

        Raises BadRequest, TooLarge.
        """
        if (path is None) == (data is None):
            raise BadRequest('Give "path", a file below inbox/ or outbox/, or "data", its bytes in base64: one of the two.')
        if data is not None:
            return self._keep_bytes(self._decoded(data), kinds, noun)
        folder, below = self._below(path or "")
        try:
            descriptor = open_below(os.fspath(folder), below)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)  # `open` would leave a folder's open
                raise BadRequest(f"{path} is not a file.")
            with open(descriptor, "rb") as file:
                return self._keep_file(file, below, kinds, noun)
        except OSError as error:
            raise BadRequest(f"{path} cannot be read: {error.strerror}. Name a file below inbox/ or outbox/.") from None

    def _below(self, path: str) -> tuple[Path, str]:
        """(folder, path below it)"""
        if len(path) > MAX_PATH_CHARS or "\0" in path:
            raise BadRequest('"path" is no path.')
        for name, folder in self._folders.items():
            absolute = f"{os.fspath(folder)}/"
            for prefix in (absolute, f"{name}/"):
                if path.startswith(prefix):
                    return folder, self._checked(path.removeprefix(prefix), path)
        if path.startswith("/"):
            raise BadRequest(f"{path} lies neither below {self._folders['inbox']} nor below {self._folders['outbox']}.")
        return self._folders["inbox"], self._checked(path, path)

    def _checked(self, below: str, path: str) -> str:
        if any(part in ("", ".", "..") for part in below.split("/")):
            raise BadRequest(f'{path} is no plain path below inbox/ or outbox/: leave out "." and "..".')
        return below

    def _decoded(self, data: str) -> bytes:
        if len(data) > self._max_data_bytes:
            raise TooLarge(f'"data" is longer than {self._max_data_bytes:,} characters: drop the file into inbox/ instead.')
        _, comma, content = data.partition(",") if data.startswith("data:") else ("", ",", data)
        try:
            return base64.b64decode("".join(content.split()) if comma else "", validate=True)
        except (binascii.Error, ValueError):
            raise BadRequest('"data" is no base64.') from None

    def _keep_bytes(self, content: bytes, kinds: Collection[MediaKind], noun: str) -> KeptFile:
        kind = kind_of(content[:HEAD_BYTES], "")
        _require(kind, kinds, noun, "data")
        self._check_size(kind, len(content), "the file")
        return KeptFile(self._spool.keep(content, durable=True), kind, "data")

    def _keep_file(self, file: BinaryIO, name: str, kinds: Collection[MediaKind], noun: str) -> KeptFile:
        head = file.read(HEAD_BYTES)
        kind = kind_of(head, name)
        _require(kind, kinds, noun, name)
        self._check_size(kind, os.fstat(file.fileno()).st_size, name)
        blob, _ = self._spool.keep_chunks(_chunks(head, file), durable=True)
        return KeptFile(blob, kind, name)

    def _check_size(self, kind: MediaKind, size: int, name: str) -> None:
        if kind is MediaKind.IMAGE and size > self._max_image_bytes:
            raise TooLarge(f"{name} is larger than {self._max_image_bytes:,} bytes (limits.image_bytes in batch.toml).")


def _require(kind: MediaKind, kinds: Collection[MediaKind], noun: str, name: str) -> None:
    if kind not in kinds:
        raise BadRequest(f"{name} is no {noun} that batch can read.")


def _chunks(head: bytes, file: BinaryIO) -> Iterator[bytes]:
    yield head
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
