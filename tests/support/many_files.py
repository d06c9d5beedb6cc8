"""A home with as many files, jobs and index entries as a large one has, written straight into its tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from batch.queue.store import Store

CAPTION = "A long caption of a picture with a dog, a ball and a red car in front of a house by the sea. " * 3
_SLICE = 5000


def fill(store: Store, number: int) -> None:
    """`number` pictures that are done, of which every hundredth failed, with their jobs, one a file."""
    rows: Iterator[int] = iter(range(1, number + 1))
    while some := list(islice(rows, _SLICE)):
        with store.transaction() as transaction:
            for id in some:
                for sql, params in _statements(id):
                    transaction.execute(sql, params)


def _statements(id: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    path, sha256 = f"folder {id % 100}/picture {id}.jpg".encode(), hashlib.sha256(str(id).encode()).hexdigest()
    failed = id % 100 == 0
    job, state = f"{id:012x}{id:08x}", "failed" if failed else "done"
    error = json.dumps({"message": f"The image is damaged: number {id}."}) if failed else None
    parameters = json.dumps({"prompt": "p", "max_tokens": 1, "temperature": 0.0, "thinking": False, "embed": False})
    result = json.dumps({"choices": [], "note": CAPTION})
    yield (
        "insert into job (id, kind, task, state, origin, priority, request, result, error, source, created_at, started_at, "
        "finished_at) values (?,'vlm','chat',?,'inbox',0,'{}',?,?,?,?,?,?)",
        (job, state, result, error, path.decode(), float(id), float(id), float(id) + 1),
    )
    yield (
        "insert into content (id, key, sha256, size, kind, parameters, state, step, job, jobs, error, owner, created_at) "
        "values (?,?,?,1000,'image',?,?,'caption',?,?,?,?,?)",
        (id, f"key {id}", sha256, parameters, state, job, json.dumps({"caption": job}), error, id, float(id)),
    )
    yield (
        "insert into file (id, path, folder, size, mtime_ns, inode, ctime_ns, state, content, accepted_at, finished_at) "
        "values (?,?,?,1000,1,?,1,?,?,?,?)",
        (id, path, path.rpartition(b"/")[0], id, state, id, float(id), float(id) + 1),
    )
    if not failed:
        yield (
            "insert into entry (id, content, sha256, kind, created) values (?,?,?,'image',?)",
            (id, f"content {id}", sha256, float(id)),
        )
        yield "insert into entry_source values (?,?)", (path, id)
        yield "insert into passage (entry, n, text, char_start) values (?,0,?,0)", (id, CAPTION)
