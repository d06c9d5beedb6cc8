"""The outbox: a file's results beside each other under its own path, whole or not at all, JSON last."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from batch import fail_points
from batch.errors import BatchError
from batch.folder import pipeline as steps
from batch.folder import result_document as document
from batch.folder.file_names import ERROR, RESULTS, one_line, result_stem
from batch.folder.ledger import Due, Ledger
from batch.folder.safe_open import find, open_below
from batch.media.kind import MediaKind
from batch.media.subtitles import to_srt, to_vtt
from batch.queue.spool import Spool
from batch.settings import Settings

logger = logging.getLogger("batch.folder")
_GROUP = 32
"""Files written together: their fsyncs share the file system's journal commits."""
_GROUP_BYTES = 8 << 20


@dataclass(slots=True)
class _Plan:
    """What is to be done in the outbox for one file."""

    due: Due
    state: str
    """done, linked or failed."""
    stem: str
    parts: list[tuple[str, Callable[[], Iterable[bytes]]]]
    """(ending, content) in order of appearance: the last one says that all are there."""
    stale: tuple[str, ...]
    """Endings that an earlier state of the source may have left."""
    mark: bytes = b""
    """Stands in the first few KB of a last part that holds this very result."""
    error: OSError | None = None
    there: bool = False
    """Already written, by a service that was killed before it could note it."""


