"""`batch status --watch`: the same, over and over; a plain line each time where there is no terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from batch.cli.home import database_of, home_folder
from batch.cli.output import print_line, safe_line, short_moment, terminal
from batch.cli.status.view import inbox_line, node_lines, problem_lines, running_text, status_table, title
from batch.queue.open_store import open_store
from batch.queue.store import EmptyDatabase, Store
from batch.service_status import ServiceStatus, gather

_MAX_FAILURES = 5
_FAILED_JOBS = (
    "select coalesce(finished_at, created_at), coalesce(source, task), json_extract(error, '$.message') from job "
    "where kind = ? and state = 'failed' order by id desc limit ?"
)
_FAILED_FILES = (
    "select coalesce(finished_at, accepted_at), path, json_extract(error, '$.message') from file "
    "where {own}state = 'failed' and error is not null order by id desc limit ?"
)


def watch_status(home: Path | None, every_s: float, as_json: bool) -> None:
    """Show the status every `every_s` seconds until Ctrl-C or until nobody reads it any more."""
    try:
        if as_json:
            for state in _states(home, every_s):
                print(json.dumps(state), flush=True)
        elif sys.stdout.isatty():
            _watch_on_terminal(home, every_s)
        else:
            for state in _states(home, every_s):
                print_line(_plain_line(state), flush=True)
    except KeyboardInterrupt:
        pass


def _states(home: Path | None, every_s: float) -> Iterator[ServiceStatus]:
    while True:
        yield gather(database_of(home), home_folder(home))
        time.sleep(every_s)


def _plain_line(state: ServiceStatus) -> str:
    parts = [time.strftime("%H:%M:%S"), "running" if state["running"] else "not running"]
    for kind, model in state["models"].items():
        waiting = sum(model["queued"].values())
        parts.append(
            f"{kind} {model['status']}: {running_text(model['running'])}, {waiting} queued, {model['done_today']} done"
        )
    if "nodes" in state:
        parts.append(next(node_lines(state["nodes"])))
    return "; ".join([*parts, inbox_line(state)])


def _watch_on_terminal(home: Path | None, every_s: float) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    def view(state: ServiceStatus) -> Group:
        # Words and signs tell what matters; colours only repeat it.
        problems = [Text(safe_line(f"! {line}"), style="bold") for line in problem_lines(state)]
        failures = [Text(safe_line(line), overflow="ellipsis", no_wrap=True) for line in _last_failures(home)]
        heading = [Text("last failures", style="bold")] if failures else []
        return Group(
            Text(safe_line(title(state))),
            status_table(state),
            *problems,
            Text(safe_line(inbox_line(state))),
            *(Text(safe_line(line)) for line in (node_lines(state["nodes"]) if "nodes" in state else ())),
            *heading,
            *failures,
            Text(f"{time.strftime('%H:%M:%S')}, every {every_s:g} s; Ctrl-C ends", style="dim"),
        )

    console = terminal()
    console.soft_wrap = False
    with Live(view(gather(database_of(home), home_folder(home))), console=console, auto_refresh=False, screen=False) as live:
        while True:
            time.sleep(every_s)
            live.update(view(gather(database_of(home), home_folder(home))), refresh=True)


def _last_failures(home: Path | None) -> list[str]:
    database = database_of(home)
    if isinstance(database, Path) and not database.exists():
        return []
    rows: list[tuple[float, str, str | None]] = []
    try:
        with closing(open_store(database, home=home_folder(home), readonly=True)) as store:
            for kind in {row[0] for row in store.tally()}:
                rows += store.read(_FAILED_JOBS, (kind, _MAX_FAILURES))
            rows += [(when, path.decode("utf-8", "replace"), why) for when, path, why in _failed_files(store)]
    except EmptyDatabase:
        return []
    rows.sort(key=lambda row: row[0], reverse=True)
    return [f"  {short_moment(when)}  {what}: {why or 'failed'}" for when, what, why in rows[:_MAX_FAILURES]]


def _failed_files(store: Store) -> list[tuple[float, bytes, str | None]]:
    try:
        return store.read(_FAILED_FILES.format(own=store.inbox_scope.own()), (_MAX_FAILURES,))
    except EmptyDatabase:  # no service has run here yet
        return []
