"""Models from Hugging Face or a mirror of it.

A hub is trusted with handing over bytes and with nothing else: which bytes is said by the catalogue, or by the first pull on
this machine; a file's name never comes from it; and what it sends beyond the size that it listed is not read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from batch.catalog.entry import Entry, File, Source
from batch.catalog.fetched import sha256_of
from batch.catalog.package_registry import Report
from batch.catalog.pins import Pin
from batch.errors import DiskFull, ModelProblem

MAX_LISTING_BYTES = 16 << 20
"""A repository of thousands of files lists itself in less."""
LISTING_TIMEOUT_S = 30.0
SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")


class _Lfs(msgspec.Struct):
    sha256: str | None = None
    size: int | None = None


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    lfs: _Lfs | None = None


class _Listing(msgspec.Struct):
    """What the hub's API says of a repository."""

    siblings: list[_Sibling] = []
    sha: str | None = None


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that has arrived whole, not yet under its name."""

    path: Path
    pin: Pin


def fetch(
    entry: Entry, source: Source, folder: Path, address: str, report: Report, pins: Mapping[str, Pin] | None = None
) -> dict[str, FetchedFile]:
    """Get the files of `entry` into `folder`, which a later call resumes from, by role.

    `address` is a mirror's, or empty for the hub's own (or HF_ENDPOINT). `pins` says what the files were when they were
    fetched first; the same or nothing is taken. Raises ModelProblem or DiskFull in one sentence.
    """
    from huggingface_hub import constants, errors

    endpoint = (address or constants.ENDPOINT).rstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    pins = pins or {}
    revision = next((pin.revision for pin in pins.values()), source.revision)
    try:
        report(f"asking {endpoint} for {source.repo}", 0, None)
        listing = _list(endpoint, source.repo, revision)
        fetched = {}
        for role, names in (source.files or {}).items():
            listed = _choose(entry, source, role, names, listing, endpoint, pins.get(role))
            fetched[role] = FetchedFile(_download_checked(endpoint, entry, listed, folder, report), listed)
        return fetched
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):  # what a lost connection is called here
            raise _unreachable(entry, endpoint, error) from None
        if revision != source.revision:
            raise ModelProblem(
                f"{endpoint} has no {source.repo} at {revision}, from which it was first fetched on this machine: "
                f"run `batch models pull {entry.name} --repin` to take what it has now."
            ) from None
        raise ModelProblem(
            f"{endpoint} has no {source.repo} at {source.revision}: set {entry.kind}.model to a model file on this machine."
        ) from None
    except (ModelProblem, DiskFull):
        raise
    except Exception as error:  # httpx, OSError, xet's own: whichever way a network breaks
        raise _unreachable(entry, endpoint, error) from None


def _list(endpoint: str, repo: str, revision: str) -> _Listing:
    """The repository's files at a revision; raises huggingface_hub's errors, or ModelProblem for what is no listing."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    url = f"{endpoint}/api/models/{repo}/revision/{revision}"
    with get_session().stream("GET", url, params={"blobs": "true"}, headers=_headers(), timeout=LISTING_TIMEOUT_S) as response:
        hf_raise_for_status(response)
        body = bytearray()
        for piece in response.iter_bytes(1 << 16):
            body += piece
            if len(body) > MAX_LISTING_BYTES:
                raise ModelProblem(f"{endpoint} lists {repo} in more than {MAX_LISTING_BYTES} bytes: name another mirror.")
    try:
        return msgspec.json.decode(bytes(body), type=_Listing)
    except (msgspec.MsgspecError, RecursionError):
        raise ModelProblem(f"{endpoint} does not list {repo} as a model hub does: name another mirror.") from None


