"""The outbox's JSON, as batch/data/outbox.schema.json and docs/outbox.md describe it."""

from __future__ import annotations

import array
import base64
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from batch.folder import pipeline as steps
from batch.folder.file_names import readable
from batch.folder.ledger import Content, Due
from batch.folder.next_step import text_in
from batch.media.kind import MediaKind
from batch.queue.jobs import Job
from batch.queue.spool import Spool

VERSION = 1
_SEGMENT = ("start", "end", "text", "avg_logprob", "no_speech_prob", "compression_ratio", "temperature")

Rows = Callable[[], Iterator[Sequence[float]]]


def result(due: Due, content: Content, jobs: Mapping[str, Job], spool: Spool) -> tuple[dict[str, Any], Rows | None]:
    """The document of a file's result, and its vectors row by row (they may be many)."""
    main_step, main = next(iter(jobs.items()))
    last = list(jobs.values())[-1]
    answer = main.result or {}
    is_text = content.kind == MediaKind.TEXT
    document: dict[str, Any] = {
        "version": VERSION,
        **_source(due),
        "sha256": content.sha256,
        "size": content.size,
        "kind": content.kind,
        # Before the long parts: what tells a finished result from an older one stands in the first few KB.
        "jobs": {step: job.id for step, job in jobs.items()},
        "attempts": {step: job.attempts for step, job in jobs.items()},
        "created": iso(due.accepted_at if due.linked else main.created_at),
        "finished": iso(last.finished_at),
        "linked": due.linked,
        "model": content.models.get(main_step) or None,
        "parameters": dict(content.parameters),
        "timings": {step: _timing(job) for step, job in jobs.items()},
        "text": text_in(main, spool) if is_text else steps.text_of(main_step, answer),
        "language": answer.get("language"),
        "duration": answer.get("duration"),
        "segments": None,
    }
    if main_step == steps.TRANSCRIPT:
        document["segments"] = [
            {key: part.strip() if isinstance(part := segment[key], str) else part for key in _SEGMENT if key in segment}
            for segment in answer.get("segments", [])
        ]
    if thought := _thought(main_step, answer):
        document["reasoning"] = thought
    if note := answer.get("truncated") or answer.get("note"):
        document["note"] = note
    embedded = jobs.get(steps.EMBEDDING)
    if embedded is None or embedded.result is None:
        document["embedding"] = None
        return document, None
    found = embedded.result
    windows = found.get("windows") or [{"start": 0, "end": len(document["text"])}]
    document["embedding"] = {
        "model": content.models.get(steps.EMBEDDING) or None,
        "dimensions": found["dimensions"],
        "windows": [{"start": window["start"], "end": window["end"]} for window in windows],
    }
    return document, lambda: _rows(found, spool)


def failure(due: Due, error: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a file of which nothing could be made."""
    return {
        "version": VERSION,
        **_source(due),
        "error": str(error.get("message", "")),
        "type": str(error.get("type", "server_error")),
        "job": due.content.job if due.content else None,
    }


def render(document: Mapping[str, Any], rows: Rows | None = None) -> Iterator[bytes]:
    """UTF-8 JSON, a key a line; vectors, a row a line, go into document["embedding"]["vectors"]."""
    plain = {key: value for key, value in document.items() if key != "embedding" or not rows}
    lines = [f"  {json.dumps(key)}: {dumped(value)}" for key, value in plain.items()]
    yield ("{\n" + ",\n".join(lines)).encode("utf-8", "replace")
    if rows:
        head = dumped(document["embedding"])[:-1]
        yield f',\n  "embedding": {head}, "vectors": ['.encode()
        for number, row in enumerate(rows()):
            cells = ",".join(f"{cell:.9g}" if math.isfinite(cell) else "null" for cell in row)
            yield f"{',' if number else ''}\n    [{cells}]".encode()
        yield b"\n  ]}"
    yield b"\n}\n"


def dumped(value: Any) -> str:
    """JSON that any reader takes: no NaN, no infinities."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


def _source(due: Due) -> dict[str, Any]:
    found: dict[str, Any] = {"source": readable(due.path)}
    if found["source"] != due.path:  # not valid UTF-8: only the bytes name the file
        found["source_bytes"] = base64.b64encode(os.fsencode(due.path)).decode()
    return found


def _timing(job: Job) -> dict[str, Any]:
    started = job.started_at or job.finished_at or job.created_at
    found: dict[str, Any] = {
        "waited": round(max(0.0, started - job.created_at), 3),
        "ran": round(max(0.0, (job.finished_at or started) - started), 3),
    }
    if timings := (job.result or {}).get("timings"):
        found["model"] = timings
    return found


def _thought(step: str, answer: Mapping[str, Any]) -> str | None:
    if step != steps.CAPTION:
        return None
    return answer["choices"][0]["message"].get("reasoning_content") or None


def _rows(found: Mapping[str, Any], spool: Spool) -> Iterator[Sequence[float]]:
    width = int(found["dimensions"]) * 4
    data = base64.b64decode(found["vectors"]) if "vectors" in found else spool.read(found["blob"])
    for at in range(0, len(data), width):
        row = array.array("f")
        row.frombytes(data[at : at + width])
        if sys.byteorder == "big":
            row.byteswap()
        yield row


def iso(when: float | None) -> str | None:
    """Unix seconds as ISO 8601 in UTC, to the millisecond."""
    if when is None:
        return None
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
