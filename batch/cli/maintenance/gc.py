"""`batch gc`: garbage collection by hand."""

from __future__ import annotations

from batch.cli.app import Json, app
from batch.cli.home import Home, open_store
from batch.cli.output import print_json, print_line


@app.command()
def gc(home: Home = None, as_json: Json = False) -> None:
    """Delete what is past its days (settings `retention`), unused payloads, and give the space back."""
    from batch.folder.ledger.retention import LedgerRetention
    from batch.queue.jobs import Origin
    from batch.queue.open_store import open_spool
    from batch.settings import Settings
    from batch.supervisor.retention import delete_orphans, delete_unreferenced, expiry_times, forget_left_files

    settings = Settings.load(home)
    with open_store(home) as store:
        spool = open_spool(settings.database_address, settings.state_dir / "spool", settings.payloads)
        rows = 0
        due = expiry_times(settings)
        for origin, before in due.items():
            while count := store.expire(origin, before):
                rows += count
        if Origin.INBOX in due:
            for _ in forget_left_files(LedgerRetention(store), due[Origin.INBOX]):
                pass
        files = 0
        while count := delete_orphans(store, spool):
            files += count
        files += delete_unreferenced(store, spool)
        store.vacuum(1 << 30)
    if as_json:
        print_json({"jobs": rows, "files": files})
    else:
        print_line(f"{rows} ended jobs and {files} unused files are gone.")
