"""Registers every command with the app."""

from __future__ import annotations

from batch.cli import config, files, gc, logs, serve, service, submit  # noqa: F401
from batch.cli.app import app
from batch.cli.doctor import doctor
from batch.cli.jobs import actions, listing, pausing, redo, waiting  # noqa: F401
from batch.cli.models import app as models
from batch.cli.status import command  # noqa: F401

app.add_typer(models, name="models")
app.command("doctor")(doctor)
