"""`batch worker`."""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from batch.cli.app import app
from batch.model_kind import Kind, queue_of


class Only(StrEnum):
    """What a worker limits itself to."""

    INTERACTIVE = "interactive"


@app.command("worker")
def worker_command(
    kind: Annotated[Kind, typer.Argument(help="Which model this machine serves.")],
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The database to take jobs from, postgresql://USER@HOST/NAME, without a password [default: BATCH_DATABASE]",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="A model of the settings by name.")] = "",
    only: Annotated[
        Only | None,
        typer.Option(
            help="Take only requests whose clients wait, never bulk work, which other workers do.", show_default=False
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            envvar="BATCH_HOME",
            help="Folder with this worker's batch.toml and .batch/ [default: ~/.local/state/batch]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve one model to other machines' queues: no ports, no inbox. Ctrl-C puts back what it holds and ends it."""
    signal.signal(signal.SIGTERM, _stop_before_up)
    from batch.database_address import has_password
    from batch.errors import SettingsProblem
    from batch.settings import Settings
    from batch.settings.sources import Table
    from batch.supervisor.worker_agent import run_worker

    if database is not None and has_password(database):
        raise SettingsProblem(
            "A password on the command line is seen by all users of this machine: put the address into BATCH_DATABASE, or the "
            "password into ~/.pgpass."
        )
    flags: Table = {} if database is None else {"database": database}
    settings = Settings.load(home or _default_home(), flags)
    queue = queue_of(kind, model)
    if queue not in settings.queues:
        file = settings.home / "batch.toml"
        raise SettingsProblem(f"There is no {kind} model by the name of {model[:100]!r} in {file}: add [models.NAME] there.")
    run_worker(queue, settings, takes=only or "all")


def _default_home() -> Path:
    """Where a worker keeps what it fetches: not in the folder that it happens to be started in."""
    state = os.environ.get("XDG_STATE_HOME") or ""
    folder = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    home = folder / "batch"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home


def _stop_before_up(number: int, frame: object) -> None:
    """SIGTERM before the agent listens for it: nothing has been taken."""
    raise SystemExit(0)
