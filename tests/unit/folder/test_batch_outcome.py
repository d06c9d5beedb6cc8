"""What becomes of a dropped file of requests with whose batch the service made mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batch.batches.batch_store import BatchStore
from batch.batches.rows import SERVER_ERROR, BatchDraft, BatchStatus, LineProblem, Purpose, StoredFile
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.rows import ContentState, StepOutcome
from batch.folder.next_step import NextSteps
from batch.queue.jobs import Priority
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "batch.db")
    yield opened
    opened.close()


def outcome(store: Store, tmp_path: Path, batch: str) -> StepOutcome | None:
    content: Any = SimpleNamespace(id=1, job=batch, state=ContentState.WORKING)
    return NextSteps(Ledger(store), Spool(tmp_path / "spool"), lambda _: "")._batch_outcome(content)


def test_a_batch_that_was_given_up_leaves_its_results_or_a_sentence_that_blames_no_line(store: Store, tmp_path: Path) -> None:
    batches, mistake = BatchStore(store), LineProblem(code=SERVER_ERROR, message="The service made a mistake.")
    draft: dict[str, Any] = {
        "endpoint": "/v1/embeddings",
        "input_sha256": "0" * 64,
        "input_bytes": 1,
        "priority": Priority.BATCH,
    }
    unread, wrong, given_up = (batches.create(BatchDraft(**draft)) for _ in range(3))
    batches.fail(unread, [mistake])
    told = outcome(store, tmp_path, unread.id)
    assert told is not None and told.error is not None and told.error["message"] == "The service made a mistake."
    batches.fail(wrong, [LineProblem(code="invalid_json_line", message="It is not JSON.", line=2)])
    told = outcome(store, tmp_path, wrong.id)
    assert told is not None and told.error is not None
    assert told.error["message"] == "The requests are not valid: line 2: It is not JSON."
    errors = StoredFile(id="file-1", purpose=Purpose.BATCH_OUTPUT, filename="e", bytes=1, sha256="1" * 64, created_at=1)
    batches.give_up(given_up, [mistake])
    batches.end(given_up, BatchStatus.FAILED, None, errors)
    told = outcome(store, tmp_path, given_up.id)
    assert told is not None and told.error is None, "its results go to the outbox"
