"""`batch status`: works with the service down, and starts fast, as it loads neither settings nor web framework."""

from __future__ import annotations

from typing import Annotated

import typer

from batch.cli.app import Json, app
from batch.cli.exit_status import ExitStatus
from batch.cli.home import Home, database_of, home_folder
from batch.cli.output import duration, print_json, print_line, safe_line, terminal
from batch.cli.status.view import inbox_line, node_lines, problem_lines, status_table, title
from batch.service_status import ServiceStatus, gather

Watch = Annotated[bool, typer.Option("--watch", help="Go on showing it, until Ctrl-C.")]
Every = Annotated[float, typer.Option("--every", min=0.1, max=3600.0, help="Seconds between two looks, with --watch.")]


@app.command()
def status(home: Home = None, watch: Watch = False, every: Every = 1.0, as_json: Json = False) -> None:
    """Show the models, the queue and the inbox. Exit status 3 when the service is not running."""
    if watch:
        from batch.cli.status.watch import watch_status

        watch_status(home, every, as_json)
        return
    state = gather(database_of(home), home_folder(home))
    if as_json:
        print_json(state)
    else:
        _print(state)
    if not state["running"]:
        raise typer.Exit(ExitStatus.SERVICE_DOWN)


def _print(state: ServiceStatus) -> None:
    print_line(title(state))
    console = terminal()
    console.print(status_table(state))
    for line in problem_lines(state):
        console.print(safe_line(line), style="red")
    print_line(inbox_line(state))
    if "nodes" in state:
        for line in node_lines(state["nodes"]):
            print_line(line)


__all__ = ["duration", "status"]
