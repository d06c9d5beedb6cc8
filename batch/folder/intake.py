"""Taking one file in: open it safely, see what it is, copy its bytes into the spool, and say what is to be done."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from batch.errors import BadRequest, BatchError, DiskFull, TooLarge, UnsupportedMedia
from batch.folder import pipeline as steps
from batch.folder.file_names import one_line
from batch.folder.ledger import Arrival
from batch.folder.safe_open import Found, Stamp, open_below
from batch.media.image import image_header
from batch.media.kind import HEAD, MediaKind, kind_of
from batch.media.text import decode_text
from batch.queue.jobs import Draft
from batch.queue.spool import Spool
from batch.settings import FolderSettings, Settings

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENXIO, errno.ELOOP, errno.EISDIR})
"""Failures that another look may not find: this process's shortage, a share that was away, a link put in its place."""


class Moving(Exception):
    """The file changed while it was read, or could not be read just now: look again later."""


class Intake:
    """Blocking; one file at a time."""

    def __init__(self, settings: Settings, spool: Spool, going: Callable[[], bool]) -> None:
        """Reading ends early, with Moving, when no longer `going`."""
        self._settings = settings
        self._spool = spool
        self._going = going
        self._root = os.fspath(settings.inbox_dir)

    def take(self, path: str, found: Found, rules: FolderSettings) -> Arrival | None:
        """Read one file; None when it has gone. Raises Moving, DiskFull."""
        keep = {"formats": list(rules.formats), "source": rules.source, "done": os.fspath(rules.done)}
        try:
            if found.problem is not None:
                raise UnsupportedMedia(f"{one_line(path)} {found.problem}.")
            descriptor = open_below(self._root, found.target)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in _PASSING:
                raise Moving from None
            return Arrival(path, found.stamp, keep, error=_unreadable(path, error).record())
        except BatchError as error:
            return Arrival(path, found.stamp, keep, error=error.record())
        try:
            with _Source(descriptor, path, self._going) as source:
                return self._read(source, path, found.stamp, rules, keep)
        except DiskFull:
            raise
        except BatchError as error:
            return Arrival(path, found.stamp, keep, error=error.record())
        except OSError as error:  # reading has its own errors: this is the spool's trouble, which will pass
            where = self._spool.folder
            raise DiskFull(f"{one_line(path)} cannot be copied into {where}: {error.strerror}.") from None

    def _read(self, source: _Source, path: str, stamp: Stamp, rules: FolderSettings, keep: Mapping[str, Any]) -> Arrival:
        name = one_line(path)
        source.unmoved(stamp)
        if stamp.size == 0:
            raise BadRequest(f"{name} is empty.")
        kind = kind_of(source.head(), path)
        asked = steps.parameters(kind, rules, self._settings)
        kept: tuple[str, ...] = ()
        step: str
        draft: Draft
        match kind:
            case MediaKind.UNKNOWN:
                raise UnsupportedMedia(f"{name} is of a kind that is not known here: images, sound, video, .txt and .md are.")
            case MediaKind.TEXT:
                data = self._whole(source, name, stamp, self._settings.limits.text_bytes, "limits.text_bytes")
                text = decode_text(data, name)
                if not text.strip():
                    raise BadRequest(f"{name} holds no text.")
                sha256 = hashlib.sha256(data).hexdigest()
                step, draft = steps.EMBEDDING, steps.embedding(text, self._keep, name)
                kept = draft.blobs
            case MediaKind.IMAGE:
                limits = self._settings.limits
                data = self._whole(source, name, stamp, limits.image_bytes, "limits.image_bytes")
                try:
                    image_header(data, limits.image_pixels, limits.image_bytes)
                except BatchError as error:
                    raise type(error)(f"{name}: {error.message}") from None
                sha256 = self._keep(data)
                step, draft = steps.first(kind, sha256, asked, name)
            case MediaKind.AUDIO | MediaKind.VIDEO:
                self._room_for(name, stamp.size)
                sha256, size = self._spool.keep_chunks(source.chunks(), durable=True)
                if size != stamp.size:
                    raise Moving
                step, draft = steps.first(kind, sha256, asked, name)
        source.unmoved(stamp)
        return Arrival(
            path=path,
            stamp=stamp,
            rules=keep,
            key=steps.key(sha256, kind, asked, self._settings),
            sha256=sha256,
            kind=kind,
            parameters=asked,
            step=step,
            draft=draft,
            kept=kept,
        )

    def _whole(self, source: _Source, name: str, stamp: Stamp, most: int, setting: str) -> bytes:
        if stamp.size > most:
            raise TooLarge(f"{name} has {stamp.size:,} bytes; at most {most:,} are taken ({setting}).")
        parts, size = [], 0
        for chunk in source.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > stamp.size:
                break
        if size != stamp.size:
            raise Moving
        return b"".join(parts)

    def _keep(self, data: bytes) -> str:
        return self._spool.keep(data, durable=True)

    def _room_for(self, name: str, size: int) -> None:
        """Not to fill the disk with a copy that cannot be finished, again and again."""
        found = os.statvfs(self._spool.folder)
        if size > found.f_bavail * found.f_frsize:
            raise DiskFull(f"{name} has {size:,} bytes, more than are free for its copy in {self._spool.folder}.")


class _Source:
    """An open file of the inbox. What goes wrong while it is read is its own fault, told as such."""

    def __init__(self, descriptor: int, path: str, going: Callable[[], bool]) -> None:
        self._going = going
        self._descriptor = descriptor
        self._path = path

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def head(self) -> bytes:
        return self._pread(HEAD, 0)

    def chunks(self) -> Iterator[bytes]:
        at = 0
        while chunk := self._pread(1 << 20, at):
            at += len(chunk)
            if not self._going():  # the end of the service does not wait for the copy of a film
                raise Moving
            yield chunk

    def unmoved(self, stamp: Stamp) -> None:
        if not Stamp.of(os.fstat(self._descriptor)).same(stamp):
            raise Moving

    def _pread(self, length: int, at: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, at)
        except OSError as error:
            if error.errno in _PASSING:
                raise Moving from None
            raise _unreadable(self._path, error) from None


def _unreadable(path: str, error: OSError) -> BadRequest:
    return BadRequest(f"{one_line(path)} cannot be read: {error.strerror}.")
