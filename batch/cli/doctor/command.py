"""`batch doctor`: what would keep the service from working here, each with its mend."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from batch.cli.app import Home, Json
from batch.cli.doctor.finding import Finding
from batch.cli.doctor.libraries import check_libraries
from batch.cli.doctor.memory import check_memory
from batch.cli.models import Profile, effective, service, worker_error, worker_note
from batch.cli.output import print_json, safe_line, terminal
from batch.errors import BatchError, ModelProblem
from batch.model_kind import Kind

if TYPE_CHECKING:
    from batch.settings import Settings

LITTLE_DISK_BYTES = 2_000_000_000


def doctor(home: Home = None, profile: Profile = None, as_json: Json = False) -> None:
    """Check Python, libraries, ports, models, disk, graphics and a shared database; say how to mend what is wrong."""
    findings = list(examine(effective(home, profile)))
    if as_json:
        print_json([{**asdict(finding), "ok": not finding.remedy} for finding in findings])
    else:
        console = terminal()
        for finding in findings:
            console.print("ok   " if not finding.remedy else "MEND ", style="red" if finding.remedy else "green", end="")
            console.print(safe_line(f"{finding.subject}: {finding.state}"))
            if finding.remedy:
                console.print(safe_line(f"       {finding.remedy}"))
    if any(finding.remedy for finding in findings):
        raise typer.Exit(1)


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check in turn; nothing is changed and no model library is loaded into this process."""
    yield _python()
    yield _sqlite()
    yield from check_libraries()
    for kind in Kind:
        yield _port(settings, kind)
    for kind in Kind:
        yield _model(settings, kind)
        yield from _worker(settings, kind)
    yield check_memory(settings)
    yield from _database(settings)
    yield _folder("home", settings.home)
    yield _folder("models folder", settings.models_dir)


def _python() -> Finding:
    version = f"{platform.python_version()} ({sys.executable})"
    return Finding("Python", version, "" if sys.version_info >= (3, 11) else "Install Python 3.11 or newer.")


def _sqlite() -> Finding:
    fit = sqlite3.sqlite_version_info >= (3, 35)  # returning
    return Finding("SQLite", sqlite3.sqlite_version, "" if fit else "Install a Python with SQLite 3.35 or newer.")


def _port(settings: Settings, kind: Kind) -> Finding:
    port = settings.model_of(kind).port
    subject = f"port of {kind}"
    if port == 0:
        return Finding(subject, "a free one is taken at start")
    running = service(settings)
    if running and running["ports"].get(kind) == port:
        return Finding(subject, f"{port}, served by batch (pid {running['pid']})")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Finding(
                subject,
                f"{port} cannot be taken ({error.strerror})",
                f"End the program that uses it, or set {kind}.port to another.",
            )
    return Finding(subject, f"{port} is free")


def _database(settings: Settings) -> Iterator[Finding]:
    """The database read through, where there is one in the home; what is to be said of a shared one."""
    from batch.queue.open_store import open_store

    address = settings.database_address
    if not isinstance(address, Path):
        from batch.cli.doctor.database import check_shared_database

        yield from check_shared_database(settings)
        return
    if not address.exists():
        return
    try:
        with closing(open_store(address, home=settings.home, readonly=True)) as store:
            store.check()
    except BatchError as problem:
        yield Finding("database", problem.message, "Stop the service and run `batch repair`.")
    else:
        yield Finding("database", f"{address} is sound")


def _worker(settings: Settings, kind: Kind) -> Iterator[Finding]:
    if error := worker_error(settings, kind):
        yield Finding(f"worker for {kind}", error, "Mend what it says; the service tries again by itself.")
    elif note := worker_note(settings, kind):
        yield Finding(f"worker for {kind}", note)


def _model(settings: Settings, kind: Kind) -> Finding:
    from batch.catalog import resolve

    try:
        model = resolve(settings, kind)
    except ModelProblem as problem:
        text, _, remedy = problem.message.partition(": ")
        return Finding(f"model for {kind}", text, (remedy[:1].upper() + remedy[1:]) or "Name another model in batch.toml.")
    return Finding(f"model for {kind}", f"{model.name}. {model.notes}".strip())


def _folder(subject: str, folder: Path) -> Finding:
    """It, or the first folder above it that exists, can be written and has room."""
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(nearest).free
    except OSError as error:
        return Finding(subject, f"{folder} cannot be looked at ({error.strerror})", "Make it readable for you.")
    state = f"{folder}, {free / 1e9:.1f} GB free"
    if not os.access(nearest, os.W_OK):
        return Finding(subject, state, f"Make {nearest} writable for you.")
    if free < LITTLE_DISK_BYTES:
        return Finding(subject, state, "Make room: below 2 GB pulls and long sound files fail.")
    return Finding(subject, state)
