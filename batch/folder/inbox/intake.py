"""Taking one file in: open it safely, see what it is, copy its bytes into the spool, and say what is to be done."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator

import msgspec

from batch.errors import BadRequest, BatchError, DiskFull, TooLarge, UnsupportedMedia
from batch.folder.file_names import one_line
from batch.folder.folder_settings import EffectiveSettings
from batch.folder.inbox.entry import InboxEntry
from batch.folder.ledger_rows import Arrival, CaptionParameters, DeliveryRules, TranscriptParameters, Work
from batch.folder.open_writers import Writers, writers_of
from batch.folder.pipeline import (
    CAPTION,
    EMBEDDING,
    TRANSCRIPT,
    caption_draft,
    content_key,
    content_parameters,
    embedding_draft,
    transcript_draft,
)
from batch.folder.safe_open import FileStamp, open_below
from batch.media.image import image_header
from batch.media.kind import HEAD_BYTES, MediaKind, kind_of
from batch.media.text import decode_text
from batch.queue.spool import Spool
from batch.settings import Settings

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENXIO, errno.ELOOP, errno.EISDIR})
"""Failures that another look may not find: this process's shortage, a share that was away, a link put in its place."""


_RESERVE_BYTES = 1 << 30
"""A copy leaves this much of the disk free, or a twentieth of a small disk: sparse files hold more than they take."""


class StillChanging(Exception):
    """The file changed while it was read, or could not be read just now: look again later."""


class HeldOpen(StillChanging):
    """Somebody has the file open for writing: look again later."""


class NotSettled(StillChanging):
    """Nobody can tell whether somebody writes to the file: it has to stand still for longer."""


class Candidate(msgspec.Struct, frozen=True):
    """A file that has stood still."""

    path: str
    entry: InboxEntry
    is_surely_closed: bool
    """It has stood still so long, or its writer was seen to close it, that nobody need be asked who has it open."""


class Intake:
    """Blocking; one file at a time in each thread."""

    def __init__(self, settings: Settings, spool: Spool, is_going: Callable[[], bool]) -> None:
        """Reading ends early, with StillChanging, when no longer `is_going`."""
        self._settings = settings
        self._spool = spool
        self._is_going = is_going
        self._root = os.fspath(settings.inbox_dir)

    def take(self, candidate: Candidate, settings: EffectiveSettings) -> Arrival | None:
        """Read one file, by the settings of its folder; None when it has gone. Raises StillChanging, DiskFull."""
        path, entry = candidate.path, candidate.entry
        folder = settings.folder
        rules = DeliveryRules(formats=tuple(folder.formats), source=folder.source, done_folder=settings.done_folder)
        is_redo = settings.is_redo
        try:
            if entry.problem is not None:
                raise UnsupportedMedia(f"{one_line(path)} {entry.problem}.")
            descriptor = open_below(self._root, entry.target)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in _PASSING:
                raise StillChanging from None
            return Arrival(path=path, stamp=entry.stamp, rules=rules, error=_unreadable(path, error).record(), is_redo=is_redo)
        except BatchError as error:
            return Arrival(path=path, stamp=entry.stamp, rules=rules, error=error.record(), is_redo=is_redo)
        try:
            with _SourceFile(descriptor, candidate, self._is_going) as source:
                source.require_closed()
                work = self._read(source, settings)
                source.require_closed()
                return Arrival(path=path, stamp=entry.stamp, rules=rules, work=work, is_redo=is_redo)
        except DiskFull:
            raise
        except BatchError as error:
            return Arrival(path=path, stamp=entry.stamp, rules=rules, error=error.record(), is_redo=is_redo)
        except OSError as error:  # reading has its own errors: this is the spool's trouble, which will pass
            where = self._spool.folder
            raise DiskFull(f"{one_line(path)} cannot be copied into {where}: {error.strerror}.") from None

    def _read(self, source: _SourceFile, settings: EffectiveSettings) -> Work:
        name, limits = source.name, self._settings.limits
        if source.stamp.size == 0:
            raise BadRequest(f"{name} is empty.")
        kind = kind_of(source.head(), source.path)
        parameters = content_parameters(kind, settings.folder)
        kept: tuple[str, ...] = ()
        match kind:
            case MediaKind.UNKNOWN:
                raise UnsupportedMedia(f"{name} is of a kind that is not known here: images, sound, video, .txt and .md are.")
            case MediaKind.TEXT:
                data = source.read_whole(limits.text_bytes, "limits.text_bytes")
                text = decode_text(data, name)
                if not text.strip():
                    raise BadRequest(f"{name} holds no text.")
                sha256 = hashlib.sha256(data).hexdigest()
                step, draft = EMBEDDING, embedding_draft(text, self._put_in_spool, name)
                kept = draft.blobs
            case MediaKind.IMAGE:
                data = source.read_whole(limits.image_bytes, "limits.image_bytes")
                try:
                    image_header(data, limits.image_pixels, limits.image_bytes)
                except BatchError as error:
                    raise type(error)(f"{name}: {error.message}") from None
                sha256 = self._put_in_spool(data)
                assert isinstance(parameters, CaptionParameters)
                step, draft = CAPTION, caption_draft(sha256, parameters, name)
            case MediaKind.AUDIO | MediaKind.VIDEO:
                self._require_room(name, source.stamp.size)
                sha256, size = self._spool.keep_chunks(source.chunks(), durable=True)
                if size != source.stamp.size:
                    raise StillChanging
                assert isinstance(parameters, TranscriptParameters)
                step, draft = TRANSCRIPT, transcript_draft(sha256, parameters, name)
        return Work(
            key=content_key(sha256, kind, parameters, self._settings),
            sha256=sha256,
            kind=kind,
            parameters=parameters,
            step=step,
            draft=draft,
            kept=kept,
        )

    def _put_in_spool(self, data: bytes) -> str:
        return self._spool.keep(data, durable=True)

    def _require_room(self, name: str, size: int) -> None:
        """Not to fill the disk with a copy that cannot be finished, again and again."""
        disk = os.statvfs(self._spool.folder)
        reserve = min(_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 20)
        if size > disk.f_bavail * disk.f_frsize - reserve:
            raise DiskFull(f"{name} has {size:,} bytes, more than are free for its copy in {self._spool.folder}.")


