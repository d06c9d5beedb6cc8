"""The page and /metrics of a home that shares its database tell of the workers of all machines; others tell of none."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.nodes import Node
from batch.queue.store import Ending
from page_stage import page_staged
from payloads import payload

pytestmark = pytest.mark.usefixtures("every_database")


def test_workers_jobs_and_models_by_name_are_seen_on_the_page_and_in_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "batch.api.server.metrics.ENGINE_TIMEOUT_S", 0.1
    )  # no engine answers here, and the page comes all the same

    async def main() -> None:
        async with page_staged(tmp_path) as stage:
            store = stage.store
            named = Draft(payload("chat"), Origin.CLI, Priority.BATCH, model="qwen")
            ended = Draft(payload("chat"), Origin.CLI, Priority.BATCH, model="qwen")
            for draft in (ended, named):
                store.submit(draft)
            (lease,) = store.take("vlm:qwen", "aaaabbbbcccc")
            store.end([Ending(lease, State.DONE, '{"choices":[],"usage":{"prompt_tokens":1}}')])
            for number in range(25):
                store.register(Node(f"{number:02}ab34567890", Kind.VLM, "vlm", "ready", "m.gguf", "m <b>, cpu"))
            store.register(Node("silent7890ab", Kind.VLM, "vlm:qwen", "failed", error="<i>no</i>"))
            status = (await stage.get("/page/status")).text
            jobs = (await stage.get("/page/jobs?model=qwen")).text
            job = (await stage.get(f"/page/jobs/{ended.id}")).text
            metrics = (await stage.get("/metrics")).text
            again = (await stage.get("/metrics")).text
            assert 'href="/page/jobs?model=qwen">qwen</a>' in status
            assert named.id in jobs and ended.id in jobs and '<option value="qwen" selected>' in jobs
            assert "<dd>vlm qwen</dd>" in job
            assert named.id not in (await stage.get("/page/jobs?model=other")).text
            assert (await stage.get(f"/page/jobs?model={'x' * 65}")).status_code == 400
            if not store.is_shared:
                assert "Workers of all machines" not in status and ">Worker<" not in jobs and "<dt>worker" not in job
                assert "batch:node" not in metrics and "batch:queue_oldest" not in metrics
                return
            assert "Workers of all machines" in status and "And 6 more: <code>batch nodes</code>" in status
            assert len(re.findall(r'<tr data-node="', status)) == 20 and "m &lt;b&gt;, cpu" in status
            assert re.search(
                r'<tr data-queue="vlm"><th scope="row">vlm</th><td class="number" data-part="ready">25</td>', status
            )
            assert status.index('data-node="silent7890ab"') < status.index('data-node="00ab'), "those in trouble come first"
            assert "&lt;i&gt;no&lt;/i&gt;" in status
            assert "<td><code>aaaabbbb</code></td>" in jobs and '<dd class="path">aaaabbbbcccc</dd>' in job
            assert 'batch:nodes{queue="vlm",state="ready"} 25.0' in metrics
            assert 'batch:nodes{queue="vlm:qwen",state="failed"} 1.0' in metrics and metrics == again
            assert re.search(r'batch:queue_oldest_wait_seconds\{queue="vlm:qwen"\} [0-9.e-]+', metrics)
            assert 'queue="stt"' not in metrics, "each port tells of its own kind"
            named_in_metrics = set(re.findall(r"^# TYPE (batch:\w+) gauge", metrics, re.MULTILINE))
            assert all(f"# HELP {name} " in metrics for name in named_in_metrics) and len(named_in_metrics) > 6

    asyncio.run(main())
