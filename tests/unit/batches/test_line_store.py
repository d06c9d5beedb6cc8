"""Which lines of a batch run next, and what is held for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.batches.batch_store import BatchStore
from batch.batches.file_store import FileStore
from batch.batches.line_reader import read_lines
from batch.batches.line_store import LineStore
from batch.batches.rows import Batch, BatchDraft, BatchLine, Purpose
from batch.batches.validation import file_ids
from batch.errors import NotFound
from batch.queue.jobs import Priority
from batch.queue.open_store import open_store
from batch.queue.store import Store
from payloads import keep_in

pytestmark = pytest.mark.usefixtures("every_database")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / ".batch").mkdir()
    opened = open_store(tmp_path / ".batch" / "batch.db")
    yield opened
    opened.close()


def new_batch(store: Store) -> Batch:
    sha256 = keep_in(store.home, b"a line")
    draft = BatchDraft(endpoint="/v1/chat/completions", input_sha256=sha256, input_bytes=6, priority=Priority.BATCH)
    return BatchStore(store).create(draft)


def request_line(custom_id: str, system: str) -> str:
    messages = [{"role": "user", "content": custom_id}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    url = "/v1/chat/completions"
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": {"messages": messages}}) + "\n"


def test_lines_that_share_a_system_prompt_follow_each_other(store: Store, tmp_path: Path) -> None:
    systems = ["be short", "be long", "", "be short", "be long", ""]
    text = "".join(request_line(str(at), system) for at, system in enumerate(systems))
    (tmp_path / "lines").write_text(text)
    batch = new_batch(store)
    with (tmp_path / "lines").open("rb") as file:
        lines = [
            BatchLine(
                batch=batch.sequence,
                line=one.line,
                custom_id=one.custom_id,
                start=one.start,
                length=one.length,
                request_id="r",
                prefix=one.prefix,
            )
            for one in read_lines(file, batch.endpoint, 10_000)
        ]
    LineStore(store).add_lines(batch, lines, [], len(text), len(lines))
    order = [systems[int(line.custom_id)] for line in LineStore(store).waiting_lines(batch, 100)]
    assert [one for at, one in enumerate(order) if not at or order[at - 1] != one] == list(dict.fromkeys(order))
    assert len(order) == 6


def test_files_that_lines_name_are_held_until_the_batch_ends(store: Store) -> None:
    files, batch, sha256 = FileStore(store), new_batch(store), keep_in(store.home, b"png")
    file = files.create_file(Purpose.VISION, "a.png", 3, sha256, None)
    body = {"messages": [{"content": [{"type": "file", "file": {"file_id": file.id}}]}], "other": [[{"file_id": "file-none"}]]}
    assert set(file_ids(body)) == {file.id, "file-none"}
    LineStore(store).add_lines(batch, [], [], 1, 1, set(file_ids(body)))
    files.delete_file(file.id)
    assert files.named_file(file.id, batch.sequence).sha256 == sha256 and store.referred(sha256)
    for stranger in (None, batch.sequence + 1):
        with pytest.raises(NotFound):  # it is deleted, for all but that batch
            files.named_file(file.id, stranger)
    BatchStore(store).fail(batch, [])
    with pytest.raises(NotFound):
        files.named_file(file.id, batch.sequence)
    assert not store.referred(sha256)
