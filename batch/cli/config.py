"""`batch config` and `batch gc`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from batch.cli.app import Home, Json, app
from batch.cli.jobs import opened
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
        print(json.dumps(leaves[key]) if as_json or not isinstance(leaves[key], str) else leaves[key])
        return
    values = {name: {"value": value, "from": sources.get(name, "default")} for name, value in leaves.items()}
    if as_json:
        print(json.dumps(values, indent=1))
        return
    width = max(len(name) for name in values)
    for name, entry in values.items():
        origin = "" if entry["from"] == "default" else f"   # {entry['from']}"
        print(f"{name:{width}} = {json.dumps(entry['value'], ensure_ascii=False)}{origin}")


@app.command()
def gc(home: Home = None) -> None:
    """Delete what is past its days (settings `retention`), unused payloads, and give the space back."""
    from batch.folder.ledger import Ledger
    from batch.folder.ledger_retention import LedgerRetention
    from batch.queue.jobs import Origin
    from batch.queue.spool import Spool
    from batch.retention import deadlines, forget, sweep_lost, sweep_orphans
    from batch.settings import Settings

    settings = Settings.load(home)
    with opened(home) as store:
        spool = Spool(settings.state_dir / "spool")
        rows = 0
        due = deadlines(settings)
        for origin, before in due.items():
            while found := store.expire(origin, before):
                rows += found
        if Origin.INBOX in due:
            Ledger(store)  # its tables are there then
            for _ in forget(LedgerRetention(store), due[Origin.INBOX]):
                pass
        files = 0
        while found := sweep_orphans(store, spool):
            files += found
        files += sweep_lost(store, spool)
        store.vacuum(1 << 30)
    print(f"{rows} ended jobs and {files} unused files are gone.")
