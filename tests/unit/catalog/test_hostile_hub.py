"""A model hub hands over bytes: which bytes, under which name and how many is said by the catalogue or by the first pull."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from batch.catalog.entry import Entry, File, Licence, Source
from batch.catalog.pull import pull
from batch.errors import DiskFull, ModelProblem
from batch.settings import Settings
from fake_hub import FakeHub

WEIGHTS = b"lmgg" + bytes(range(256)) * 400
OTHERS = b"lmgg" + bytes(reversed(range(256))) * 400
LATER = "f" * 40


def toy() -> Entry:
    source = Source("hub", repo="some/toy", files={"model": ("toy.bin",)})
    return Entry(
        "toy",
        "stt",
        "a toy",
        "It can do nothing.",
        Licence("MIT", "https://example.org"),
        (File("model", "toy.bin"),),
        (source,),
        {},
    )


def take(models: Path, hub: FakeHub, *, repin: bool = False) -> bool:
    settings = Settings(models_dir=models, hub=hub.address)
    return pull(toy(), settings, lambda *_: None, lambda entry: True, repin=repin)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for locks and records."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".lock", ".json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("claim", ["../../x", "/etc/x", "ab" * 31 + "a/", "AB" * 32, "", "x" * 64, "ab" * 32 + "\n"])
def test_a_sha256_that_is_not_64_hex_digits_is_refused_and_writes_nothing(tmp_path: Path, claim: str) -> None:
    models = tmp_path / "a" / "b" / "models"
    listing = json.dumps({"sha": LATER, "siblings": [{"rfilename": "toy.bin", "size": 3, "lfs": {"sha256": claim, "size": 3}}]})
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}, listing=listing.encode()) as hub:
        with pytest.raises(ModelProblem, match=r"names no sha256 for toy\.bin"):
            take(models, hub)
        assert hub.sent == 0
    assert files_of(tmp_path) == {}


def test_what_a_hub_sends_beyond_the_listed_size_is_not_read(tmp_path: Path) -> None:
    huge = WEIGHTS + bytes(300 << 20)
    with FakeHub("some/toy", {"toy.bin": huge}, sizes={"toy.bin": 1000}, claims={"toy.bin": "ab" * 32}) as hub:
        with pytest.raises(ModelProblem, match=r"toy\.bin is larger than the 1000 bytes"):
            take(tmp_path, hub)
        assert hub.sent < len(huge) // 2, "the connection was closed long before the end"
    assert sum(len(data) for data in files_of(tmp_path).values()) <= 1000


def test_a_file_that_is_smaller_than_listed_is_refused(tmp_path: Path) -> None:
    with (
        FakeHub("some/toy", {"toy.bin": WEIGHTS}, sizes={"toy.bin": len(WEIGHTS) + 5}) as hub,
        pytest.raises(ModelProblem, match=r"cannot be reached|arrived damaged"),
    ):
        take(tmp_path, hub)
    assert not (tmp_path / "toy.bin").exists()


def test_a_listed_size_that_no_disk_holds_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}, sizes={"toy.bin": 10**18}) as hub:
        with pytest.raises(DiskFull, match=r"1000000000\.0 GB"):
            take(tmp_path, hub)
        assert hub.sent == 0


@pytest.mark.parametrize(
    "listing",
    [
        b"",
        b"[]",
        b"<html>a portal</html>",
        b'{"sha": 3, "siblings": []}',
        b'{"siblings": [{"size": 1}]}',
        b'{"siblings": ' + b"[" * 200_000,
        b'{"sha": "../../x", "siblings": [{"rfilename": "toy.bin", "size": 3, "lfs": {"sha256": "' + b"ab" * 32 + b'"}}]}',
        b'{"sha": "'
        + b"f" * 40
        + b'", "siblings": [{"rfilename": "toy.bin", "size": -3, "lfs": {"sha256": "'
        + b"ab" * 32
        + b'"}}]}',
        b'{"siblings": [' + b'{"rfilename": "' + b"x" * (17 << 20) + b'"}]}',
    ],
)
def test_what_is_no_list_of_a_hub_is_one_sentence(tmp_path: Path, listing: bytes) -> None:
    with FakeHub("some/toy", {}, listing=listing) as hub, pytest.raises(ModelProblem) as caught:
        take(tmp_path, hub)
    assert "\n" not in caught.value.message and len(caught.value.message) < 500
    assert files_of(tmp_path) == {}


def test_what_was_fetched_first_is_fetched_again_or_refused(tmp_path: Path) -> None:
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub:
        assert take(tmp_path, hub)
    (tmp_path / "toy.bin").unlink()
    (tmp_path / "toy.bin.json").unlink()
    with FakeHub("some/toy", {"toy.bin": OTHERS}) as hub:
        with pytest.raises(ModelProblem, match=r"lists another toy\.bin .* than was first fetched on this machine .*--repin"):
            take(tmp_path, hub)
        assert hub.sent == 0
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub:
        assert take(tmp_path, hub)
    assert (tmp_path / "toy.bin").read_bytes() == WEIGHTS


def test_the_commit_of_the_first_pull_is_asked_for_again(tmp_path: Path) -> None:
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}, commit="a" * 40) as hub:
        take(tmp_path, hub)
    (tmp_path / "toy.bin").unlink()
    with (
        FakeHub("some/toy", {"toy.bin": WEIGHTS}, commit=LATER) as hub,
        pytest.raises(ModelProblem, match=rf"has no some/toy at {'a' * 40}.*--repin"),
    ):
        take(tmp_path, hub)


def test_repin_takes_what_the_hub_lists_now(tmp_path: Path) -> None:
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}, commit="a" * 40) as hub:
        take(tmp_path, hub)
    (tmp_path / "toy.bin").unlink()
    with FakeHub("some/toy", {"toy.bin": OTHERS}, commit=LATER) as hub:
        assert take(tmp_path, hub, repin=True)
    assert (tmp_path / "toy.bin").read_bytes() == OTHERS
    pin = json.loads((tmp_path / ".pins" / "toy.model.json").read_text())
    assert (pin["sha256"], pin["revision"], pin["size"]) == (hashlib.sha256(OTHERS).hexdigest(), LATER, len(OTHERS))


def test_a_damaged_pin_is_one_sentence_and_trusts_nothing(tmp_path: Path) -> None:
    (tmp_path / ".pins").mkdir()
    (tmp_path / ".pins" / "toy.model.json").write_text('{"repo": "some/toy"')
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub, pytest.raises(ModelProblem, match=r"cannot be read .*--repin"):
        take(tmp_path, hub)


def test_a_models_folder_that_takes_no_writes_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with FakeHub("some/toy", {"toy.bin": WEIGHTS}) as hub:
        for models in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(DiskFull, match="could not be written"):
                take(models, hub)
