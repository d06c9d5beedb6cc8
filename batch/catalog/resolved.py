"""From settings to the files of one model: a catalogue's name, the profile's choice, or any local path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from batch.catalog.entry import Entry, Licence, entries, profile
from batch.catalog.fetched import check, check_magic, look
from batch.errors import ModelProblem
from batch.model_kind import Kind
from batch.settings import EmbeddingSettings, Settings, VlmSettings


@dataclass(frozen=True, slots=True)
class Resolved:
    """A model that lies on this machine and looks whole."""

    name: str
    """The catalogue's name, or the file's without its ending."""
    kind: str
    path: Path
    mmproj: Path | None = None
    """The vision projector, for a vlm that sees."""
    sampling: Mapping[str, float] = field(default_factory=dict)
    """Defaults by the names of batch/payloads/; the GGUF's own come next, then llama-server's."""
    licence: Licence | None = None
    """None for a local path."""
    notes: str = ""
    """What it can and can't do, for people."""
    sha256: str | None = None
    """Of the weights, where it is known."""
    matryoshka: bool = False
    query_prefix: str = ""
    """What goes before a question to search with, for an embedding model."""


def configured(settings: Settings, kind: Kind) -> Entry | None:
    """The catalogue's entry that the settings name for `kind`; None when they name a path."""
    model = settings.model_of(kind).model
    if not model:
        return profile(settings.profile)[kind]
    return next((entry for entry in entries() if entry.name == model), None)


def resolve(settings: Settings, kind: Kind) -> Resolved:
    """Where the model of `kind` lies.

    Raises ModelProblem: one sentence that says what is missing or damaged and the way to get it. Reads a file
    through only once after it was fetched or changed, so it is quick at every later start.
    """
    section = settings.model_of(kind)
    entry = configured(settings, kind)
    if entry is None:
        model = _local(settings, kind, section.model)
    else:
        if entry.kind != kind:
            raise ModelProblem(f'{kind}.model is "{entry.name}", which is a model for {entry.kind}: choose another.')
        model = _fetched(settings, entry)
    if isinstance(section, VlmSettings) and section.mmproj:
        mmproj = _file(settings, "vlm.mmproj", section.mmproj)
        check_magic(mmproj, kind)
        model = replace(model, mmproj=mmproj)
    if isinstance(section, EmbeddingSettings) and section.query_prefix != "auto":
        model = replace(model, query_prefix=section.query_prefix)
    return model


def vad(settings: Settings) -> Path | None:
    """The voice activity model: the one that the settings name, else the catalogue's; None with "none"."""
    if settings.stt.vad_model == "none":
        return None
    if settings.stt.vad_model:
        path = _file(settings, "stt.vad_model", settings.stt.vad_model)
        check_magic(path, "vad")
        return path
    shipped = next(entry for entry in entries() if entry.kind == "vad")
    if not look(shipped, settings.models_dir).complete:
        return None
    return _fetched(settings, shipped).path


def _fetched(settings: Settings, entry: Entry) -> Resolved:
    state = look(entry, settings.models_dir)
    if state.missing:
        setting = f", or set {entry.kind}.model to a model file on this machine" if entry.kind != "vad" else ""
        raise ModelProblem(
            f"The model {entry.name} is not fetched ({state.missing[0]} is missing): "
            f"run `batch models pull {entry.name}`{setting}."
        )
    sums = {file.role: check(entry, file, state.paths[file.role]) for file in entry.files}
    return Resolved(
        entry.name,
        entry.kind,
        state.paths["model"],
        state.paths.get("mmproj"),
        entry.sampling,
        entry.licence,
        entry.notes,
        sums["model"],
        entry.matryoshka,
        entry.query_prefix,
    )


def _local(settings: Settings, kind: Kind, text: str) -> Resolved:
    path = _file(settings, f"{kind}.model", text)
    check_magic(path, kind)
    return Resolved(path.stem, kind, path)


def _file(settings: Settings, setting: str, text: str) -> Path:
    """A path as it stands or below the home folder."""
    path = Path(text).expanduser()
    for candidate in (path, settings.home / path):
        if candidate.is_file():
            return candidate.absolute()
    if setting.endswith(".model"):
        names = ", ".join(entry.name for entry in entries() if f"{entry.kind}.model" == setting)
        raise ModelProblem(
            f'{setting} is "{text}", which is neither a file on this machine nor a model of the catalogue ({names}).'
        )
    raise ModelProblem(f'{setting} is "{text}", but there is no such file.')
