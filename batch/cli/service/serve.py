"""`batch serve`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any

import typer

from batch.cli.app import Json, app
from batch.cli.home import Home
from batch.cli.output import print_json, print_line

Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")]


@app.command("serve")
def serve_command(
    home: Home = None,
    profile: Annotated[str | None, typer.Option(help="Which models: default or starter.")] = None,
    vlm_port: Port = None,
    embedding_port: Port = None,
    stt_port: Port = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Keep jobs in PostgreSQL (postgresql://USER@HOST/NAME), from now on; sqlite: in the home again."
        ),
    ] = None,
    front_listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Let workers of other machines dial this one, past the database they share."),
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    as_json: Json = False,
) -> None:
    """Run the service: three ports, the inbox and the workers. Ctrl-C ends it cleanly."""
    signal.signal(signal.SIGTERM, _stop_before_up)
    from batch.database_address import has_password, remember_address
    from batch.durable_folder import make_durable_folder
    from batch.errors import SettingsProblem
    from batch.queue.jobs import Kind
    from batch.settings import Settings

    flags: dict[str, Any] = {}
    if profile is not None:
        flags["profile"] = profile
    if log_level is not None:
        flags["log_level"] = log_level
    if database is not None:
        if has_password(database):
            raise SettingsProblem(
                "A password on the command line is seen by all users of this machine: put the address into batch.toml "
                "(database) or BATCH_DATABASE, or the password into ~/.pgpass."
            )
        flags["database"] = database
    if front_listen is not None:
        flags["front"] = {"listen": front_listen}
    for kind, port in ((Kind.VLM, vlm_port), (Kind.EMBEDDING, embedding_port), (Kind.STT, stt_port)):
        if port is not None:
            flags[kind.value] = {"port": port}
    settings = Settings.load(home, flags)
    from batch.supervisor.supervisor import serve  # a second: wrong settings are told before

    if not settings.state_dir.exists():
        print_line(f"{settings.home} becomes a new home: its queue, inbox and outbox are made there.", file=sys.stderr)

    if database is not None:
        make_durable_folder(settings.state_dir, 0o700)
        remember_address(settings.state_dir, database)

    def announce(ports: dict[Kind, int]) -> None:
        folders = {"home": settings.home, "inbox": settings.inbox_dir, "outbox": settings.outbox_dir}
        if as_json:
            print_json(
                {"ports": {str(kind): port for kind, port in ports.items()}}
                | {name: os.fspath(path) for name, path in folders.items()}
            )
            sys.stdout.flush()
            return
        print_line("batch is up: " + "  ".join(f"{kind} http://127.0.0.1:{port}" for kind, port in ports.items()))
        print_line(f"Drop files into {settings.inbox_dir}; results appear in {settings.outbox_dir}.", flush=True)

    serve(settings, announce)


def _stop_before_up(number: int, frame: object) -> None:
    """SIGTERM before the supervisor listens for it: nothing has been taken, and no worker runs."""
    os.write(2, b"batch was stopped while it was starting: nothing had been taken.\n")  # print may be under way
    raise SystemExit(0)
