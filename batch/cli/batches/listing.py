"""`batch batches`: the batches of a home, one of them, and cancelling it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from batch.cli.app import Json
from batch.cli.home import Home, open_store
from batch.cli.output import moment, print_json, print_line, print_table, short_moment

if TYPE_CHECKING:
    from batch.batches.rows import Batch

app = typer.Typer(rich_markup_mode=None, help="Batches: many requests in one file, answered behind interactive work.")


@app.callback(invoke_without_command=True)
def list_by_default(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """Batches: many requests in one file, answered behind interactive work; without a command, the newest are listed."""
    if context.invoked_subcommand is None:
        list_command(home=home, as_json=as_json)


@app.command("list")
def list_command(
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, newest first.")] = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List batches, newest first."""
    from batch.batches.batch_store import BatchStore

    with open_store(home, readonly=True) as store:
        batches, _ = BatchStore(store).batches(None, limit=limit)
    if as_json:
        print_json([summary(batch) for batch in batches])
        return
    print_table(
        ("ID", "STATUS", "DONE", "FAILED", "TOTAL", "CREATED", "ENDPOINT"),
        [
            (
                batch.id,
                batch.status,
                str(batch.completed),
                str(batch.failed),
                str(batch.total),
                short_moment(batch.created_at),
                batch.endpoint,
            )
            for batch in batches
        ],
    )


@app.command("show")
def show_command(id: Annotated[str, typer.Argument(metavar="ID")], home: Home = None, as_json: Json = False) -> None:
    """Show one batch: its counts, times, files, and what is wrong with its input."""
    from batch.batches.batch_store import BatchStore

    with open_store(home, readonly=True) as store:
        batch = BatchStore(store).batch(id)
    if as_json:
        print_json(summary(batch))
        return
    print_line(f"{batch.id}  {batch.status}  {batch.endpoint}")
    print_line(f"lines    {batch.completed} answered, {batch.failed} failed, {batch.total} in all")
    print_line(f"tokens   {batch.usage.input_tokens} in, {batch.usage.output_tokens} out")
    for label, when in (("created", batch.created_at), ("began", batch.in_progress_at), ("ended", _ended_at(batch))):
        print_line(f"{label:8} {moment(when)}")
    for label, file in (("input", batch.input_file), ("output", batch.output_file), ("errors", batch.error_file)):
        print_line(f"{label:8} {file or '-'}")
    for problem in batch.errors or []:
        print_line(f"line {problem.line or '-'}: {problem.message} ({problem.code})")


@app.command("cancel")
def cancel_command(
    ids: Annotated[list[str], typer.Argument(metavar="ID...")], home: Home = None, as_json: Json = False
) -> None:
    """Cancel batches: what runs is stopped, what was answered stays in their files."""
    from batch.batches.batch_store import BatchStore

    with open_store(home) as store:
        batches = BatchStore(store)
        cancelled = [batches.cancel(id, batches.batch(id).api) for id in ids]
    if as_json:
        print_json([summary(batch) for batch in cancelled])
        return
    for batch in cancelled:
        print_line(f"{batch.id}  {batch.status}")


def summary(batch: Batch) -> dict[str, Any]:
    """A batch for programs."""
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(batch)
    del fields["sequence"], fields["read_bytes"], fields["read_lines"]
    return fields


def _ended_at(batch: Batch) -> int | None:
    if not batch.status.is_ended:
        return None
    return batch.completed_at or batch.failed_at or batch.cancelled_at or batch.expired_at
