"""Following batches in the database until they end, with a bar for people on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from batch.batches.batch_store import BatchStore
from batch.batches.rows import Batch, BatchStatus
from batch.cli.exit_status import ExitStatus
from batch.cli.jobs.waiting import require_service
from batch.cli.output import print_error, terminal
from batch.queue.spool import Spool
from batch.queue.store import Store

_LOOK_INTERVAL_S = 0.2
_SERVICE_INTERVAL_S = 2.0


def follow_batches(store: Store, ids: Sequence[str]) -> list[Batch]:
    """Wait for batches to end. Ends the command with a sentence when no service runs that could go on with them."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    batches = BatchStore(store)
    home = str(store.home)
    again = f"The batch goes on once it runs: `batch wait {' '.join(ids[:3])}{' …' if len(ids) > 3 else ''}` shows it."
    ended: dict[str, Batch] = {}
    next_check = 0.0
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        console=terminal(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    with bars:
        tasks = {id: bars.add_task(id, total=None, rate="") for id in ids}
        while True:
            for id in ids:
                if id in ended:
                    continue
                batch = batches.batch(id)
                done = batch.completed + batch.failed
                bars.update(
                    tasks[id],
                    completed=done,
                    total=batch.total or None,
                    description=f"{id} {batch.status}",
                    rate=_rate(batch, done),
                )
                if batch.status.is_ended:
                    ended[id] = batch
            if len(ended) == len(ids):
                return [ended[id] for id in ids]
            if time.monotonic() >= next_check:
                require_service(store, home, again)
                next_check = time.monotonic() + _SERVICE_INTERVAL_S
            time.sleep(_LOOK_INTERVAL_S)


def _rate(batch: Batch, done: int) -> str:
    if not done or batch.in_progress_at is None:
        return ""
    return f"{done / max(1.0, time.time() - batch.in_progress_at):.1f}/s"


def write_results(batch: Batch, spool: Spool, store: Store, output: Path) -> list[Path]:
    """Copy a batch's result files to `output` and, for its errors, beside it; the files that were written."""
    from batch.batches.file_store import FileStore

    files = FileStore(store)
    paths: list[Path] = []
    errors = output.with_name(f"{output.name.removesuffix('.jsonl')}.errors.jsonl")
    for id, path in ((batch.output_file, output), (batch.error_file, errors)):
        if id is None:
            continue
        part = path.with_name(f".{path.name}.part")
        with spool.path(files.file(id).sha256).open("rb") as source, part.open("wb") as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
        part.replace(path)
        paths.append(path)
    return paths


def exit_status(batches: Sequence[Batch]) -> ExitStatus | None:
    """The status that says how batches ended; None where every line was answered."""
    if all(batch.status is BatchStatus.COMPLETED and not batch.failed for batch in batches):
        return None
    return ExitStatus.FAILED


def report(batch: Batch) -> None:
    """Say on standard error what a person has to know of a batch that did not go well."""
    if batch.status is BatchStatus.FAILED:
        for problem in (batch.errors or [])[:10]:
            where = f"line {problem.line}: " if problem.line else ""
            print_error(f"{where}{problem.message} ({problem.code})")
    elif batch.status is not BatchStatus.COMPLETED:
        print_error(f"The batch {batch.id} is {batch.status}: {batch.completed} of {batch.total} lines were answered.")
    elif batch.failed:
        print_error(f"{batch.failed} of {batch.total} lines failed: its errors file says why.")
