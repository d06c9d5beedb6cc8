"""Models from Hugging Face or a mirror of it: resumed where a pull broke off, checked against the hub's sha256."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.catalog.entry import Entry, Source
from batch.catalog.fetched import sha256_of
from batch.catalog.package_registry import Report
from batch.errors import ModelProblem


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as the hub lists it."""

    name: str
    size: int | None
    sha256: str | None
    commit: str


def fetch(entry: Entry, source: Source, folder: Path, address: str, report: Report) -> dict[str, Path]:
    """Get the files of `entry` into `folder`, which a later call resumes from; {role: file}.

    `address` is a mirror's, or empty for the hub's own (or HF_ENDPOINT). Raises ModelProblem in one sentence.
    """
    from huggingface_hub import HfApi, constants, errors

    endpoint = (address or constants.ENDPOINT).rstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    # without a token: the repositories are public, and a mirror has no business with it
    api = HfApi(endpoint=endpoint, token=False)
    try:
        report(f"asking {endpoint} for {source.repo}", 0, None)
        info = api.model_info(source.repo, revision=source.revision, files_metadata=True, timeout=30)
        return {
            role: _file(api, entry, source, role, _choose(source, role, names, info), folder, report)
            for role, names in (source.files or {}).items()
        }
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):  # what a lost connection is called here
            raise _unreachable(entry, endpoint, error) from None
        raise ModelProblem(
            f"{endpoint} has no {source.repo} at {source.revision}: set {entry.kind}.model to a model file on this machine."
        ) from None
    except ModelProblem:
        raise
    except Exception as error:  # httpx, OSError, xet's own: whichever way a network breaks
        raise _unreachable(entry, endpoint, error) from None


def _choose(source: Source, role: str, names: Sequence[str], info: Any) -> Listed:
    """The first of `names` that the repository has; it has changed the case of its names before."""
    listed = {sibling.rfilename.lower(): sibling for sibling in info.siblings or ()}
    for name in names:
        if found := listed.get(name.lower()):
            sha256 = found.lfs.sha256 if found.lfs else None
            return Listed(found.rfilename, found.size, sha256, info.sha or source.revision)
    raise ModelProblem(f"{source.repo} has no longer a file {names[0]} for the {role}: name a local file instead.")


def _file(api: Any, entry: Entry, source: Source, role: str, listed: Listed, folder: Path, report: Report) -> Path:
    expected = next((file.sha256 for file in entry.files if file.role == role), None) or listed.sha256
    if expected is None:
        raise ModelProblem(f"The hub names no sha256 for {listed.name} of {source.repo}, so it was not fetched.")
    # named by the content, so that a file that changed on the hub is not continued with another's bytes
    path = folder / f"{expected}.part"
    _download(api, source, listed, path, report)
    report(f"checking {listed.name}", 0, None)
    if sha256_of(path) != expected:
        path.unlink()
        raise ModelProblem(
            f"{listed.name} arrived damaged (its sha256 is not {expected[:12]}…) and was removed: "
            f"run `batch models pull {entry.name}` again, or name another mirror."
        )
    return path


def _download(api: Any, source: Source, listed: Listed, path: Path, report: Report) -> None:
    """Append to `path` what is still missing. hf_hub_download begins anew after an interrupted run; this goes on."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(source.repo, listed.name, revision=listed.commit, endpoint=api.endpoint)
    path.touch()
    with path.open("rb+") as file:
        start = file.seek(0, os.SEEK_END)
        if listed.size is not None and start > listed.size:
            start = file.seek(0)
            file.truncate()
        http_get(
            url,
            file,
            resume_size=start,
            headers=build_hf_headers(token=False),
            expected_size=listed.size,
            tqdm_class=_bar(listed.name, report),
        )


def _bar(label: str, report: Report) -> Any:
    """As much of tqdm's class as huggingface_hub uses; it draws nothing and tells `report`."""

    class Bar:
        def __init__(self, *_: Any, total: float | None = None, initial: float = 0, **__: Any) -> None:
            self.done, self.total = initial, total
            report(label, self.done, self.total)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n: float | None = 1) -> None:
            self.done += n or 0
            report(label, self.done, self.total)

    return Bar


def _unreachable(entry: Entry, endpoint: str, error: Exception) -> ModelProblem:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    setting = "stt.vad_model" if entry.kind == "vad" else f"{entry.kind}.model"
    return ModelProblem(
        f"The model hub {endpoint} cannot be reached ({reason[:200]}): name a mirror with HF_ENDPOINT "
        f"or `hub` in batch.toml, or set {setting} to a model file on this machine."
    )
