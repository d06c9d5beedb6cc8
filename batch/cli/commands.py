"""Registers every command with the app."""

from __future__ import annotations

from batch.cli import config, jobs, logs, serve, service, status, submit  # noqa: F401
from batch.cli.app import app
from batch.cli.doctor import doctor
from batch.cli.models import app as models

app.add_typer(models, name="models")
app.command("doctor")(doctor)
