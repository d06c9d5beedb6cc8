"""`batch mcp`: this home's tools for an agent, over standard input and output."""

from __future__ import annotations

import asyncio

import typer

from batch.cli.app import app
from batch.cli.exit_status import ExitStatus
from batch.cli.home import Home, open_store
from batch.cli.output import print_error


@app.command("mcp")
def mcp_command(home: Home = None) -> None:
    """Serve search, captions and transcripts to an agent by the Model Context Protocol, over standard input and output.

    An agent starts this command by itself; the service runs beside it. `mcp.http` in batch.toml serves the same at /mcp of the
    chat model's port.
    """
    from batch.mcp import missing_package_advice
    from batch.settings import Settings

    try:
        from batch.mcp.server import make_server
    except ModuleNotFoundError as error:
        if (advice := missing_package_advice(error)) is None:
            raise
        print_error(advice)
        raise typer.Exit(ExitStatus.FAILED) from None
    settings = Settings.load(home)
    with open_store(home) as store:
        asyncio.run(make_server(settings, store).run_stdio_async())