class _SourceFile:
    """An open file of the inbox. What goes wrong while it is read is its own fault, and said as such."""

    def __init__(self, descriptor: int, candidate: Candidate, is_going: Callable[[], bool]) -> None:
        self.path = candidate.path
        self.name = one_line(candidate.path)
        self.stamp = candidate.entry.stamp
        self._is_surely_closed = candidate.is_surely_closed
        self._is_going = is_going
        self._descriptor = descriptor

    def __enter__(self) -> _SourceFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def require_closed(self) -> None:
        """Raise StillChanging unless the file is what it was, and nobody has it open for writing."""
        match writers_of(self._descriptor):
            case Writers.SOME:
                raise HeldOpen
            case Writers.UNKNOWN if not self._is_surely_closed:
                raise NotSettled
        if not FileStamp.of(os.fstat(self._descriptor)).has_same_content(self.stamp):
            raise StillChanging

    def head(self) -> bytes:
        """The first bytes, as many as are needed to see what the file is."""
        return self._pread(HEAD_BYTES, 0)

    def chunks(self) -> Iterator[bytes]:
        """All bytes, a megabyte at a time."""
        at = 0
        while chunk := self._pread(1 << 20, at):
            at += len(chunk)
            if not self._is_going():  # the end of the service does not wait for the copy of a film
                raise StillChanging
            yield chunk

    def read_whole(self, limit: int, setting: str) -> bytes:
        """All bytes; raises TooLarge, naming the setting, above `limit` of them."""
        if self.stamp.size > limit:
            raise TooLarge(f"{self.name} has {self.stamp.size:,} bytes; at most {limit:,} are taken ({setting}).")
        parts, size = [], 0
        for chunk in self.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > self.stamp.size:
                break
        if size != self.stamp.size:
            raise StillChanging
        return b"".join(parts)

    def _pread(self, length: int, at: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, at)
        except OSError as error:
            if error.errno in _PASSING:
                raise StillChanging from None
            raise _unreadable(self.name, error) from None


def _unreadable(path: str, error: OSError) -> BadRequest:
    return BadRequest(f"{one_line(path)} cannot be read: {error.strerror}.")
