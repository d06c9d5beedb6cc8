"""`batch logs`: what the service has written, with the service up or down."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer

from batch.cli.app import Json, app
from batch.cli.home import Home, home_folder
from batch.cli.output import is_output_read, safe_text
from batch.errors import NotFound


@app.command()
def logs(
    home: Home = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines to begin with.")] = 50,
    as_json: Json = False,
) -> None:
    """Show the service's log."""
    from batch import logs as log

    folder = home_folder(home)
    path = log.file_of(folder)
    text, newest = log.tail(path, lines)
    if newest is None and not follow:
        raise NotFound(f"{folder} has no log yet: start `batch serve` there, or name the home with --home.")
    for line in text:
        _print(line, as_json, flush=follow)
    if not follow:
        if newest is not None:
            newest.close()
        return
    try:
        for line in log.follow(path, newest, is_wanted=is_output_read):
            _print(line, as_json, flush=True)
    except KeyboardInterrupt:
        return


_LINE = re.compile(r"(?P<time>\S+ \S+) (?P<level>[A-Z]+) +(?P<logger>\S+): (?P<message>.*)")


def _print(line: str, as_json: bool, *, flush: bool) -> None:
    """A line of the log; as JSON an object of its own, whose fields are those of the line."""
    if not as_json:
        print(safe_text(line), flush=flush)
        return
    match = _LINE.fullmatch(line)
    print(json.dumps(match.groupdict() if match else {"message": line}), flush=flush)
