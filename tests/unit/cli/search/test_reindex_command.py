"""`batch reindex` with the service down."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

from batch.cli.exit_status import ExitStatus
from run_batch import RunBatch

RESULT = {
    "version": 1,
    "source": "notes.txt",
    "sha256": "ab" * 32,
    "size": 28,
    "kind": "text",
    "jobs": {"embedding": "01a2"},
    "created": "2026-11-23T15:47:44.638Z",
    "linked": False,
    "model": "all-MiniLM-L6-v2",
    "parameters": {},
    "text": "Tomatoes grow in the garden.",
    "embedding": {"model": "m", "dimensions": 2, "windows": [{"start": 0, "end": 28}], "vectors": [[0.6, 0.8]]},
}


def put_result(home: Path, **changes: object) -> None:
    document = RESULT | changes
    path = home / "outbox" / f"{document['source']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def test_what_lies_in_the_outbox_is_found_after_it(home: Path, run_batch: RunBatch) -> None:
    put_result(home)
    talk = {"kind": "audio", "sha256": "cd" * 32, "language": "en", "embedding": None, "text": "The bridge is closed."}
    put_result(home, source="talk.m4a", parameters={"language": "auto", "translate": False, "embed": True}, **talk)
    check = run_batch("reindex", "--check")
    assert check.status == ExitStatus.FAILED and "2 are not in the index" in check.out and "notes.txt" in check.out
    assert run_batch("reindex") == (0, "The search index is new: 2 results.\n", "")
    assert run_batch("search", "-0", "--mode", "text", "tomatoes").out == "notes.txt\0"
    assert run_batch("search", "-0", "--mode", "text", "bridge").out == "talk.m4a\0"
    check = run_batch("reindex", "--check", "--json")
    assert check.status == ExitStatus.DONE and json.loads(check.out)["ok"] is True
    (home / "outbox" / "notes.txt.json").unlink()
    assert "1 are in the index and not in the outbox: notes.txt" in run_batch("reindex", "--check").out
    assert json.loads(run_batch("reindex", "--json").out)["files"] == 1
    assert run_batch("search", "--mode", "text", "tomatoes").status == ExitStatus.FAILED


def test_new_vectors_need_the_service(home: Path, run_batch: RunBatch) -> None:
    ended = run_batch("reindex", "--embed")
    assert ended.status == ExitStatus.SERVICE_DOWN and "start `batch serve`" in ended.err and ended.out == ""
    assert run_batch("reindex", "--embed", "--check").status == ExitStatus.USAGE


def test_two_rebuilds_are_not_made_at_once(home: Path, run_batch: RunBatch) -> None:
    with open(home / ".batch" / "reindex.lock", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ended = run_batch("reindex")
    assert ended.status == ExitStatus.FAILED and "at work" in ended.err
    assert run_batch("reindex").status == ExitStatus.DONE


def test_a_broken_result_is_named(home: Path, run_batch: RunBatch) -> None:
    put_result(home)
    (home / "outbox" / "bad\x1b[2J.json").write_text("{")
    ended = run_batch("reindex")
    assert ended.status == ExitStatus.DONE and "is left out" in ended.err and "\x1b" not in ended.err
    assert "1 result." in ended.out
