"""`batch status`: read from the database alone, so it works with the service down and starts fast."""

from __future__ import annotations

import typer

from batch.cli.app import Home, Json, app


@app.command()
def status(home: Home = None, json: Json = False) -> None:
    """Show the models, the queue and the inbox."""
    typer.echo("soon")
