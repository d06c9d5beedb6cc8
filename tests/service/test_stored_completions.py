"""Stored chat completions through OpenAI's own package, with a real service behind them."""

from __future__ import annotations

import base64
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from paths import DATA
from running_service import WEIGHTLESS, RunningService


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def service(home: Path) -> Iterator[RunningService]:
    with RunningService(home, WEIGHTLESS) as running:
        yield running.ready()


@pytest.fixture(scope="module")
def client(service: RunningService) -> openai.OpenAI:
    return openai.OpenAI(base_url=service.url("vlm", "/v1"), api_key="none", max_retries=0)


def say(client: openai.OpenAI, content: Any, **options: Any) -> Any:
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}], **options)


def test_a_completion_is_stored_only_where_its_client_asks_for_that(client: openai.OpenAI) -> None:
    kept = say(client, "keep this", store=True, metadata={"who": "me"})
    stored = client.chat.completions.retrieve(kept.id)
    assert stored.choices == kept.choices and stored.metadata == {"who": "me"}
    for unkept in (say(client, "forget this"), say(client, "forget this", store=False)):
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.retrieve(unkept.id)


def test_a_stream_is_stored_before_its_end_is_sent(client: openai.OpenAI) -> None:
    chunks = list(say(client, "one two three", stream=True, store=True))
    stored = client.chat.completions.retrieve(chunks[0].id)
    assert stored.choices[0].message.content == "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def test_stored_completions_are_listed_by_model_and_by_every_pair_of_metadata(client: openai.OpenAI) -> None:
    ids = [say(client, f"listed {n}", store=True, metadata={"set": "a", "n": str(n)}).id for n in range(5)]
    pages = client.chat.completions.list(metadata={"set": "a"}, limit=2)
    assert [one.id for one in pages] == ids, "over three pages, oldest first"
    assert [one.id for one in client.chat.completions.list(metadata={"set": "a"}, order="desc")] == ids[::-1]
    assert [one.id for one in client.chat.completions.list(metadata={"set": "a", "n": "3"})] == ids[3:4]
    assert not client.chat.completions.list(metadata={"set": "b"}).data
    assert not client.chat.completions.list(model="other").data


def test_metadata_is_replaced_and_a_completion_deleted(client: openai.OpenAI) -> None:
    id = say(client, "change me", store=True, metadata={"a": "1"}).id
    assert client.chat.completions.update(id, metadata={"b": "2"}).metadata == {"b": "2"}
    assert client.chat.completions.delete(id).deleted
    for call in (client.chat.completions.retrieve, client.chat.completions.delete):
        with pytest.raises(openai.NotFoundError):
            call(id)
    with pytest.raises(openai.BadRequestError) as error:
        say(client, "too much", store=True, metadata={"k": "v" * 513})
    assert error.value.param == "metadata"


def test_the_messages_of_a_completion_are_listed_with_their_pictures(client: openai.OpenAI, home: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode((DATA / "sample-red-circle.png").read_bytes()).decode()
    parts = [{"type": "text", "text": "what is it"}, {"type": "image_url", "image_url": {"url": url}}]
    id = client.chat.completions.create(
        model="m",
        messages=[{"role": "system", "content": "be short"}, {"role": "user", "content": parts}],  # type: ignore[misc,list-item]
        store=True,
    ).id
    first, second = client.chat.completions.messages.list(id, limit=1)
    assert (first.role, first.content, first.content_parts) == ("system", "be short", None)
    assert second.content is None and second.content_parts is not None
    shown = [part.model_dump(exclude_none=True) for part in second.content_parts]
    assert shown[0]["text"] == "what is it" and shown[1]["image_url"]["url"] == url
    assert len({first.id, second.id}) == 2
    with contextlib.closing(sqlite3.connect(home / ".batch" / "batch.db", timeout=30)) as database:
        (messages,) = database.execute("select messages from chat_completion where id=?", (id,)).fetchone()
    assert url not in messages, "a picture is kept once, by its hash"
