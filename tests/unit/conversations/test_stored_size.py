"""What stored responses and completions may take, and how long they stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.conversations.completion_store import (
    LEAST_USED,
    CompletionStore,
    StoredCompletion,
    conversation_bytes,
    stored_bytes,
)
from batch.conversations.conversation_store import ConversationStore
from batch.conversations.response_store import ResponseStore
from batch.conversations.rows import Item
from batch.errors import NotFound
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.settings import Settings
from batch.supervisor.retention import Retention

pytestmark = pytest.mark.usefixtures("every_database")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / ".batch").mkdir()
    opened = open_store(tmp_path / ".batch" / "batch.db")
    yield opened
    opened.close()


def add_response(store: Store, id: str, size: int, *, ended: bool = True, lifetime_s: int | None = None) -> None:
    responses = ResponseStore(store)
    item = {"id": f"msg_{id}", "type": "message", "role": "user", "content": "x" * size}
    responses.create(
        id=id,
        status="in_progress",
        data=b"{}",
        request=b"{}",
        items=[item],
        created_at=1,
        is_kept=True,
        background=True,
        streamed=True,
        conversation=None,
        job=None,
        lifetime_s=lifetime_s,
    )
    if ended:
        responses.end(id, "completed", b'{"a":1}', [], events=[(0, b"event")])


def sweep(store: Store, tmp_path: Path, **retention: float) -> None:
    Retention(Settings(home=tmp_path, retention=retention), store, Spool(tmp_path / ".batch" / "spool")).delete_expired()  # type: ignore[arg-type]


def exists(store: Store, id: str) -> bool:
    try:
        return bool(ResponseStore(store).response(id))
    except NotFound:
        return False


def test_what_is_stored_is_counted_to_the_byte(store: Store) -> None:
    add_response(store, "resp_1", 1000)
    CompletionStore(store).create(
        StoredCompletion(id="c", model="m", metadata={}, data=b'"\xc3\xa9"', messages=b"[]", created_at=1)
    )
    counted = store.read(
        "select (select sum(octet_length(data) + octet_length(request)) from response)"
        " + (select sum(octet_length(data)) from item) + (select sum(octet_length(data)) from response_event)"
        " + (select sum(octet_length(data) + octet_length(messages)) from chat_completion)"
    )[0][0]
    assert stored_bytes(store) == counted > 1000
    ResponseStore(store).delete("resp_1")
    CompletionStore(store).delete("c")
    assert stored_bytes(store) == 0


def test_beyond_the_cap_what_was_used_longest_ago_goes_and_what_runs_stays(store: Store, tmp_path: Path) -> None:
    add_response(store, "resp_running", 100_000, ended=False)
    for n in range(60):
        add_response(store, f"resp_{n:02}", 10_000)
        with store.transaction() as transaction:
            transaction.execute("update response set used_at=? where id=?", (n, f"resp_{n:02}"))
    sweep(store, tmp_path, responses_bytes=350_000)
    assert stored_bytes(store) <= 350_000
    assert exists(store, "resp_running") and exists(store, "resp_59") and not exists(store, "resp_00")
    sweep(store, tmp_path, responses_bytes=0)
    assert exists(store, "resp_59"), "0 is no cap"


def test_a_response_past_its_time_is_gone_at_once_and_its_bytes_with_the_next_sweep(store: Store, tmp_path: Path) -> None:
    add_response(store, "resp_old", 1000, lifetime_s=-1)
    add_response(store, "resp_new", 1000, lifetime_s=3600)
    assert not exists(store, "resp_old") and exists(store, "resp_new")
    before = stored_bytes(store)
    sweep(store, tmp_path)
    assert stored_bytes(store) < before and exists(store, "resp_new")
    assert store.read("select id from item") == [("msg_resp_new",)]
    ResponseStore(store).touch("resp_new", -1)
    sweep(store, tmp_path)
    assert stored_bytes(store) == 0


def test_what_conversations_hold_makes_no_response_go(store: Store, tmp_path: Path) -> None:
    """Every response went with the next sweep once conversations alone took more than the cap, and nothing was gained."""
    items: list[Item] = [{"id": f"msg_{n}", "type": "message", "role": "user", "content": "x" * 10_000} for n in range(300)]
    conversations = ConversationStore(store)
    conversations.create(items, {})
    conversations.create(items[:50], {})  # the same items: they are held once
    assert sum(conversation_bytes(store)) == stored_bytes(store)
    for n in range(60):
        add_response(store, f"resp_{n:02}", 10_000)
    sweep(store, tmp_path, responses_bytes=1_000_000)
    assert exists(store, "resp_00")
    sweep(store, tmp_path, responses_bytes=350_000)
    assert exists(store, "resp_59") and not exists(store, "resp_00")


@pytest.mark.sqlite
def test_what_was_used_longest_ago_is_told_without_reading_what_is_stored(store: Store) -> None:
    for n in range(3):
        add_response(store, f"resp_{n}", 10)
        with store.transaction() as transaction:
            transaction.execute("update response set used_at=? where id=?", (2 * n, f"resp_{n}"))
        completion = StoredCompletion(id=f"c{n}", model="m", metadata={}, data=b"{}", messages=b"[]", created_at=2 * n + 1)
        CompletionStore(store).create(completion)
    rows = store.read(LEAST_USED, {"limit": 5})
    assert [(is_completion, time) for is_completion, _, time in rows] == [(0, 0), (1, 1), (0, 2), (1, 3), (0, 4)]
    plan = store.read("explain query plan " + LEAST_USED, {"limit": 5})
    sorted_parts = {parent for _, parent, _, detail in plan if "TEMP B-TREE" in detail}
    tables = {parent for _, parent, _, detail in plan if "SCAN chat_completion" in detail or "SCAN response" in detail}
    assert len(tables) == 2 and not tables & sorted_parts, plan


def test_a_list_of_completions_does_without_their_messages(store: Store) -> None:
    """A hundred of them may take gigabytes."""
    messages = b'[{"role":"user"}]'
    store_of = CompletionStore(store)
    store_of.create(StoredCompletion(id="c", model="m", metadata={}, data=b"{}", messages=messages, created_at=1))
    (listed,), _ = store_of.page(after=None, limit=1, ascending=True)
    assert listed.messages == b"[]"
    assert store_of.completion("c").messages == messages