def _headers() -> dict[str, str]:
    """Without a token: the repositories are public, and a mirror has no business with it."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    headers: dict[str, str] = build_hf_headers(token=False)
    return headers


def _choose(
    entry: Entry, source: Source, role: str, names: Sequence[str], listing: _Listing, endpoint: str, pin: Pin | None
) -> Pin:
    """The first of `names` that the repository has (it has changed the case of its names before), as it is to be fetched.

    Raises ModelProblem where it is not what the catalogue or the first pull says, or the hub does not say what it is.
    """
    listed = {sibling.rfilename.lower(): sibling for sibling in listing.siblings}
    sibling = next((listed[name.lower()] for name in names if name.lower() in listed), None)
    if sibling is None:
        raise ModelProblem(f"{source.repo} has no longer a file {names[0]} for the {role}: name a local file instead.")
    name = next(name for name in names if name.lower() == sibling.rfilename.lower())
    file = entry.file(role) or File(role, name)
    sha256, size = (sibling.lfs.sha256, sibling.lfs.size) if sibling.lfs else (None, None)
    sha256 = sha256 or file.sha256
    size = size if size is not None else sibling.size
    if sha256 is None or SHA256.fullmatch(sha256) is None:
        raise ModelProblem(f"{endpoint} names no sha256 for {name} of {source.repo}, so it was not fetched.")
    if size is None or size < 0:
        raise ModelProblem(f"{endpoint} names no size for {name} of {source.repo}, so it was not fetched.")
    revision = listing.sha or source.revision
    if revision != source.revision and COMMIT.fullmatch(revision) is None:
        raise ModelProblem(f"{endpoint} names no commit for {source.repo}, so it was not fetched.")
    for expected, expected_size, who, way_out in (
        (file.sha256, file.size, "the catalogue names", "name another mirror"),
        (
            pin and pin.sha256,
            pin and pin.size,
            "was first fetched on this machine",
            f"if its makers have replaced it, run `batch models pull {entry.name} --repin`",
        ),
    ):
        if (expected and sha256 != expected) or (expected_size and size != expected_size):
            raise ModelProblem(
                f"{endpoint} lists another {name} ({size} bytes, sha256 {sha256[:12]}…) than {who} "
                f"(sha256 {(expected or '?')[:12]}…), so it was not fetched: {way_out}."
            )
    return Pin(source.repo, sibling.rfilename, revision, sha256, size)


def _download_checked(endpoint: str, entry: Entry, listed: Pin, folder: Path, report: Report) -> Path:
    """The file, whole and of the listed sha256, under a name in `folder` that later calls know it by."""
    free = shutil.disk_usage(folder).free
    # named by the content, so that a file that changed on the hub is not continued with another's bytes
    path = folder / f"{listed.sha256}.part"
    missing = listed.size - (path.stat().st_size if path.exists() else 0)
    if free < missing:
        need = f"{listed.file} needs {missing / 1e9:.1f} GB below {folder}"
        raise DiskFull(f"{need}, where {free / 1e9:.1f} GB are free: make room, or set models_dir to another disk.")
    _download(endpoint, listed, path, report)
    report(f"checking {listed.file}", 0, None)
    if sha256_of(path) != listed.sha256:
        path.unlink()
        raise ModelProblem(
            f"{listed.file} arrived damaged (its sha256 is not {listed.sha256[:12]}…) and was removed: "
            f"run `batch models pull {entry.name}` again, or name another mirror."
        )
    return path


def _download(endpoint: str, listed: Pin, path: Path, report: Report) -> None:
    """Append to `path` what is still missing. hf_hub_download begins anew after an interrupted run; this goes on."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get

    url = hf_hub_url(listed.repo, listed.file, revision=listed.revision, endpoint=endpoint)
    path.touch()
    with path.open("rb+") as file:
        start = file.seek(0, os.SEEK_END)
        if start > listed.size:
            start = file.seek(0)
            file.truncate()
        http_get(
            url,
            cast(BinaryIO, BoundedFile(file, listed)),
            resume_size=start,
            headers=_headers(),
            expected_size=listed.size,
            tqdm_class=_bar(listed.file, report),
        )


class BoundedFile:
    """As much of a file as huggingface_hub's http_get uses, which takes no byte more than the listed size."""

    def __init__(self, file: BinaryIO, listed: Pin) -> None:
        self._file, self._listed = file, listed

    def write(self, data: bytes) -> int:
        """Raises ModelProblem, and writes nothing, where the file would grow beyond its listed size."""
        if self._file.tell() + len(data) > self._listed.size:
            raise ModelProblem(
                f"{self._listed.file} is larger than the {self._listed.size} bytes that the hub listed, so it was given up: "
                "name another mirror."
            )
        return self._file.write(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        return self._file.truncate(size)


def _bar(label: str, report: Report) -> Any:
    """As much of tqdm's class as huggingface_hub uses; it draws nothing and calls `report`."""

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
