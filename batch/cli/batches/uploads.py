"""`batch uploads`: the files of the API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batch.cli.app import Json
from batch.cli.home import Home, open_store
from batch.cli.output import print_json, print_line, print_table, short_moment

app = typer.Typer(rich_markup_mode=None, help="Files that clients uploaded over the API, and that batches wrote.")


@app.callback(invoke_without_command=True)
def list_by_default(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """Files that clients uploaded over the API, and that batches wrote; without a command, the newest are listed."""
    if context.invoked_subcommand is None:
        list_command(home=home, as_json=as_json)


@app.command("list")
def list_command(
    purpose: Annotated[str | None, typer.Option("--purpose", help="batch, batch_output, vision, user_data and others")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, newest first.")] = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List files, newest first."""
    from batch.batches.file_store import FileStore

    with open_store(home, readonly=True) as store:
        files, _ = FileStore(store).files(purpose=purpose, after=None, limit=limit, ascending=False)
    if as_json:
        import msgspec

        print_json([msgspec.to_builtins(file) for file in files])
        return
    rows = [(file.id, file.purpose, str(file.bytes), short_moment(file.created_at), file.filename) for file in files]
    print_table(("ID", "PURPOSE", "BYTES", "CREATED", "NAME"), rows)


@app.command("add")
def add_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...")],
    purpose: Annotated[str, typer.Option("--purpose", help="batch, vision, user_data, assistants and others")] = "user_data",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Store files, to be named by their ids in requests and batches."""
    from batch.batches.file_store import FileStore
    from batch.batches.rows import Purpose
    from batch.errors import BadRequest
    from batch.queue.open_store import open_spool
    from batch.settings import Settings

    purposes = [one.value for one in Purpose if one is not Purpose.BATCH_OUTPUT]
    if purpose not in purposes:
        raise BadRequest(f"--purpose should be one of {', '.join(purposes)}, not {purpose}.")
    added = []
    with open_store(home) as store:
        settings = Settings.load(home)
        spool = open_spool(settings.database_address, settings.state_dir / "spool", settings.payloads)
        for path in files:
            with path.open("rb") as source:
                sha256, size = spool.keep_file(source, durable=True)
            added.append((path, FileStore(store).create_file(Purpose(purpose), path.name, size, sha256, None)))
    if as_json:
        print_json([{"file": str(path), "id": file.id} for path, file in added])
        return
    for path, file in added:
        print_line(f"{file.id}  {path}")


@app.command("remove")
def remove_command(
    ids: Annotated[list[str], typer.Argument(metavar="ID...")], home: Home = None, as_json: Json = False
) -> None:
    """Delete files; batches that run hold their input themselves."""
    from batch.batches.file_store import FileStore

    with open_store(home) as store:
        for id in ids:
            FileStore(store).delete_file(id)
    if as_json:
        print_json([{"id": id, "deleted": True} for id in ids])
        return
    for id in ids:
        print_line(f"{id} is removed.")
