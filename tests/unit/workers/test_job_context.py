"""How many threads a worker's next step may use."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast

import pytest

from batch.cpu_sharing import core_table
from batch.cpu_sharing.other_programs import OtherPrograms
from batch.media.decoder.process import DecoderProcess
from batch.queue.jobs import Kind
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.workers.job_context import JobContext
from batch.workers.running_job import RunningJob


@pytest.mark.parametrize(("kind", "threads"), [(Kind.VLM, 1), (Kind.EMBEDDING, 2)])
def test_who_goes_on_beside_a_job_keeps_a_core_but_where_threads_wait_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, threads: int
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the table is that all workers share
    monkeypatch.setattr(core_table, "usable", lambda: 2)
    monkeypatch.setattr(OtherPrograms, "cores", lambda *_: 1.0)
    context = JobContext(kind, open_store(tmp_path / "batch.db"), Spool(tmp_path / "spool"), None, 0, "w1")  # type: ignore[arg-type]
    try:
        assert context.threads() == 2, "a job begins"
        context.running.append(cast(RunningJob, object()))
        assert context.threads() == threads
        context.running.clear()
        assert context.threads() == 2, "the next one begins"
    finally:
        context.close()


def test_what_a_workers_own_decoders_compute_is_no_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(core_table, "usable", lambda: 2)
    monkeypatch.setattr(OtherPrograms, "cores", lambda _, own: 0.0 if decoder.pid in own else 1.0)
    context = JobContext(Kind.VLM, open_store(tmp_path / "batch.db"), Spool(tmp_path / "spool"), None, 0, "w1")  # type: ignore[arg-type]
    decoder = DecoderProcess("image")
    context.running.append(cast(RunningJob, object()))
    try:
        assert context.threads() == 1
        decoder.start()
        assert context.threads() == 2
    finally:
        decoder.close()
        context.close()
