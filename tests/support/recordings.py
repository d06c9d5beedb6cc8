"""Recordings of people, from Debian's pocketsphinx-testdata: fetched once into the user's cache, never committed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from batch.media.sound.audio import load
from sounds import Samples

PACKAGE = "pocketsphinx-testdata"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batch" / "recordings"
AUSTEN = {
    "0870": "and mr john dashwood had then leisure to consider how much there might be prudently in his power to do for them",
    "0880": "he was not an ill disposed young man",
    "0890": "unless to be rather cold hearted and rather selfish is to be ill disposed",
    "0920": "had he married a more amiable woman he might have been made still more respectable than he was",
    "0930": "he might even have been made amiable himself",
}
"""What is read in each of the LibriVox recordings."""


@cache
def recordings() -> Path:
    """The folder of the recordings. Skips the test where they cannot be had."""
    folder = CACHE / PACKAGE
    if folder.is_dir():
        return folder
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        pytest.skip(f"{PACKAGE} comes from a Debian mirror")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        fetched = subprocess.run(
            ["apt-get", "download", PACKAGE], cwd=scratch, capture_output=True, text=True, timeout=120, check=False
        )
        archives = list(Path(scratch).glob("*.deb"))
        if not archives:
            pytest.skip(f"{PACKAGE} could not be fetched: {fetched.stderr.strip()[-200:]}")
        subprocess.run(["dpkg-deb", "-x", archives[0], f"{scratch}/all"], check=True, timeout=120)
        os.replace(f"{scratch}/all/usr/share/pocketsphinx/test/data", folder)
    return folder


def recording(name: str) -> Samples:
    """One of them by its file's name: a WAV, or raw samples of 16 bits at 16 kHz."""
    path = next(recordings().rglob(name))
    if path.suffix == ".raw":
        return np.frombuffer(path.read_bytes(), "<i2").astype(np.float32) / 32768
    return load(path)


def austen(number: str) -> Samples:
    """A sentence of "Sense and Sensibility"."""
    return recording(f"sense_and_sensibility_01_austen_64kb-{number}.wav")
