"""The inbox: finds what was dropped, waits until it stands still, and takes it in.

A periodic scan is the truth; events (watch.py) only name paths to look at earlier. All of it blocks: one thread.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from batch.errors import BadRequest, BatchError, DiskFull, TooLarge, UnsupportedMedia
from batch.folder import steps
from batch.folder.below import Found, Stamp, find, open_below
from batch.folder.ledger import Arrival, Ledger
from batch.folder.names import RULES_FILE, ignored, one_line
from batch.folder.rules import Rules
from batch.media.image import image_header
from batch.media.kind import HEAD, MediaKind, kind_of
from batch.media.text import decode_text
from batch.queue.jobs import Draft
from batch.queue.spool import Spool
from batch.settings import FolderSettings, Settings

logger = logging.getLogger("batch.folder")
CHUNK = 50
"""Most files accepted in one transaction: a caller that submits meanwhile waits for no more than these."""
_CHUNK_BYTES = 256 << 20
_CHUNK_SECONDS = 2.0
_LOOK = 500
"""Files compared with the ledger at a time."""
_MOST_PENDING = 50_000
"""Files that are watched settling; the rest are found again by a later scan."""
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENXIO, errno.ELOOP, errno.EISDIR})
"""Failures that another look may not find: this process's shortage, a share that was away, a link put in its place."""


@dataclass(slots=True)
class _Pending:
    found: Found
    since: float
    """time.monotonic() when it was first seen as it is."""
    settle: float


class Moving(Exception):
    """The file changed while it was read."""


