"""`batch submit`: hand files to the queue from the command line, without the inbox."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from batch.cli.app import Json, app
from batch.cli.exit_status import ExitStatus
from batch.cli.home import Home, NoHome, home_folder, no_home_sentence, service_note
from batch.cli.jobs.waiting import require_service, wait_for_jobs
from batch.cli.output import print_error, print_json, print_line, print_text, safe_line
from batch.errors import BadRequest, BatchError, Cancelled, TooLarge, UnsupportedMedia
from batch.job_description import full_result
from batch.queue.jobs import Draft, Job, Origin, Priority, State

if TYPE_CHECKING:
    from batch.queue.spool import Spool
    from batch.settings import Settings

_MAX_FILES = 100_000
_STDIN = Path("-")


@app.command()
def submit(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|FOLDER|-...", help="Images, sound, video or texts; - is standard input."),
    ],
    home: Home = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the results and print them.")] = False,
    prompt: Annotated[str | None, typer.Option(help="What to ask about images.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of the sound; auto detects.")] = None,
    as_json: Json = False,
) -> None:
    """Queue files as jobs: captions of images, transcripts of sound, embeddings of texts.

    Of a folder, everything in it that can be read is taken, hidden files left out.
    """
    from batch.queue.channel import Waker
    from batch.queue.open_store import open_spool, open_store
    from batch.settings import Settings

    if home is None:
        raise NoHome(no_home_sentence(home_folder(None)))
    settings = Settings.load(home, _flags(prompt, language))
    with closing(open_store(settings.database_address, home=settings.home)) as store:
        if wait:
            require_service(store, os.fspath(settings.home), "Nothing was queued.")
        spool = open_spool(settings.database_address, settings.state_dir / "spool", settings.payloads)
        # All or none: a wrong name among the files must not leave the others half submitted.
        drafts = list(_drafts(files, settings, spool))
        if not drafts:
            raise BadRequest("There is no image, sound, video or text in what was named: nothing was queued.")
        store.submit(*(draft for _, draft in drafts), durable=True)
        waker = Waker(settings.state_dir)
        for kind in {draft.kind for _, draft in drafts}:
            waker.wake(kind)
        waker.close()
        if not wait:
            _print_queued([(name, draft.id) for name, draft in drafts], as_json)
            if service_note(store) is None:
                print_error(
                    f"The service is not running in {settings.home}: the jobs wait until `batch serve` is started there."
                )
            return
        ended = wait_for_jobs(store, [(draft.id, name) for name, draft in drafts])
    _print_results([(name, job) for (name, _), job in zip(drafts, ended, strict=True)], as_json)
    if any(job.state is not State.DONE for job in ended):
        raise typer.Exit(ExitStatus.FAILED)


def _flags(prompt: str | None, language: str | None) -> dict[str, Any]:
    folder = {"caption_prompt": prompt, "language": language}
    return {"folder": {key: value for key, value in folder.items() if value is not None}}


def _drafts(files: list[Path], settings: Settings, spool: Spool) -> Iterator[tuple[str, Draft]]:
    """(name, job) of each file that was named or lies in a folder that was."""
    for file in files:
        if file == _STDIN:
            yield "-", _draft("-", sys.stdin.buffer, settings, spool)
        elif file.is_dir():
            for number, inner in enumerate(_files_below(file)):
                if number >= _MAX_FILES:
                    raise TooLarge(
                        f"{_display_name(file)} holds more than {_MAX_FILES:,} files: drop them into the inbox instead."
                    )
                try:
                    yield _display_name(inner), _draft_of_file(inner, settings, spool)
                except BatchError as error:  # in a folder there may be anything; the rest of it was meant all the same
                    print_error(error.message)
        else:
            yield _display_name(file), _draft_of_file(file, settings, spool)


def _files_below(folder: Path) -> Iterator[Path]:
    from batch.folder.file_names import is_ignored

    for path, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(path, name) for name in sorted(names) if not is_ignored(name))


def _draft_of_file(file: Path, settings: Settings, spool: Spool) -> Draft:
    try:
        # Without waiting: a FIFO would have to be written to first.
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise UnsupportedMedia(f"{_display_name(file)} is not a file.")
            return _draft(os.fspath(file), opened, settings, spool)
    except OSError as error:
        raise BadRequest(f"{_display_name(file)} cannot be read: {error.strerror}.") from None


def _draft(path: str, opened: BinaryIO, settings: Settings, spool: Spool) -> Draft:
    """The job for an open file, whose bytes are kept in the spool."""
    from batch.folder.ledger.rows import CaptionParameters, TranscriptParameters
    from batch.folder.pipeline import caption_draft, content_parameters, embedding_draft, transcript_draft
    from batch.folder.source_text import text_of_file
    from batch.media.kind import HEAD_BYTES, MediaKind, kind_of

    def put_in_spool(data: bytes) -> str:
        return spool.keep(data, durable=True)

    name = safe_line(path)
    head = opened.read(HEAD_BYTES)
    kind = kind_of(head, path)
    if kind is MediaKind.UNKNOWN:
        raise UnsupportedMedia(f"{name} is no image, sound, video or text that batch can read.")
    if kind is MediaKind.DOCUMENT:
        draft = embedding_draft(_document_text(opened, head, name, settings), put_in_spool, name)
    elif kind is MediaKind.TEXT:
        limit = settings.limits.text_bytes
        data = head + opened.read(limit + 1)
        if len(data) > limit:
            raise TooLarge(f"{name} is larger than the {limit:,} bytes that a text may have (limits.text_bytes).")
        draft = embedding_draft(text_of_file(data, path, name)[0], put_in_spool, name)
    else:
        blob, _ = spool.keep_chunks(_chunks(head, opened), durable=True)
        match content_parameters(kind, settings.folder):
            case CaptionParameters() as parameters:
                draft = caption_draft(blob, parameters, name)
            case TranscriptParameters() as parameters:
                draft = transcript_draft(blob, parameters, name)
    return replace(draft, origin=Origin.CLI, priority=Priority.BATCH)


def _document_text(opened: BinaryIO, head: bytes, name: str, settings: Settings) -> str:
    from batch.folder.source_text import text_of_document

    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        raise UnsupportedMedia(f"{name} is a document, which is read from a file only.")
    text, _ = text_of_document(opened.fileno(), head, name, settings.limits)
    if not text.strip():
        raise UnsupportedMedia(f"{name} holds no text, but pictures: drop it into the inbox, which has its pages read.")
    return text


def _chunks(head: bytes, opened: BinaryIO) -> Iterator[bytes]:
    yield head
    while chunk := opened.read(1 << 20):
        yield chunk


def _display_name(file: Path) -> str:
    return safe_line(os.fspath(file))


def _print_queued(queued: list[tuple[str, str]], as_json: bool) -> None:
    if as_json:
        print_json([{"file": name, "id": job} for name, job in queued])
        return
    for name, job in queued:
        print_line(f"{job}  {name}")


def _print_results(ended: list[tuple[str, Job]], as_json: bool) -> None:
    from batch.payloads.embedding import EmbeddingResult

    rows = []
    for name, job in ended:
        row: dict[str, Any] = {"file": name, "id": job.id, "state": str(job.state)}
        if job.state is State.DONE:
            row["text"] = full_result(job) or ""
            if isinstance(job.result, EmbeddingResult):
                row |= {"vectors": job.result.count, "dimensions": job.result.dimensions}
        else:
            row["error"] = job.error["message"] if job.error else Cancelled().message
        rows.append(row)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        if "error" in row:
            print_error(f"{row['file']}: {row['error']}")
        else:
            print_text(f"{row['file']}: {row['text']}" if len(rows) > 1 else row["text"])
