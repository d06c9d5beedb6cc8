"""The huey message of a job: JSON that names it, never a pickle."""

from __future__ import annotations

import json
from typing import Any

_MESSAGE_START = '{"id":"'


def message_for(job: str) -> bytes:
    """The huey message of a job: JSON, never a pickle, so that who can write the database cannot run code."""
    if job.isascii() and job.isalnum():  # as all ids are that we make: no JSON writer is needed
        return f'{_MESSAGE_START}{job}","name":"batch.run","args":["{job}"]}}'.encode()
    return json.dumps({"id": job, "name": "batch.run", "args": [job]}, separators=(",", ":")).encode()


def job_named_in(data: Any) -> str:
    """The job that a message names; empty when it is none of ours, whatever it holds."""
    if isinstance(data, bytes):
        job = data[len(_MESSAGE_START) : data.find(b'"', len(_MESSAGE_START))].decode("ascii", "replace")
        if data == message_for(job):
            return job
    try:
        job = json.loads(data)["id"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return ""
    return job if isinstance(job, str) else ""
