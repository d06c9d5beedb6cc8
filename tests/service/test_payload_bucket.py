"""A service and a worker of another machine whose payloads lie in a bucket."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from batch.queue.open_store import open_store
from postgres_server import PostgresServer
from running_service import WEIGHTLESS, RunningService, wait_until
from running_worker import RunningWorker
from s3_server import running_s3_server

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


def test_large_requests_and_results_go_by_the_bucket_and_clients_are_told_when_it_is_away(
    postgres_server: PostgresServer, start_service: Callable[..., RunningService], tmp_path: Path
) -> None:
    url = postgres_server.new_database()
    with contextlib.ExitStack() as opened:
        server = opened.enter_context(running_s3_server())  # its own, as it is killed
        variables = {**server.variables, "BATCH_PAYLOADS": "s3://payloads/home"}
        none = {f"BATCH_{kind}__MODEL": "none" for kind in ("VLM", "EMBEDDING", "STT")}
        front = start_service(**{**variables, **none, "BATCH_DATABASE": url})
        worker = RunningWorker(tmp_path / "gpu", "embedding", url, {**WEIGHTLESS, **variables})
        opened.callback(worker.close)
        front.ready("embedding")
        texts = [f"text number {n} " + "word " * 40 for n in range(2000)]  # too large for a job's row
        status, body = front.call("embedding", "/v1/embeddings", {"input": texts, "model": "any"})
        assert status == 200 and len(body["data"]) == 2000, (body, worker.output)
        (front.inbox / "far.txt").write_text("a text that a machine elsewhere makes a vector of")
        wait_until(lambda: (front.outbox / "far.txt.json").exists(), f"a result\n{front.output}", 60)
        conn = opened.enter_context(psycopg.connect(url, autocommit=True))
        assert conn.execute("select count(*) from payload").fetchall() == [(0,)]
        names = [row[0] for row in conn.execute("select sha256 from payload_object where is_whole")]
        assert len(names) == 1 and list(worker.home.rglob(f"spool/??/{names[0]}")), "the worker fetched it from there"
        server.process.kill()
        status, body = front.call("embedding", "/v1/embeddings", {"input": texts[1:], "model": "any"})
        assert status == 503 and "s3://payloads/home cannot be reached" in body["error"]["message"], body
        assert server.secret not in front.output + worker.output + (front.home / ".batch/logs/batch.log").read_text()
        status, body = front.call("embedding", "/v1/embeddings", {"input": "short", "model": "any"})
        assert status == 200, "what fits into a row needs no bucket"
        with contextlib.closing(open_store(url)) as store:
            assert {state for _, _, _, state, n in store.tally() if n} == {"done"}
    postgres_server.empty_database(url)
