"""What of a client's items may name files of the spool, and how much of a conversation is read."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from starlette.requests import Request

from batch.api.chat_completions.stored_chat import stored_message
from batch.api.jobs import item_pages
from batch.api.jobs.item_pages import item_page
from batch.api.responses import context
from batch.api.responses.context import input_items, resolve_context
from batch.api.responses.request import read_responses_body
from batch.conversations.conversation_store import ConversationStore
from batch.conversations.item_store import SPOOLED, ItemStore, picture_blobs
from batch.conversations.rows import Item
from batch.errors import BadRequest
from batch.queue.hub.hub import Hub
from batch.supervisor.retention import delete_orphans
from hub_stage import opened_hub

pytestmark = pytest.mark.anyio


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with opened_hub(tmp_path) as hub:
        yield hub


async def test_no_client_names_a_file_of_the_spool(hub: Hub) -> None:
    url = f"{SPOOLED}image/png,{hub.spool.keep(b'the secret of another client')}"
    part = {"type": "text", "text": "hello", "image_url": url}
    message = stored_message("chatcmpl-1", 0, {"role": "user", "content": [part]})
    assert message["content"] == [{"type": "text", "text": "hello"}]
    for type in ("message", "function_call_output", "reasoning"):
        with pytest.raises(BadRequest, match="image_url"):
            input_items([{"type": type, "role": "user", "content": [part]}], ItemStore(hub.store, hub.spool))


async def test_a_name_that_no_file_can_have_does_not_stop_the_spool_from_being_cleared(hub: Hub) -> None:
    """Such a name came first at every sweep, which broke there: nothing was ever removed again."""
    item: Item = {"id": "msg_1", "content": [{"image_url": SPOOLED + "image/png,nonsense"}]}
    assert list(picture_blobs(item)) == []
    sha256 = hub.spool.keep(b"of a job that is gone")
    with hub.store.transaction() as transaction:
        for name in ("../nonsense", sha256):
            transaction.execute("insert into orphan values (?)", (name,))
    assert delete_orphans(hub.store, hub.spool, fresh=0.0) == 2
    assert not hub.spool.path(sha256).exists() and hub.store.orphans(9) == []


async def test_a_conversation_that_is_too_long_is_refused_before_it_is_read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "MAX_TURNS", 10)
    items: list[Item] = [{"id": f"msg_{n}", "type": "message", "role": "user", "content": "x"} for n in range(20)]
    conversation = ConversationStore(hub.store).create(items, {})
    body = read_responses_body(msgspec.json.encode({"input": "hello", "conversation": conversation.id}))
    read: list[int] = []
    real = ItemStore.items

    def counted(self: ItemStore, ids: list[str]) -> list[Item]:
        read.append(len(ids))
        return real(self, ids)

    monkeypatch.setattr(ItemStore, "items", counted)
    with pytest.raises(BadRequest, match="10 are taken at most"):
        resolve_context(hub, body, None)
    assert sum(read) <= 1, "its own item's id"


async def test_a_page_of_large_items_ends_early_and_the_next_one_goes_on(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred items as large as requests may be would take all memory; so would their pictures."""
    monkeypatch.setattr(item_pages, "MAX_PAGE_BYTES", 25_000)
    store = ItemStore(hub.store, hub.spool)
    url = "data:image/png;base64," + base64.b64encode(b"p" * 9000).decode()
    large: list[Item] = [
        {"id": f"msg_{n}", "type": "message", "content": [{"type": "input_image", "image_url": url}]} for n in range(5)
    ]
    huge: Item = {"id": "msg_5", "type": "message", "content": "x" * 30_000}
    conversations = ConversationStore(hub.store)
    conversation = conversations.create([*store.spool_pictures(large), huge], {})
    ids = conversations.item_ids(conversation.id)

    async def pages(query: bytes) -> list[list[object]]:
        request, after, pages = Request({"type": "http", "query_string": query}), None, []
        while True:
            page = await item_page(hub, store, ids, request, after=after, limit=4, order="asc")
            pages.append([item["id"] for item in page["data"]])  # type: ignore[attr-defined]
            after = str(page["last_id"])
            if not page["has_more"]:
                return pages

    assert await pages(b"") == [ids[:4], ids[4:5], ids[5:]]
    with_pictures = b"include[]=" + item_pages.PICTURES.encode()
    assert await pages(with_pictures) == [ids[:2], ids[2:4], ids[4:5], ids[5:]]
