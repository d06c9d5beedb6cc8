"""`batch config` and `batch gc`."""

from __future__ import annotations

import json

from batch.cli.app import Home, Json, app
from batch.cli.jobs import opened


@app.command()
def config(home: Home = None, as_json: Json = False) -> None:
    """Print the effective settings and where each came from."""
    from batch.settings import Settings

    settings, sources = Settings.trace(home)
    values = {key: {"value": value, "from": sources.get(key, "default")} for key, value in settings.leaves().items()}
    if as_json:
        print(json.dumps(values, indent=1))
        return
    width = max(len(key) for key in values)
    for key, found in values.items():
        origin = "" if found["from"] == "default" else f"   # {found['from']}"
        print(f"{key:{width}} = {json.dumps(found['value'], ensure_ascii=False)}{origin}")


@app.command()
def gc(home: Home = None) -> None:
    """Delete what is past its days (settings `retention`), unused payloads, and give the space back."""
    from batch.folder.ledger import Ledger
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
            for _ in forget(Ledger(store), due[Origin.INBOX]):
                pass
        files = 0
        while found := sweep_orphans(store, spool):
            files += found
        files += sweep_lost(store, spool)
        store.vacuum(1 << 30)
    print(f"{rows} ended jobs and {files} unused files are gone.")