@dataclass(slots=True)
class Outbox:
    """Blocking: call from one thread at a time; `clear` from any."""

    settings: Settings
    ledger: Ledger
    spool: Spool
    _complaint: str = ""
    _root: str = field(init=False)

    def __post_init__(self) -> None:
        self._root = os.fspath(self.settings.outbox_dir)

    def deliver(self, going: Callable[[], bool] = lambda: True) -> bool:
        """Write every outcome that is due, while `going`; False when some could not be written and must wait."""
        after, stuck = 0, False
        while going():
            due = _light(self.ledger.due(after, _GROUP))
            if not due:
                break
            after = due[-1].id
            written = self._group(due)
            stuck = stuck or written < len(due)
            if not written:  # not one file's trouble but the outbox's
                break
        if not stuck and self._complaint:
            logger.info("The outbox can be written again.")
            self._complaint = ""
        return not stuck

    def clear(self, path: str) -> None:
        """Take away what says "done" or "failed" of an earlier state of a source."""
        stem = os.path.join(self._root, result_stem(path))
        for ending in (".json", ERROR):
            with contextlib.suppress(OSError):
                os.unlink(stem + ending)

    def missing(self, after: int) -> tuple[int | None, int]:
        """Look at a slice of the files that lie in the inbox and have results: those whose JSON is not in the outbox
        are written again. Returns the next slice's start, None behind the last, and how many were missing."""
        files = self.ledger.settled(after)
        lost = [id for id, path in files if not os.path.lexists(os.path.join(self._root, result_stem(path) + ".json"))]
        if lost:
            self.ledger.write_again(lost)
        return (files[-1][0] if files else None), len(lost)

    # -- planning

    def _plan(self, due: Due) -> _Plan:
        error = due.error
        if error is None and due.content is not None:
            error = due.content.error
            if error is None:
                try:
                    return self._results(due)
                except (BatchError, FileNotFoundError, KeyError, IndexError) as problem:
                    logger.warning("the result of %s cannot be read: %s", one_line(due.path), problem)
                    error = BatchError("The result is no longer kept: drop the file again.").record()
        lines = document.failure(due, error or {})
        return _Plan(
            due,
            "failed",
            result_stem(due.path),
            [(ERROR, lambda: document.render(lines))],
            RESULTS,
            mark=_line("job", lines["job"]) + b"\n" if lines["job"] else b"",
        )

    def _results(self, due: Due) -> _Plan:
        content = due.content
        assert content is not None
        jobs = {}
        for step, id in content.jobs.items():
            job = self.ledger.store.job(id)
            if job is None or job.result is None:
                raise BatchError(f"job {id} has no result")
            jobs[step] = job
        found, rows = document.result(due, content, jobs, self.spool)
        wanted = due.rules.get("formats", ("txt", "json", "srt"))
        parts: list[tuple[str, Callable[[], Iterable[bytes]]]] = []
        if steps.CAPTION in jobs and "txt" in wanted:
            parts.append((".txt", lambda: [found["text"].encode("utf-8", "replace") + b"\n"]))
        if steps.TRANSCRIPT in jobs:
            segments = found["segments"]
            if "txt" in wanted:
                lines = [segment["text"] for segment in segments if segment["text"]]
                parts.append((".txt", lambda: ["".join(f"{line}\n" for line in lines).encode("utf-8", "replace")]))
            timed = (jobs[steps.TRANSCRIPT].result or {}).get("segments", [])  # with their words' times
            for name, subtitles in (("srt", to_srt), ("vtt", to_vtt)):
                if name in wanted:
                    parts.append((f".{name}", _encoded(subtitles, timed)))
        parts.append((".json", lambda: document.render(found, rows)))
        unwanted = tuple(ending for ending in RESULTS if ending not in dict(parts))
        return _Plan(
            due,
            "linked" if due.linked else "done",
            result_stem(due.path),
            parts,
            (ERROR, *unwanted),
            mark=_line("jobs", found["jobs"]) + b",\n",
        )

    # -- writing

    def _group(self, due: Iterable[Due]) -> int:
        """Write a group; every stage is done for all of them before the next, so that they share what it costs."""
        plans = [self._plan(one) for one in due]
        folders: set[str] = set()
        self._each(plans, lambda plan: self._prepare(plan, folders))
        self._each(plans, self._flush)
        fail_points.reach("outbox-temporary")
        self._each(plans, self._replace_parts)
        # Once more in between: no power cut may leave a JSON without the files that it says are there.
        if any(len(plan.parts) > 1 for plan in plans):
            self._sync_folders(plans, folders)
        fail_points.reach("outbox-parts")
        self._each(plans, lambda plan: self._place(plan, plan.parts[-1][0]))
        self._sync_folders(plans, folders)
        fail_points.reach("outbox-json")
        written = [plan for plan in plans if plan.error is None]
        outcomes = [(plan.due, plan.state, self._dispose(plan)) for plan in written]
        fail_points.reach("source-moved")
        self.ledger.delivered(outcomes)
        fail_points.reach("outbox-noted")
        for plan in plans:
            if plan.error is not None:
                self._complain(plan)
        return len(written)

    def _each(self, plans: Iterable[_Plan], work: Callable[[_Plan], None]) -> None:
        """One file's trouble is its own: it is left for later, without a trace."""
        for plan in plans:
            if plan.error is not None or plan.there:
                continue
            try:
                work(plan)
            except OSError as error:
                plan.error = error
                for ending, _ in plan.parts:
                    with contextlib.suppress(OSError):
                        os.unlink(self._temporary(plan, ending))

    def _prepare(self, plan: _Plan, folders: set[str]) -> None:
        _make_folders(os.path.dirname(self._target(plan, "")), folders)
        plan.there = self._is_there(plan)
        for ending, content in plan.parts:
            temporary = self._temporary(plan, ending)
            with contextlib.suppress(FileNotFoundError):  # a killed service's: the name is always the same
                os.unlink(temporary)
            if plan.there:
                continue
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as file:
                for chunk in content():
                    file.write(chunk)

    def _is_there(self, plan: _Plan) -> bool:
        if not plan.mark:
            return False
        try:
            with open(self._target(plan, plan.parts[-1][0]), "rb") as file:
                if plan.mark not in file.read(64 << 10):
                    return False
        except FileNotFoundError:
            return False
        return all(os.path.lexists(self._target(plan, ending)) for ending, _ in plan.parts)

    def _flush(self, plan: _Plan) -> None:
        for ending, _ in plan.parts:
            _sync(self._temporary(plan, ending), os.O_WRONLY)

    def _replace_parts(self, plan: _Plan) -> None:
        for ending in (plan.parts[-1][0], *plan.stale):  # what says "done" goes first
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._target(plan, ending))
        for ending, _ in plan.parts[:-1]:
            self._place(plan, ending)

    def _place(self, plan: _Plan, ending: str) -> None:
        os.replace(self._temporary(plan, ending), self._target(plan, ending))

    def _sync_folders(self, plans: Iterable[_Plan], made: set[str]) -> None:
        """A rename is on disk when its folder is; so are new folders when theirs are."""
        of: dict[str, list[_Plan]] = {folder: [] for folder in made}
        for plan in plans:
            of.setdefault(os.path.dirname(self._target(plan, "")), []).append(plan)
        for folder, concerned in of.items():
            try:
                _sync(folder, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOTSUP):  # some network shares know no such thing
                    continue
                for plan in concerned:
                    plan.error = plan.error or error

    def _target(self, plan: _Plan, ending: str) -> str:
        return os.path.join(self._root, plan.stem + ending)

    def _temporary(self, plan: _Plan, ending: str) -> str:
        return os.path.join(os.path.dirname(self._target(plan, "")), f".batch-{plan.due.id}{ending}.tmp")

    def _complain(self, plan: _Plan) -> None:
        sentence = f"{plan.error.strerror if plan.error else ''}"
        if sentence != self._complaint:  # once, however often it is tried
            logger.error(
                "The results of %s cannot be written to %s: %s; they are kept, and written as soon as they can be.",
                one_line(plan.due.path),
                self._root,
                sentence,
            )
            self._complaint = sentence

    # -- the source

    def _dispose(self, plan: _Plan) -> bool:
        """Do with the source what its rules say, once its results are there; True when it has left the inbox."""
        due = plan.due
        wish = due.rules.get("source", "keep")
        if wish == "keep" or plan.state == "failed":
            return False
        inbox = os.fspath(self.settings.inbox_dir)
        found = find(inbox, due.path)
        if found is None or not found.stamp.same(due.stamp):  # gone already, or dropped anew
            return found is None
        folder, _, name = due.path.rpartition("/")
        try:
            here = open_below(inbox, folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if wish == "delete":
                    os.unlink(name, dir_fd=here)
                else:
                    self._move(here, due, os.path.join(self.settings.home, due.rules["done"]))
            finally:
                os.close(here)
        except OSError as error:
            logger.warning("%s stays in the inbox: it cannot be taken away: %s", one_line(due.path), error.strerror)
            return False
        return True

    def _move(self, here: int, due: Due, done: str) -> None:
        folder, _, name = due.path.rpartition("/")
        there = os.path.join(done, folder)
        os.makedirs(there, exist_ok=True)
        target, number = os.path.join(there, name), 1
        while os.path.lexists(target):  # an earlier file of this name is not written over
            number += 1
            target = os.path.join(there, f"{number}-{name}")
        try:
            os.rename(name, target, src_dir_fd=here)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy = os.path.join(there, f".batch-{due.id}.part")  # always the same: a killed service's is written over
            with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=here), "rb") as source, open(copy, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
                out.flush()
                os.fsync(out.fileno())
            os.replace(copy, target)
            os.unlink(name, dir_fd=here)
        _sync(there, os.O_RDONLY | os.O_DIRECTORY)


def _light(due: list[Due]) -> list[Due]:
    """As many from the front as may be held in memory at once: a text's document holds the text."""
    total = 0
    for number, one in enumerate(due):
        total += one.content.size if one.content and one.content.kind == MediaKind.TEXT else 0
        if total > _GROUP_BYTES and number:
            return due[:number]
    return due


def _line(key: str, value: Any) -> bytes:
    return f"  {json.dumps(key)}: {document.dumped(value)}".encode()


def _encoded(
    subtitles: Callable[[list[dict[str, Any]]], str], segments: list[Mapping[str, Any]]
) -> Callable[[], Iterable[bytes]]:
    return lambda: [subtitles([dict(segment) for segment in segments]).encode("utf-8", "replace")]


def _make_folders(folder: str, made: set[str]) -> None:
    """As os.makedirs; the folders whose entries are new are added to `made`."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder) or "."
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(one)
        made.add(os.path.dirname(one) or ".")


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
