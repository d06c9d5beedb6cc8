"""How a job's rows are divided into batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batch.payloads.embedding import EmbeddingPayload
from batch.queue.jobs import Kind
from batch.workers.embedding.input_rows import InputRows
from batch.workers.embedding.text_batch import EmbeddingJob, TextBatch
from scripted_work import ScriptedWork


def batch_sizes(folder: Path, lengths: list[int], target: int) -> list[int]:
    """Tokens of each batch that a job of rows of these lengths is divided into."""
    work = ScriptedWork(folder, Kind.EMBEDDING, "embed", EmbeddingPayload(inputs=["text"] * len(lengths)))
    job = EmbeddingJob(work, InputRows([np.zeros(length, np.int32) for length in lengths], None), 8)
    sizes = []
    while job.pending_rows:
        batch = TextBatch(64, target, target * 3 // 2)
        batch.add_next_rows(job)
        assert batch.tokens == sum(map(len, batch.rows))
        sizes.append(batch.tokens)
    assert sum(sizes) == sum(lengths) and job.pending_tokens == 0
    return sizes


@pytest.mark.parametrize(
    ("lengths", "target", "expected"),
    [
        ([14] * 64, 192, [182, 182, 182, 182, 168]),  # not four of 182 and one that is too small to be halved
        ([14] * 14, 192, [196]),
        ([14] * 21, 192, [154, 140]),
        ([14] * 5, 192, [70]),
        ([300, 10, 10], 192, [300, 20]),  # a row larger than a batch is one by itself
        ([1] * 200, 512, [64, 64, 64, 8]),  # no more rows than the context has sequences
    ],
)
def test_the_batches_of_a_job_are_alike(tmp_path: Path, lengths: list[int], target: int, expected: list[int]) -> None:
    assert batch_sizes(tmp_path, lengths, target) == expected
