"""One file of the inbox, opened and read without trusting that it stands still."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

import msgspec

from batch.errors import BadRequest, TooLarge
from batch.folder.file_names import one_line
from batch.folder.inbox.entry import InboxEntry
from batch.folder.open_writers import Writers, writers_of
from batch.folder.safe_open import FileStamp
from batch.media.kind import HEAD_BYTES

PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENXIO, errno.ELOOP, errno.EISDIR})
"""Failures that another look may not find: this process's shortage, a share that was away, a link put in its place."""


class StillChanging(Exception):
    """The file changed while it was read, or could not be read just now: look again later."""


class HeldOpen(StillChanging):
    """Somebody has the file open for writing: look again later."""


class NotSettled(StillChanging):
    """Nobody can tell whether somebody writes to the file: it has to stand still for longer."""


class TakesLong(Exception):
    """The file is read by a program of its own, for which others must not wait."""


class Candidate(msgspec.Struct, frozen=True):
    """A file that has stood still."""

    path: str
    entry: InboxEntry
    is_surely_closed: bool
    """It has stood still so long, or its writer was seen to close it, that nobody need be asked who has it open."""


class SourceFile:
    """An open file of the inbox. What goes wrong while it is read is its own fault, and said as such."""

    def __init__(self, descriptor: int, candidate: Candidate, is_going: Callable[[], bool]) -> None:
        self.path = candidate.path
        self.name = one_line(candidate.path)
        self.stamp = candidate.entry.stamp
        self._is_surely_closed = candidate.is_surely_closed
        self._is_going = is_going
        self.descriptor = descriptor

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def require_closed(self) -> None:
        """Raise StillChanging unless the file is what it was, and nobody has it open for writing."""
        match writers_of(self.descriptor):
            case Writers.SOME:
                raise HeldOpen
            case Writers.UNKNOWN if not self._is_surely_closed:
                raise NotSettled
        if not FileStamp.of(os.fstat(self.descriptor)).has_same_content(self.stamp):
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
            return os.pread(self.descriptor, length, at)
        except OSError as error:
            if error.errno in PASSING:
                raise StillChanging from None
            raise unreadable(self.name, error) from None


def unreadable(path: str, error: OSError) -> BadRequest:
    """The error for a file that the system does not let be read."""
    return BadRequest(f"{one_line(path)} cannot be read: {error.strerror}.")
