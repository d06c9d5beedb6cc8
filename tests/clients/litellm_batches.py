"""LiteLLM's files and batches at their defaults against one live address, BASE_URL. FOLDER is an empty folder.

Prints one JSON object that the test looks at; any error ends it with a traceback and status 1.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from loopback_only import forbid_other_hosts

TRIED = forbid_other_hosts()

import litellm  # noqa: E402

CHAT = "/v1/chat/completions"
WHERE: Any = {"custom_llm_provider": "openai", "api_base": f"{os.environ['BASE_URL']}/v1", "api_key": "not-needed"}
ENDED = ("completed", "failed", "expired", "cancelled")


def write_requests(count: int, *, pause_ms: int = 0) -> Path:
    """A file of that many chats, the last of which the engine refuses; it takes `pause_ms` for each word of the others."""
    path = Path(os.environ["FOLDER"]) / f"{count}.jsonl"
    texts = [*(f"word {n}" for n in range(count - 1)), "refuse this"]
    bodies = [{"model": "any", "messages": [{"role": "user", "content": text}], "seed": pause_ms} for text in texts]
    lines = [{"custom_id": f"n{n}", "method": "POST", "url": CHAT, "body": body} for n, body in enumerate(bodies)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    return path


def wait_until_ended(id: str) -> Any:
    deadline = time.monotonic() + 30
    while (batch := litellm.retrieve_batch(batch_id=id, **WHERE)).status not in ENDED:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{id} is {batch.status} after 30 seconds")
        time.sleep(0.05)
    return batch


def read_lines(file: str) -> list[Any]:
    return [json.loads(line) for line in litellm.file_content(file_id=file, **WHERE).content.splitlines()]


def run_batch() -> dict[str, Any]:
    with write_requests(6).open("rb") as requests:
        file = litellm.create_file(file=requests, purpose="batch", **WHERE)
    created = litellm.create_batch(
        completion_window="24h", endpoint=CHAT, input_file_id=file.id, metadata={"who": "litellm"}, **WHERE
    )
    batch = wait_until_ended(created.id)
    listed = litellm.list_batches(limit=1, **WHERE)
    answers = {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"].strip()
        for line in read_lines(batch.output_file_id)
    }
    return {
        "status": batch.status,
        "counts": batch.request_counts.model_dump(),
        "metadata": dict(batch.metadata),
        "answers": answers,
        "errors": {line["custom_id"]: line["response"]["status_code"] for line in read_lines(batch.error_file_id)},
        "is_listed": [each.id for each in listed.data] == [created.id],
        "purpose": litellm.file_retrieve(file_id=file.id, **WHERE).purpose,
        "is_deleted": litellm.file_delete(file_id=file.id, **WHERE).deleted,
    }


def run_missing_file() -> dict[str, Any]:
    try:
        litellm.create_batch(completion_window="24h", endpoint=CHAT, input_file_id="file-none", **WHERE)
    except Exception as error:
        return {"status": getattr(error, "status_code", None), "message": str(error)}
    return {"status": 200, "message": ""}


async def run_async_batch() -> dict[str, Any]:
    """The same by its asynchronous functions, cancelled while it runs."""
    requests = write_requests(40, pause_ms=300).read_bytes()
    file = await litellm.acreate_file(file=("requests.jsonl", requests), purpose="batch", **WHERE)
    created = await litellm.acreate_batch(completion_window="24h", endpoint=CHAT, input_file_id=file.id, **WHERE)
    cancelled = await litellm.acancel_batch(batch_id=created.id, **WHERE)
    batch = await asyncio.to_thread(wait_until_ended, created.id)
    ids = [line["custom_id"] for file in (batch.output_file_id, batch.error_file_id) if file for line in read_lines(file)]
    return {"cancelled": cancelled.status, "status": batch.status, "ids": sorted(ids, key=lambda id: int(id[1:]))}


seen = {"batch": run_batch(), "missing": run_missing_file(), "async": asyncio.run(run_async_batch())}
print(json.dumps({**seen, "other_hosts": TRIED}))
