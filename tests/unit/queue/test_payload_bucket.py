"""What goes wrong with a bucket: one sentence that says what to do and holds no secret, as if the database were away."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.errors import SettingsProblem
from batch.queue.store import WRITE_REFUSED, StoreAway
from payload_homes import PayloadHomes, payload_homes
from s3_server import S3Server

pytestmark = pytest.mark.postgres
PICTURE = hashlib.sha256(b"a picture").hexdigest()


@pytest.fixture
def homes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PayloadHomes]:
    yield from payload_homes("s3", tmp_path, request)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that accepts connections and says nothing."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    from batch.queue.postgres.payloads import payload_bucket

    monkeypatch.setattr(payload_bucket, "_REQUEST_TIMEOUT_S", 0.5)
    monkeypatch.setattr(payload_bucket, "_RETRY_TIMEOUT_S", 1)
    monkeypatch.setattr(payload_bucket, "_MAX_RETRIES", 1)


@pytest.mark.parametrize(
    ("place", "variables", "sentence"),
    [
        ("s3://absent-bucket/p", {}, "The bucket of s3://absent-bucket/p does not exist: make it"),
        ("s3://others/p", {}, "s3://others/p refuses this machine: look after AWS_ACCESS_KEY_ID"),
        ("s3://payloads/p", {"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "s3://payloads/p refuses this machine"),
        ("s3://payloads/p", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://payloads/p cannot be reached"),
        ("s3://payloads/p", {"AWS_ENDPOINT_URL": "silent"}, "s3://payloads/p cannot be reached"),
    ],
    ids=["no bucket", "not allowed", "wrong secret", "nobody there", "no answer"],
)
def test_what_is_wrong_with_a_bucket_is_one_sentence_and_a_later_try_is_worth_it(
    homes: PayloadHomes,
    s3_server: S3Server,
    silent_server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
    variables: dict[str, str],
    sentence: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, silent_server if value == "silent" else value)
    homes.place = place
    spool = homes.spool()
    with pytest.raises(StoreAway) as raised:
        spool.keep(b"a picture")
    assert isinstance(raised.value, WRITE_REFUSED) and raised.value.status == 503
    message = raised.value.message
    assert message.startswith(sentence) and "\n" not in message and len(message) < 400
    for secret in (s3_server.secret, s3_server.key, "wrong-secret"):
        assert secret not in message + caplog.text


def test_no_payload_goes_over_an_open_line_unless_that_is_allowed(homes: PayloadHomes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(SettingsProblem, match="has no TLS: write https://, or set AWS_ALLOW_HTTP=true"):
        homes.spool()


def test_an_object_that_cannot_be_deleted_now_is_deleted_later(homes: PayloadHomes, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = homes.spool()
    sha256 = spool.keep(b"a picture")
    homes.age(sha256, 7200)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        assert homes.spool("machine").remove(sha256, older_than=3600), "nobody can use it any more"
    assert homes.execute("select count(*) from payload_garbage") == [(1,)] and len(objects_in(homes.place)) == 1
    assert not homes.spool("third").path(sha256).exists()
    assert spool.remove_unreferenced([], bool, older_than=3600) == []
    assert homes.execute("select count(*) from payload_garbage") == [(0,)] and objects_in(homes.place) == []


def test_an_upload_that_a_crash_cut_off_is_known_and_goes(homes: PayloadHomes, monkeypatch: pytest.MonkeyPatch) -> None:
    from batch.queue.postgres.payloads.payload_rows import PayloadRows

    spool = homes.spool()
    with monkeypatch.context() as patch:
        patch.setattr(PayloadRows, "finish_object", lambda rows, conn, sha256, written: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            spool.keep(b"a picture")
    assert len(objects_in(homes.place)) == 1 and not homes.spool("machine").path(PICTURE).exists()
    homes.age(PICTURE, 7200)
    assert spool.remove(PICTURE, older_than=3600)
    assert objects_in(homes.place) == []


def test_an_object_whose_row_was_swept_during_its_upload_is_written_anew(
    homes: PayloadHomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch.queue.postgres.payloads.payload_bucket import PayloadBucket

    spool, put = homes.spool(), PayloadBucket.put

    def slow(bucket: PayloadBucket, key: str, path: Path) -> None:
        if not keys:
            homes.age(PICTURE, 7200)
            os.utime(path)
            homes.spool("machine").remove(PICTURE, older_than=3600)
        keys.append(key)
        put(bucket, key, path)

    keys: list[str] = []
    monkeypatch.setattr(PayloadBucket, "put", slow)
    assert spool.keep(b"a picture") == PICTURE
    homes.hold(PICTURE)
    spool.remove_unreferenced([], bool, older_than=3600)
    assert len(set(keys)) == 2 and objects_in(homes.place) == [keys[1]], "what came late is gone, too"
    assert homes.spool("third").read(PICTURE) == b"a picture"


def test_payloads_are_read_wherever_they_lie_after_the_setting_was_changed(homes: PayloadHomes) -> None:
    in_bucket = homes.spool().keep(b"in the bucket")
    homes.hold(in_bucket, "one")
    homes.place = "postgres"
    in_database = homes.spool().keep(b"in the database")
    homes.hold(in_database, "two")
    assert homes.spool("machine").read(in_bucket) == b"in the bucket"
    assert homes.spool("machine").read(in_database) == b"in the database"
    assert set(homes.spool("machine").names()) == {in_bucket, in_database}


def test_the_package_for_buckets_is_named_where_it_is_missing(homes: PayloadHomes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "batch.queue.postgres.payloads.payload_bucket", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(SettingsProblem, match=r"pip install \"batch-engine\[s3\]\""):
        homes.spool()


def objects_in(place: str) -> list[str]:
    """The keys of all objects under a place."""
    import obstore
    from obstore.store import S3Store

    store = S3Store.from_url(place, client_options={"allow_http": True})
    return sorted(item["path"] for chunk in obstore.list(store) for item in chunk)
