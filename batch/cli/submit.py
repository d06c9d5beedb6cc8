"""`batch submit`: hand files to the queue from the command line, without the inbox."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batch.cli.app import Home, Json, app
from batch.errors import BadRequest, BatchError, Cancelled, UnsupportedMedia
from batch.queue.jobs import Draft, Job, Origin, Priority, State

if TYPE_CHECKING:
    from batch.queue.spool import Spool
    from batch.queue.store import Store
    from batch.settings import Settings


@app.command()
def submit(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Images, sound, video or texts.")],
    home: Home = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the results and print them.")] = False,
    prompt: Annotated[str | None, typer.Option(help="What to ask about images.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of the sound; auto detects.")] = None,
    as_json: Json = False,
) -> None:
    """Queue files as jobs: captions of images, transcripts of sound, embeddings of texts."""
    from batch.queue.channel import Waker
    from batch.queue.spool import Spool
    from batch.queue.store import Store
    from batch.settings import Settings

    settings = Settings.load(home)
    store, spool = Store(settings.database), Spool(settings.state_dir / "spool")
    waker = Waker(settings.state_dir)
    try:
        submitted: list[tuple[Path, str]] = []
        # All or none: a wrong name among the files must not leave the others half submitted.
        drafts = [(file, _draft(file, settings, spool, prompt, language)) for file in files]
        with store.transaction(durable=True) as transaction:
            for _, draft in drafts:
                transaction.submit(draft)
        for file, draft in drafts:
            waker.wake(draft.kind)
            submitted.append((file, draft.id))
        if not wait:
            if as_json:
                print(json.dumps([{"file": str(file), "id": job} for file, job in submitted], indent=1))
            else:
                for file, job in submitted:
                    print(f"{job}  {file}")
            return
        ended = _wait(store, submitted)
    finally:
        waker.close()
        store.close()
    _print(ended, as_json)
    if any(job.state is not State.DONE for _, job in ended):
        raise typer.Exit(1)


def _draft(file: Path, settings: Settings, spool: Spool, prompt: str | None, language: str | None) -> Draft:
    from batch.folder import pipeline
    from batch.folder.ledger_rows import CaptionParameters, TranscriptParameters
    from batch.media.kind import HEAD, MediaKind, kind_of
    from batch.media.text import read_text

    try:
        with file.open("rb") as opened:
            kind = kind_of(opened.read(HEAD), file.name)
            if kind is MediaKind.UNKNOWN:
                raise UnsupportedMedia(f"{file} is no image, sound, video or text that batch can read.")
            if kind is MediaKind.TEXT:
                draft = pipeline.embedding_draft(
                    read_text(file, settings.limits.text_bytes), lambda data: spool.keep(data, durable=True), str(file)
                )
            else:
                changes: dict[str, Any] = {}
                if prompt is not None:
                    changes["caption_prompt"] = prompt
                if language is not None:
                    changes["language"] = language
                rules = settings.folder.model_copy(update=changes)
                opened.seek(0)
                blob, _ = spool.keep_file(opened)
                match pipeline.content_parameters(kind, rules):
                    case CaptionParameters() as parameters:
                        draft = pipeline.caption_draft(blob, parameters, str(file))
                    case TranscriptParameters() as parameters:
                        draft = pipeline.transcript_draft(blob, parameters, str(file))
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}.") from None
    return replace(draft, origin=Origin.CLI, priority=Priority.BATCH)


def _wait(store: Store, submitted: list[tuple[Path, str]]) -> list[tuple[Path, Job]]:
    """Follow the jobs in the database, with a bar for people on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    ended: dict[str, Job] = {}
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    with bars:
        shown = {job: bars.add_task(file.name, total=1.0, state="queued") for file, job in submitted}
        while len(ended) < len(submitted):
            for _, job in submitted:
                row = store.job(job) if job not in ended else None
                if row is None:
                    continue
                done = row.progress
                share = done.done / done.total if done and done.total else 0.0
                bars.update(shown[job], completed=1.0 if row.state.ended else share, state=str(row.state))
                if row.state.ended:
                    ended[job] = row
            time.sleep(0.1)
    return [(file, ended[job]) for file, job in submitted]


def _print(ended: list[tuple[Path, Job]], as_json: bool) -> None:
    from batch.folder import pipeline
    from batch.payloads.embedding import EmbeddingResult

    rows = []
    for file, job in ended:
        row: dict[str, Any] = {"file": str(file), "id": job.id, "state": str(job.state)}
        if job.state is State.DONE:
            if isinstance(job.result, EmbeddingResult):
                row |= {"vectors": job.result.count, "dimensions": job.result.dimensions}
                row["text"] = f"{row['vectors']} vectors of {row['dimensions']} dimensions; batch show {job.id} --json"
            else:
                try:
                    row["text"] = pipeline.text_of(pipeline.result_of(job))
                except BatchError as error:
                    row["text"], row["error"] = "", error.message
        else:
            row["error"] = job.error["message"] if job.error else Cancelled().message
        rows.append(row)
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for row in rows:
        start = f"{row['file']}: " if len(rows) > 1 else ""
        if row.get("error"):
            print(f"batch: {row['file']}: {row['error']}", file=sys.stderr)
        else:
            print(f"{start}{row['text']}")
