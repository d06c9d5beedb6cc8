"""The contract of payloads, the same wherever they lie: in a home's folder, in the database, in a bucket that speaks S3."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from batch.errors import Unavailable
from payload_homes import PLACES, PayloadHomes, payload_homes

LARGE = os.urandom((9 << 20) + 7)
"""More than one part, and more than one request to a bucket."""


@pytest.fixture(params=PLACES)
def homes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PayloadHomes]:
    yield from payload_homes(request.param, tmp_path, request)


def test_identical_content_is_kept_once_under_its_sha256(homes: PayloadHomes) -> None:
    spool = homes.spool()
    name = spool.keep(b"pixels")
    assert name == hashlib.sha256(b"pixels").hexdigest()
    assert spool.keep_file(io.BytesIO(b"pixels")) == (name, 6)

    async def upload() -> AsyncIterator[bytes]:
        yield b"pix"
        yield b"els"

    assert asyncio.run(spool.keep_stream(upload())) == (name, 6)
    assert list(spool.names()) == [name] and spool.read(name) == b"pixels"
    assert list((spool.folder / "tmp").iterdir()) == []


def test_what_one_home_keeps_with_a_row_another_reads_whole(homes: PayloadHomes) -> None:
    front, machine = homes.spool("front"), homes.spool("machine")
    for data in (b"", b"a picture", LARGE):
        sha256 = front.keep(data)
        homes.hold(sha256)
        assert machine.read(sha256) == data, len(data)
        assert machine.keep(data) == sha256, "the same bytes are the same payload"
    assert set(front.names()) == set(machine.names()) and len(set(front.names())) == 3
    assert sum(len(list(machine.names(slice))) for slice in machine.slices()) == 3


def test_what_nobody_kept_is_nowhere_and_no_row_can_be_tied_to_it(homes: PayloadHomes) -> None:
    spool = homes.spool()
    absent = "ab" * 32
    assert not spool.path(absent).exists()
    with pytest.raises(FileNotFoundError):
        spool.read(absent)
    if homes.kind != "folder":
        with pytest.raises(Unavailable, match="send the request again"):
            homes.hold(absent)


def test_what_is_shared_another_home_reads_before_a_row_refers_to_it(homes: PayloadHomes) -> None:
    front, machine = homes.spool("front"), homes.spool("machine")
    sha256 = front.keep(b"a picture that is only asked about")
    front.share([sha256])
    assert machine.read(sha256) == b"a picture that is only asked about"


def test_a_name_that_is_no_sha256_is_refused(homes: PayloadHomes) -> None:
    spool = homes.spool()
    for name in ("../../etc/passwd", "", "A" * 64, "a" * 63):
        with pytest.raises(ValueError, match="not a sha256"):
            spool.path(name)


def test_an_upload_that_breaks_off_leaves_nothing(homes: PayloadHomes) -> None:
    spool = homes.spool()

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        spool.keep_chunks(broken())
    assert list(spool.names()) == [] and list((spool.folder / "tmp").iterdir()) == []


def test_a_payload_put_in_again_is_not_removed_under_its_new_owner(homes: PayloadHomes) -> None:
    spool = homes.spool()
    name = spool.keep(b"x")
    homes.age(name, 1000)
    spool.keep(b"x")
    assert not spool.remove(name, older_than=60)
    homes.age(name, 1000)
    assert spool.remove(name, older_than=60) and not spool.path(name).exists()
    assert spool.remove(name, older_than=60), "what is gone already is gone"
    assert list(spool.names()) == []


def test_what_no_row_refers_to_goes_and_what_one_refers_to_stays(homes: PayloadHomes) -> None:
    spool, store = homes.spool(), homes.store()
    held, lost, fresh, large = (spool.keep(data) for data in (b"held", b"lost", b"fresh", LARGE))
    for owner, name in (("one", held), ("two", lost), ("three", fresh), ("four", large)):
        homes.hold(name, owner)
    for owner in ("two", "three", "four"):
        homes.let_go(owner)
    for name in (held, lost, large):
        homes.age(name, 7200)
    unreferenced = {
        name for slice in spool.slices() for some in spool.unreferenced(slice, store.referred, older_than=3600) for name in some
    }
    assert {lost, large} <= unreferenced and held not in unreferenced
    gone = spool.remove_unreferenced([held, lost, fresh, large], store.referred, older_than=3600)
    assert sorted(gone) == sorted([lost, large])
    assert set(spool.names()) == {held, fresh}
    assert not homes.spool("machine").path(large).exists()


def test_what_went_can_be_kept_anew(homes: PayloadHomes) -> None:
    spool = homes.spool()
    for _ in range(2):
        name = spool.keep(LARGE)
        homes.hold(name)
        assert homes.spool("machine").read(name) == LARGE
        homes.let_go()
        homes.age(name, 7200)
        assert spool.remove(name, older_than=3600)
        assert homes.spool("machine").remove(name, older_than=0)
