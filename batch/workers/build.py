"""What decides which tokens a seed draws: two workers of the same build give the same answers."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import msgspec

from batch.payloads.model_info import AnyModelInfo, ChatModelInfo, SpeechModelInfo

BUILD_NOTE = Path(sys.prefix) / "batch-build.json"
"""What setup/install.py leaves: which variant of each library it built, why not one before it, and by what it changed its
source."""
_SAMPLES = 64
_SAMPLE_BYTES = 64 << 10
"""A file of many GB is known by so many pieces of it, its first and its last among them: to read all of it would take as long
as loading it."""
_SHOWN_DIGITS = 12


def build_of(info: AnyModelInfo) -> str:
    """Model, a sha256 of samples of its files, how they are loaded, library, version and what its source was changed by, and
    kind of device, in one line."""
    package = "pywhispercpp" if isinstance(info, SpeechModelInfo) else "llama-cpp-python"
    try:
        library = f"{package} {importlib.metadata.version(package)}{_changes(package)}"
    except importlib.metadata.PackageNotFoundError:
        library = "no library"
    digest, loaded, device = hashlib.sha256(), [], platform.machine()
    _add_samples(digest, info.path)
    if isinstance(info, ChatModelInfo):
        _add_samples(digest, info.mmproj or "")
        loaded = [] if info.kv_cache == "f16" else [f"{info.kv_cache} cache"]
        loaded += [] if info.repacked else ["weights in the file"]
        # The instructions that llama.cpp was compiled for and finds here: others round otherwise.
        features = hashlib.sha256(info.build.encode()).hexdigest()[:_SHOWN_DIGITS] if info.build else "unknown"
        device = f"{'gpu' if info.gpu else device} {features}"
    return ", ".join([info.model, digest.hexdigest()[:_SHOWN_DIGITS], *loaded, library, device])


class BuildNote(msgspec.Struct, frozen=True):
    """What setup/install.py noted of a library."""

    variant: str = ""
    """Which one it compiled; empty: nobody noted it."""
    failures: list[str] = []
    """Why it is not one before."""
    changes: str = ""
    """By what its source was changed before; empty: by nothing."""


def build_note(package: str) -> BuildNote:
    """How a library was built, as far as it was noted."""
    try:
        return msgspec.json.decode(BUILD_NOTE.read_bytes(), type=dict[str, BuildNote])[package]
    except (OSError, KeyError, msgspec.MsgspecError):
        return BuildNote()


def _changes(package: str) -> str:
    """By what a library's source was changed before it was compiled; empty where it was not, or nobody noted it."""
    changes = build_note(package).changes
    return f" changed by {changes}" if changes else ""


def _add_samples(digest: hashlib._Hash, path: str) -> None:
    """A file's size and pieces of it; nothing where there is no such file."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{size};".encode())
            for number in range(_SAMPLES):
                file.seek(max(0, size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    except OSError:
        digest.update(b"none;")
