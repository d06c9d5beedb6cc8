"""Whether a model's file is there and whole: size, first bytes, sha256, and the record that a pull leaves beside it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import structs

from batch.catalog.entry import Entry, File
from batch.errors import ModelProblem

MAGICS = {"vlm": b"GGUF", "embedding": b"GGUF", "stt": b"lmgg", "vad": b"lmgg"}
"""First bytes by kind; "lmgg" is ggml's 0x67676d6c in little-endian."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What can be told of a model's files without reading them through."""

    paths: dict[str, Path]
    """By role; where they lie or would lie."""
    missing: tuple[Path, ...]
    size: int
    """Bytes on disk of those that are there."""
    sha256: str | None
    """Of the weights, as recorded or as the catalogue says."""

    @property
    def complete(self) -> bool:
        return not self.missing


def look(entry: Entry, models: Path) -> Fetched:
    """Look where the files of `entry` lie; costs a few stats."""
    paths = {file.role: entry.path(file, models) for file in entry.files}
    there = {role: path for role, path in paths.items() if path.is_file()}
    weights = entry.files[0]
    sha256 = weights.sha256 or (read_record(paths["model"]).sha256 if "model" in there else None)
    return Fetched(
        paths,
        tuple(p for role, p in paths.items() if role not in there),
        sum(path.stat().st_size for path in there.values()),
        sha256,
    )


def check_magic(path: Path, kind: str) -> None:
    """Refuse a file whose first bytes are not those of a model of `kind`; raises ModelProblem."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise ModelProblem(f"{path} cannot be read: {error.strerror}.") from None
    if start != MAGICS[kind]:
        format_name = "GGUF" if MAGICS[kind] == b"GGUF" else "whisper.cpp ggml"
        raise ModelProblem(f"{path} is not a {format_name} file: name another file, or fetch it again.")


def check(entry: Entry, file: File, path: Path) -> str | None:
    """Refuse a file that is not whole; returns its sha256 where one is known.

    Reads it through only when its time or size is not the recorded one, that is once after a copy or a change.
    """
    again = f"remove it and run `batch models pull {entry.name}`"
    record = read_record(path)
    stat = path.stat()
    size = file.size or record.size
    if size is not None and stat.st_size != size:
        raise ModelProblem(f"{path} is damaged ({stat.st_size} bytes instead of {size}): {again}.")
    check_magic(path, entry.kind)
    sha256 = file.sha256 or record.sha256
    if sha256 is None or entry.packaged:
        return sha256
    if record.sha256 != sha256 or record.mtime_ns != stat.st_mtime_ns:
        if sha256_of(path) != sha256:
            raise ModelProblem(f"{path} is damaged (its sha256 is not {sha256[:12]}…): {again}.")
        write_record(path, structs.replace(record, model=entry.name, sha256=sha256))
    return sha256


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_path(path: Path) -> Path:
    """The small JSON file beside a model file."""
    return path.with_name(path.name + ".json")


class Record(msgspec.Struct, frozen=True):
    """What is known of a file from its last check: as long as its size and time stand, it is not read through again."""

    model: str | None = None
    sha256: str | None = None
    source: dict[str, str | dict[str, str]] | None = None
    """Where it came from: wheels, or a repository and its commit."""
    licence: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    checked_at: int = 0


def read_record(path: Path) -> Record:
    """The record beside a file; an empty one where there is none or it cannot be read."""
    try:
        return msgspec.json.decode(record_path(path).read_bytes(), type=Record)
    except (OSError, ValueError):
        return Record()


def write_record(path: Path, record: Record) -> None:
    """Leave `record`, with the file's size and time now, beside `path`; a read-only folder goes without."""
    stat = path.stat()
    checked = structs.replace(record, size=stat.st_size, mtime_ns=stat.st_mtime_ns, checked_at=int(time.time()))
    with contextlib.suppress(OSError):
        draft = record_path(path).with_suffix(f".json.{os.getpid()}")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(checked)) + b"\n")
        os.replace(draft, record_path(path))
