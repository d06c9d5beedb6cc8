"""`batch repair`: a new database from what can be read of a damaged one."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import asdict

from batch.cli.app import Json, app
from batch.cli.home import Home
from batch.cli.output import print_json, print_line
from batch.errors import NotSupported


@app.command()
def repair(home: Home = None, as_json: Json = False) -> None:
    """Build the database anew from what can be read of it, its newest backup, and the outbox; the damaged files are kept."""
    from batch.folder.reindex.ledger_rebuild import rebuild_ledger
    from batch.folder.reindex.rebuild import Rebuild
    from batch.queue.open_store import open_store
    from batch.queue.sqlite.repair import repair as rebuild
    from batch.settings import Settings
    from batch.supervisor.single_instance import only_instance

    settings = Settings.load(home)
    if isinstance(settings.database_address, str):
        raise NotSupported(
            "The jobs are in PostgreSQL, which mends itself or is restored from a copy: there is nothing to repair."
        )
    with only_instance(settings):  # a service that runs has the file open
        outcome = rebuild(settings.database_address, settings.backup)
        with closing(open_store(settings.database_address)) as store:
            from_outbox = rebuild_ledger(store, settings)
            indexed = Rebuild(store, os.fspath(settings.outbox_dir)).run().files
    if as_json:
        print_json(asdict(outcome) | {"aside": str(outcome.aside), "from_outbox": from_outbox, "indexed": indexed})
        return
    print_line(f"The database holds {outcome.jobs} jobs, {outcome.from_backup} of them from the backup.")
    if from_outbox:
        print_line(f"{from_outbox} files were taken up again from their results in the outbox.")
    if indexed:
        print_line(f"The search index holds {indexed} results of the outbox.")
    if outcome.queued_again:
        print_line(f"{outcome.queued_again} jobs that ran, or had lost their place, wait again.")
    if outcome.incomplete:
        print_line(f"Not all could be read of: {', '.join(outcome.incomplete)}.")
    print_line(f"The damaged files are in {outcome.aside}: remove them once all is well.")
