"""What a worker did to make its model fit into memory is told by `batch status` and `batch doctor`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from batch.cli.doctor.command import _worker
from batch.cli.doctor.finding import Finding
from batch.model_kind import Kind
from batch.payloads.model_info import ChatModelInfo
from batch.queue.hub.model_state import ModelState
from batch.queue.open_store import open_store
from batch.settings import Settings
from batch.supervisor.service_notes import model_note
from run_batch import RunBatch

SENTENCE = "model as configured wants 9.7 GB of memory and 8.0 GB are free for it: its context is kept as q8_0."


def test_what_was_done_to_make_a_model_fit_is_told_while_the_service_runs(home: Path, run_batch: RunBatch) -> None:
    store = open_store(home / ".batch" / "batch.db")
    service = {"pid": os.getpid(), "started": time.time(), "ports": {}, "profile": "default", "version": "1"}
    ready = ModelState(status="ready", info=ChatModelInfo(model="model", note=SENTENCE), pid=os.getpid())
    store.note({"service": service, "model:vlm": model_note(ready)})
    store.close()
    settings = Settings(home=home)
    assert f"vlm: {SENTENCE}" in " ".join(run_batch("status").out.split())
    assert json.loads(run_batch("status", "--json").out)["models"]["vlm"]["note"] == SENTENCE
    assert list(_worker(settings, Kind.VLM)) == [Finding("worker for vlm", SENTENCE)]
    assert list(_worker(settings, Kind.STT)) == []
