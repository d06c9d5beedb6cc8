"""How many threads a worker's next step may use."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from batch.cpu_sharing import core_table
from batch.cpu_sharing.other_programs import OtherPrograms
from batch.queue.jobs import Kind
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.workers.job_context import JobContext


@pytest.mark.parametrize(("kind", "threads"), [(Kind.VLM, 1), (Kind.EMBEDDING, 2)])
def test_a_core_that_another_program_keeps_busy_is_left_to_it_but_where_threads_wait_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, threads: int
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the table is that all workers share
    monkeypatch.setattr(core_table, "usable", lambda: 2)
    monkeypatch.setattr(OtherPrograms, "cores", lambda *_: 1.0)
    context = JobContext(kind, open_store(tmp_path / "batch.db"), Spool(tmp_path / "spool"), None, 0, "w1")  # type: ignore[arg-type]
    try:
        assert context.threads() == threads
    finally:
        context.close()