class Inbox:
    """One inbox folder. Use from one thread at a time."""

    def __init__(
        self, settings: Settings, ledger: Ledger, spool: Spool, cleared: Callable[[str], None],
        going: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        """`cleared` is called with the path of every file that is worked on anew; reading ends early when no longer
        `going`."""
        self._going = going
        self._settings = settings
        self._ledger = ledger
        self._spool = spool
        self._cleared = cleared
        self.root = os.fspath(settings.inbox_dir)
        self._rules = Rules(self.root, settings.folder)
        self._pending: dict[str, _Pending] = {}
        self._ready: dict[str, Found] = {}
        self._full = ""
        own = (settings.home / settings.folder.done, settings.outbox_dir, settings.state_dir)
        self._own = {os.path.abspath(path) for path in own}

    # -- looking

    def scan(self) -> None:
        """Look at everything. A missing inbox is no news: it may come back."""
        seen = set()
        for folder, files in self._folders():
            seen.add(folder)
            self._rules.of(folder)
            present = 0
            for some in _slices(files, _LOOK):
                if not self._going():
                    return
                present += self._compare(some)
            if present != self._ledger.present(folder):
                self._find_gone(folder)
        self._tell_rules()
        if not self._going() or not os.path.isdir(self.root):
            return
        for folder in self._ledger.folders():
            if folder not in seen and not os.path.isdir(os.path.join(self.root, folder)):
                self._find_gone(folder)

    def look(self, paths: Iterable[str]) -> None:
        """Look at single files, and at folders as a whole."""
        files, gone = [], []
        for path in paths:
            if any(ignored(part) for part in path.split("/")):
                if path.rpartition("/")[2] == RULES_FILE:
                    self._rules.of(path.rpartition("/")[0])
                continue
            if self._in_own_folder(path):
                continue
            absolute = os.path.join(self.root, path)
            if os.path.isdir(absolute) and not os.path.islink(absolute):
                for folder, inner in self._folders(path):
                    self._rules.of(folder)
                    for some in _slices(inner, _LOOK):
                        self._compare(some)
            elif os.path.lexists(absolute):
                files.append(path)
            else:
                gone.append(path)
        for some in _slices(iter(files), _LOOK):
            self._compare(some)
        if gone and os.path.isdir(self.root):
            self._ledger.mark_gone(gone)
        self._tell_rules()

    def _in_own_folder(self, path: str) -> bool:
        absolute = os.path.abspath(os.path.join(self.root, path))
        return any(absolute == own or absolute.startswith(own + os.sep) for own in self._own)

    def _folders(self, start: str = "") -> Iterator[tuple[str, Iterator[str]]]:
        """Every folder below `start` with the paths of what it holds but folders; links to folders lead nowhere."""
        stack = [start]
        while stack and self._going():
            folder = stack.pop()
            try:
                descriptor = open_below(self.root, folder, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                continue
            inner: list[str] = []
            try:
                with os.scandir(descriptor) as entries:
                    yield folder, self._files(folder, entries, inner)
            finally:
                os.close(descriptor)
            stack.extend(inner)

    def _files(self, folder: str, entries: Iterable[os.DirEntry[str]], inner: list[str]) -> Iterator[str]:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
            except OSError:
                continue
            if is_folder:
                if not entry.name.startswith(".") and os.path.abspath(os.path.join(self.root, path)) not in self._own:
                    inner.append(path)
            elif not ignored(entry.name):
                yield path

    def _compare(self, paths: list[str]) -> int:
        """Put what is new or changed among pending; returns how many of them the ledger knows as present."""
        known = self._ledger.known(paths)
        present = 0
        for path in paths:
            try:
                found = find(self.root, path)
            except OSError as error:
                logger.debug("%s cannot be looked at: %s", one_line(path), error)
                continue
            if found is None:
                continue
            if path in known:
                stamp, state, gone = known[path]
                present += not gone
                changed = not found.stamp.same(stamp) or (state == "failed" and stamp != found.stamp)
                if not changed and not gone:
                    continue
            self._watch(path, found)
        return present

    def _watch(self, path: str, found: Found) -> None:
        before = self._pending.get(path)
        if before is not None and before.found.stamp.same(found.stamp):
            return
        if path in self._ready or (before is None and len(self._pending) >= _MOST_PENDING):
            return
        self._pending[path] = _Pending(found, time.monotonic(), self._rules.of(path.rpartition("/")[0]).settle)

    def _find_gone(self, folder: str) -> None:
        after = ""
        while paths := self._ledger.paths_in(folder, after):
            after = paths[-1]
            if gone := [path for path in paths if not os.path.lexists(os.path.join(self.root, path))]:
                self._ledger.mark_gone(gone)

    def _tell_rules(self) -> None:
        """A wrong rules file becomes an error in the outbox like any wrong file; a mended one takes it away."""
        for news in self._rules.news():
            known = self._ledger.known([news.path]).get(news.path)
            if news.problem is None:
                if known:
                    self._ledger.reject(news.path)
                    self._cleared(news.path)
            elif news.stamp is not None and (known is None or known[0] != news.stamp):
                error = news.problem.record()
                self._ledger.accept([Arrival(news.path, news.stamp, {}, error=error)])

    # -- settling

    def next_settle(self) -> float | None:
        """time.monotonic() when the next file may have stood still for long enough; None when there is none."""
        if self._ready:
            return 0.0
        return min((one.since + one.settle for one in self._pending.values()), default=None)

    def settle(self) -> int:
        """See which files stand still; returns how many are ready to be accepted."""
        now = time.monotonic()
        for path, one in list(self._pending.items()):
            if now - one.since < one.settle:
                continue
            try:
                found = find(self.root, path)
            except OSError:
                found = None
            if found is None:
                del self._pending[path]
            elif not found.stamp.same(one.found.stamp):
                self._pending[path] = _Pending(found, time.monotonic(), one.settle)
            else:
                del self._pending[path]
                self._ready[path] = found
        return len(self._ready)

    # -- accepting

    def accept(self) -> int:
        """Accept one chunk of the ready files, durably; returns how many were accepted.

        When the disk is full nothing is accepted, and DiskFull is raised; the files are ready still.
        """
        arrivals: list[Arrival] = []
        done: list[str] = []
        size, until = 0, time.monotonic() + _CHUNK_SECONDS
        waiting: DiskFull | None = None
        for path, found in list(islice(self._ready.items(), CHUNK)):
            if arrivals and found.stamp.size > _CHUNK_BYTES:
                break  # what was copied already does not wait for the copy of a film
            try:
                arrival = self._take(path, found)
            except Moving:
                del self._ready[path]
                self._watch_again(path)
                continue
            except DiskFull as error:  # a smaller one may fit
                waiting = error
                continue
            done.append(path)
            if arrival is not None:
                arrivals.append(arrival)
                size += arrival.stamp.size
            if size > _CHUNK_BYTES or time.monotonic() > until:
                break
        states = self._ledger.accept(arrivals) if arrivals else []
        for path in done:
            del self._ready[path]
        for arrival, state in zip(arrivals, states, strict=True):
            if state == "waiting":
                self._cleared(arrival.path)
        if waiting is not None:
            if not self._full:
                logger.error("The inbox waits: %s", waiting.message)
            self._full = waiting.message
            # To the end of the line: it must not keep others from being tried.
            for path in [path for path in islice(self._ready, CHUNK)]:
                self._ready[path] = self._ready.pop(path)
            if not arrivals:
                raise waiting
        elif arrivals and self._full:
            logger.info("The inbox goes on.")
            self._full = ""
        return len(arrivals)

    def _watch_again(self, path: str) -> None:
        with contextlib.suppress(OSError):
            if (found := find(self.root, path)) is not None:
                # At least a second: whatever kept it from being read is not to be tried without a pause.
                settle = max(1.0, self._rules.of(path.rpartition("/")[0]).settle)
                self._pending[path] = _Pending(found, time.monotonic(), settle)

    def _take(self, path: str, found: Found) -> Arrival | None:
        """Read one file; None when it has gone. Raises Moving, DiskFull."""
        rules = self._rules.of(path.rpartition("/")[0])
        keep = {"formats": list(rules.formats), "source": rules.source, "done": os.fspath(rules.done)}
        try:
            if found.problem is not None:
                raise UnsupportedMedia(f"{one_line(path)} {found.problem}.")
            descriptor = open_below(self.root, found.target)
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

    def _read(
        self, source: _Source, path: str, stamp: Stamp, rules: FolderSettings, keep: Mapping[str, Any]
    ) -> Arrival:
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
                raise UnsupportedMedia(
                    f"{name} is of a kind that is not known here: images, sound, video, .txt and .md are."
                )
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
            path=path, stamp=stamp, rules=keep, key=steps.key(sha256, kind, asked, self._settings), sha256=sha256,
            kind=kind, parameters=asked, step=step, draft=draft, kept=kept,
        )  # fmt: skip

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


def _slices(paths: Iterator[str], length: int) -> Iterator[list[str]]:
    while some := list(islice(paths, length)):
        yield some


__all__ = ["CHUNK", "Inbox", "Moving"]
