"""`batch config`: the effective settings."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from batch.cli.app import Home, Json, app
from batch.cli.output import print_json, print_line
from batch.errors import NotFound


# Its own --help, as click's would end before it had seen the key.
@app.command(add_help_option=False)
def config(
    context: typer.Context,
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="One setting, as vlm.port: print its value only.")] = None,
    home: Home = None,
    as_json: Json = False,
    explain: Annotated[bool, typer.Option("--help", help="Explain KEY, or this command.")] = False,
) -> None:
    """Print the effective settings and where each came from; `--help KEY` explains a setting."""
    from batch.settings import Settings

    if explain:
        from batch.settings.reference import entry_of

        print(entry_of(key).text() if key else context.get_help())
        return
    settings, sources = Settings.trace(home)
    leaves = settings.leaves()
    if key is not None:
        if key not in leaves:
            raise NotFound(f"There is no setting {key}: see `batch config`.")
        value = leaves[key]
        print_line(value if isinstance(value, str) and not as_json else json.dumps(value))
        return
    values = {name: {"value": value, "from": sources.get(name, "default")} for name, value in leaves.items()}
    if as_json:
        print_json(values)
        return
    width = max(len(name) for name in values)
    for name, entry in values.items():
        origin = "" if entry["from"] == "default" else f"   # {entry['from']}"
        print_line(f"{name:{width}} = {json.dumps(entry['value'], ensure_ascii=False)}{origin}")
