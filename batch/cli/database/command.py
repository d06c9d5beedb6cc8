"""`batch database migrate` and `batch database grant`, which the owner of a PostgreSQL database runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from batch.cli.app import Home, Json
from batch.cli.home import database_of
from batch.cli.output import print_json, print_line
from batch.errors import NotSupported

app = typer.Typer(
    help="The schema and the rights in a PostgreSQL database, for its owner.", rich_markup_mode=None, no_args_is_help=True
)


@app.command()
def migrate(home: Home = None, as_json: Json = False) -> None:
    """Bring the database to this version's schema, and give the roles of fronts and workers their rights again."""
    from batch.queue.postgres.roles import grants

    version = grants.migrate(_address(home))
    if as_json:
        print_json({"schema": version})
        return
    print_line(f"The database has schema {version}, the one of this version.")


@app.command()
def grant(
    home: Home = None,
    front: Annotated[str, typer.Option(metavar="ROLE", help="The role of fronts [default: DATABASE_front]")] = "",
    worker: Annotated[str, typer.Option(metavar="ROLE", help="The role of workers [default: DATABASE_worker]")] = "",
    as_json: Json = False,
) -> None:
    """Give a role the rights of a front, and another one those of a worker; roles that are not there are made without login."""
    from batch.queue.postgres.roles import grants

    granted = grants.grant(_address(home), front, worker)
    if as_json:
        print_json(asdict(granted))
        return
    for role in granted.created:
        print_line(f"{role} was made: a role without a login, whose members have its rights.")
    print_line(f"{granted.front} may read and change rows, and no table.")
    print_line(
        f"{granted.worker} may call {granted.functions} functions, for leases of the worker that calls, and nothing else."
    )
    print_line(f"Give them to logins: `grant {granted.worker} to LOGIN`.")


def _address(home: Path | None) -> str:
    address = database_of(home)
    if isinstance(address, Path):
        raise NotSupported(
            "The jobs are in a SQLite file, which brings itself forward and belongs to who owns the folder: there are no roles."
        )
    return address
