"""`batch run`: a file of requests as a batch, from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batch.cli.app import Json, app
from batch.cli.exit_status import ExitStatus
from batch.cli.home import Home, open_store
from batch.cli.output import print_error, print_json, print_line
from batch.errors import BadRequest, TooLarge

if TYPE_CHECKING:
    from batch.batches.rows import Batch
    from batch.queue.spool import Spool
    from batch.queue.store import Store


@app.command("run")
def run_command(
    requests: Annotated[Path, typer.Argument(metavar="REQUESTS.jsonl", help="One request a line, in OpenAI's batch form.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT.jsonl", help="Where the results go [default: REQUESTS.output.jsonl]"),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Only submit; `batch wait ID` comes back to it.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Answer every request of a file, behind interactive work. Ctrl-C leaves the batch running.

    The endpoint is the one that the lines name. Exit status 0: every line was answered.
    """
    from batch.cli.batches.following import exit_status, follow_batches, report, write_results
    from batch.queue.open_store import open_spool
    from batch.settings import Settings

    with open_store(home) as store:
        settings = Settings.load(home)
        spool = open_spool(settings.database_address, settings.state_dir / "spool", settings.payloads)
        if requests.stat().st_size > settings.files.batch_bytes:
            limit = settings.files.batch_bytes
            raise TooLarge(f"{requests} is larger than {limit} bytes (files.batch_bytes in batch.toml): split it.")
        batch = submit_file(store, spool, requests)
        if detach:
            if as_json:
                print_json({"id": batch.id})
            else:
                print_line(batch.id)
            return
        if sys.stderr.isatty():
            print_error(f"{batch.id} runs; Ctrl-C leaves it running, and `batch wait {batch.id}` comes back to it.")
        try:
            (batch,) = follow_batches(store, [batch.id])
        except KeyboardInterrupt:
            print_error(f"{batch.id} goes on without this command: `batch wait {batch.id}` comes back to it.")
            raise typer.Exit(ExitStatus.INTERRUPTED) from None
        target = output or requests.with_name(f"{requests.name.removesuffix('.jsonl')}.output.jsonl")
        paths = write_results(batch, spool, store, target)
    report(batch)
    if as_json:
        files = [str(path) for path in paths]
        counts = {"total": batch.total, "completed": batch.completed, "failed": batch.failed}
        print_json({"id": batch.id, "status": batch.status, "request_counts": counts, "files": files})
    else:
        for path in paths:
            print_line(str(path))
    if (status := exit_status([batch])) is not None:
        raise typer.Exit(status)


def submit_file(store: Store, spool: Spool, requests: Path) -> Batch:
    """Create a batch of a file's lines, all for the endpoint that the first one names. Raises BadRequest."""
    from batch.batches.batch_store import BatchStore
    from batch.batches.file_store import FileStore
    from batch.batches.rows import BatchDraft, Purpose
    from batch.queue.jobs import Priority

    with requests.open("rb") as file:
        endpoint = first_endpoint(file.readline(1 << 26), requests)
        file.seek(0)
        sha256, size = spool.keep_file(file, durable=True)
    stored = FileStore(store).create_file(Purpose.BATCH, requests.name, size, sha256, None)
    return BatchStore(store).create(
        BatchDraft(
            endpoint=endpoint,
            input_file=stored.id,
            input_sha256=sha256,
            input_bytes=size,
            priority=Priority.BATCH,
        )
    )


def first_endpoint(line: bytes, requests: Path) -> str:
    """The endpoint that a file's first line names. Raises BadRequest where it names none."""
    import msgspec

    try:
        url = msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"), type=dict[str, msgspec.Raw]).get("url", msgspec.Raw(b"0"))
        return msgspec.json.decode(url, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadRequest(
            f'{requests} is no file of batch requests: its first line is to be {{"custom_id", "method", "url", "body"}}.'
        ) from None
