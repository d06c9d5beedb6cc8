"""The lock files give every Python that is promised the same versions, so what one of them was tested with, all run."""

from __future__ import annotations

import inspect
import re

import av
import pytest

from batch.catalog.hugging_face import BoundedFile
from paths import DATA, ROOT

PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)", re.MULTILINE)


@pytest.mark.parametrize(
    "lock",
    [
        "requirements.lock",
        "requirements-dev.lock",
        "requirements-build.lock",
        "tests/clients/requirements.lock",
        "tests/s3/requirements.lock",
    ],
)
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


def test_huggingface_hub_downloads_by_the_interface_that_the_code_uses() -> None:
    """http_get stands below its documented layer: hf_hub_download begins anew after an interrupted run."""
    from huggingface_hub import file_download, get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    used = {"url", "temp_file", "resume_size", "headers", "expected_size", "tqdm_class"}
    changed = used - set(inspect.signature(file_download.http_get).parameters)
    assert not changed, f"huggingface_hub's http_get lost {changed}: see batch/catalog/hugging_face.py"
    source = inspect.getsource(file_download.http_get)
    methods = set(re.findall(r"temp_file\.(\w+)", source))
    assert methods <= set(dir(BoundedFile)), f"http_get uses {methods} of a file: see BoundedFile"
    assert all(callable(each) for each in (get_session, hf_hub_url, build_hf_headers, hf_raise_for_status))
