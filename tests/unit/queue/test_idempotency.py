"""Keys in the database: they go with their jobs, and older databases are brought forward whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from batch.errors import Unprocessable
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.store import Key
from one_worker import OneWorker
from payloads import keep_in, payload

BLOB = hashlib.sha256(b"a picture").hexdigest()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose spool holds the picture of all drafts."""
    keep_in(tmp_path, b"a picture")
    return tmp_path


def draft(text: str = "x") -> Draft:
    return Draft(payload("completion", {"prompt": text}), Origin.HTTP, Priority.INTERACTIVE, blobs=(BLOB,), waited=True)


def test_a_key_goes_with_its_jobs_and_a_repeat_leaves_no_payload_behind(database: Path | str, home: Path) -> None:
    store = OneWorker(open_store(database, home=home))
    first, key = draft(), Key(Kind.VLM, "k", "f")
    assert store.submit_once(key, [first]) == []
    assert [held.job for held in store.submit_once(key, [draft()])] == [first.id]
    with pytest.raises(Unprocessable):
        store.submit_once(Key(Kind.VLM, "k", "other"), [draft()])
    store.take(Kind.VLM)
    assert store.end(first.id, State.DONE, result="{}")
    store.forget_orphans(store.orphans(10))
    assert store.submit_once(key, [draft()])[0].state is State.DONE
    assert store.orphans(10) == [BLOB], "the repeat's payload is nobody's"
    with store.transaction() as transaction:
        transaction.execute("delete from job")
    assert store.read("select * from idempotency") == []
    assert store.submit_once(Key(Kind.VLM, "k", "other"), [draft()]) == []
    store.close()


def test_a_key_of_several_jobs_is_free_once_one_of_them_is_gone(database: Path | str, home: Path) -> None:
    store = open_store(database, home=home)
    drafts, key = [draft("a"), draft("b")], Key(Kind.VLM, "k", "f")
    store.submit_once(key, drafts)
    assert [held.job for held in store.submit_once(key, [draft(), draft()])] == [d.id for d in drafts]
    store.cancel(drafts[1].id)
    anew = [draft("a"), draft("b")]
    assert store.submit_once(key, anew) == []
    assert [held.job for held in store.submit_once(key, [draft(), draft()])] == [d.id for d in anew]
    store.close()
