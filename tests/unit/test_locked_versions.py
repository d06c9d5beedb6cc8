"""The lock files give every Python that is promised the same versions, so what one of them was tested with, all run."""

from __future__ import annotations

import re

import av
import pytest

from paths import DATA, ROOT

PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)", re.MULTILINE)


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock", "requirements-build.lock"])
def test_each_package_is_locked_in_one_version_for_all_pythons(lock: str) -> None:
    pins = PINNED.findall((ROOT / lock).read_text("utf-8"))
    versions: dict[str, set[str]] = {}
    for name, version in pins:
        versions.setdefault(name.lower(), set()).add(version)
    assert versions, f"{lock} pins nothing"
    assert {name: sorted(both) for name, both in versions.items() if len(both) > 1} == {}


def test_both_lock_files_pin_the_same_versions() -> None:
    """What is tested (dev) is what a user runs."""
    run, dev = (
        dict(PINNED.findall((ROOT / name).read_text("utf-8"))) for name in ("requirements.lock", "requirements-dev.lock")
    )
    assert {name: (version, dev.get(name)) for name, version in run.items() if dev.get(name) != version} == {}


def test_pyav_opens_files_by_the_interface_that_the_code_uses() -> None:
    """PyAV 19 dropped `metadata_errors`, and every recording failed where it was installed."""
    with av.open(str(DATA / "jfk.wav"), metadata_errors="ignore") as container:
        assert container.streams.audio[0].rate == 16000
