"""What decides which tokens a seed draws: two workers of the same build give the same answers."""

from __future__ import annotations

import importlib.metadata
import platform

from batch.payloads.model_info import AnyModelInfo, ChatModelInfo, SpeechModelInfo


def build_of(info: AnyModelInfo) -> str:
    """Model, size of its weights in bytes, library and version, and kind of device, in one line."""
    package = "pywhispercpp" if isinstance(info, SpeechModelInfo) else "llama-cpp-python"
    try:
        library = f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        library = "no library"
    device = "gpu" if isinstance(info, ChatModelInfo) and info.gpu else platform.machine()
    return f"{info.model}, {info.size} bytes, {library}, {device}"
