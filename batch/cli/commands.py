"""Registers every command with the app."""

from __future__ import annotations

from batch.cli import config, files, mcp, submit  # noqa: F401
from batch.cli.app import app
from batch.cli.batches import run  # noqa: F401
from batch.cli.batches.listing import app as batches
from batch.cli.batches.uploads import app as uploads
from batch.cli.database.command import app as database
from batch.cli.doctor.command import doctor
from batch.cli.jobs import actions, listing, pausing, redo, waiting  # noqa: F401
from batch.cli.maintenance import backup, gc, move_to, repair  # noqa: F401
from batch.cli.models import app as models
from batch.cli.nodes import listing as nodes  # noqa: F401
from batch.cli.notifications import app as notifications
from batch.cli.search import command as search  # noqa: F401
from batch.cli.search import reindex  # noqa: F401
from batch.cli.service import logs, serve, service, worker  # noqa: F401
from batch.cli.status import command  # noqa: F401

app.add_typer(models, name="models")
app.add_typer(batches, name="batches")
app.add_typer(uploads, name="uploads")
app.add_typer(notifications, name="notifications")
app.add_typer(database, name="database")
app.command("doctor")(doctor)
