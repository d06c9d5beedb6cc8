"""From a chat request to its job on the queue."""

from __future__ import annotations

from typing import Any

from batch.batches.file_store import FileStore
from batch.batches.rows import Purpose
from chat_calls import HELLO, chat, png, says, with_image
from scripted_hub import answer


def test_a_chat_is_accepted_on_the_event_loop_only_if_its_payload_is_as_small_as_its_body() -> None:
    hub = says(answer("Hi"))
    text = b"word " * 20_000
    file = FileStore(hub.store).create_file(Purpose.USER_DATA, "a.txt", len(text), hub.spool.keep(text), None)
    named = {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": file.id}}]}]}
    long = {"messages": [{"role": "user", "content": "word " * 4_000}]}
    bodies: list[dict[str, Any]] = [{"messages": HELLO}, with_image(png()), long, named]
    assert [chat(body, hub).status_code for body in bodies] == [200] * 4
    assert len(hub.requests[3]["messages"][0]["content"][0]["text"]) > len(text)
    assert hub.small == [True, True, False, False]
