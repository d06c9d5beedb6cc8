"""`batch backup`: a copy of the queue's database, with the service up or down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batch.cli.app import Json, app
from batch.cli.home import Home, open_store
from batch.cli.output import print_json, print_line
from batch.errors import Conflict


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes; a file that exists is not overwritten.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Copy the database of jobs, files and results into a file, as it stands now."""
    if file.exists():
        raise Conflict(f"{file} exists: name another file, or remove it first.")
    with open_store(home, readonly=True) as store:
        size = store.back_up(file.absolute())
    if as_json:
        print_json({"file": str(file), "bytes": size})
    else:
        print_line(f"{file} holds the database, {size:,} bytes. Payloads are in .batch/spool, results in outbox/.")
