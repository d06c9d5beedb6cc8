"""`batch move-to`: all that a home holds goes into a PostgreSQL database, or back into its SQLite file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer

from batch.cli.app import Json, app
from batch.cli.home import Home, NoHome, home_folder, no_home_sentence
from batch.cli.output import print_json, print_line

_LINE_COLUMNS = 60
_LINE_INTERVAL_S = 5.0
"""Between two lines of progress where no terminal shows one that changes."""


@app.command("move-to")
def move_to(
    target: Annotated[
        str,
        typer.Argument(
            metavar="DATABASE",
            help="postgresql://USER@HOST/NAME, an empty database; postgresql: the one that BATCH_DATABASE or batch.toml names; "
            "sqlite: the home's own file again.",
        ),
    ],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Move all that this home holds into a PostgreSQL database, or back; its service must be stopped."""
    from batch import fail_points
    from batch.database_address import FILE, address_of, check_address, has_password
    from batch.durable_folder import make_durable_folder
    from batch.errors import SettingsProblem
    from batch.notifications.service import secrets_folder
    from batch.notifications.signing import SecretFiles
    from batch.queue.transfer.home_switch import ENVIRONMENT, target_named
    from batch.queue.transfer.move import HomeMove
    from batch.search.segmentation import index_text
    from batch.settings import Settings
    from batch.supervisor.single_instance import only_instance

    folder = home_folder(home)
    try:
        check_address(target if "://" in target else FILE)
    except ValueError as error:
        raise SettingsProblem(f"{target[:60]} is no database to move to: {error}.") from None
    url = target_named(target, folder)
    settings = Settings.load(home)
    if not settings.state_dir.exists():
        raise NoHome(no_home_sentence(folder))
    fail_points.arm(settings.fail_at, settings.state_dir)
    make_durable_folder(settings.state_dir / "run", 0o700)
    with only_instance(settings):
        move = HomeMove(
            settings.home,
            address_of(folder),
            inbox=settings.inbox_dir,
            payloads=settings.payloads,
            attempts=settings.queue.attempts,
            words=index_text,
            keep_secret=SecretFiles(secrets_folder(settings)).keep,
            report=_progress(),
        )
        try:
            moved = move.to_sqlite() if url == FILE else move.to_postgres(url)
        finally:
            _clear_line()
    notes = []
    if moved.payloads.missing:
        notes.append(
            f"{moved.payloads.missing} payloads that jobs or files refer to were gone or damaged before the move, among them "
            f"{moved.payloads.missing_names[0]}: `batch doctor` says more."
        )
    if url == FILE and os.environ.get(ENVIRONMENT, FILE) != FILE:
        notes.append(f"{ENVIRONMENT} still names the database: unset it wherever this home's service and commands are started.")
    if url != FILE and has_password(url):
        notes.append(
            f"The address is remembered without its password: keep {ENVIRONMENT} set, or put the password into ~/.pgpass."
        )
    if as_json:
        payloads = {"count": moved.payloads.count, "bytes": moved.payloads.bytes, "missing": moved.payloads.missing}
        place = "sqlite" if url == FILE else "postgresql"
        print_json({"database": place, "rows": moved.rows, "payloads": payloads, "aside": moved.aside, "notes": notes})
        return
    if moved.rows:
        print_line(
            f"{moved.rows['job']:,} jobs, {moved.rows['file']:,} dropped files, {moved.rows['batch']:,} batches and "
            f"{moved.payloads.count:,} payloads ({moved.payloads.bytes:,} bytes) were moved and compared."
        )
    print_line(f"This home is in {'its SQLite file' if url == FILE else 'PostgreSQL'} from now on.")
    if moved.aside:
        print_line(f"What it held before is kept in {moved.aside}: remove that once all is well.")
    for note in notes:
        print_line(note)


def _clear_line() -> None:
    """What progress left on a terminal's line goes, whatever is said next."""
    if sys.stderr.isatty():
        print(f"\r{'':<{_LINE_COLUMNS}}\r", end="", file=sys.stderr, flush=True)


def _progress() -> Callable[[str, int], None]:
    """Says on standard error what is copied: one line that changes on a terminal, elsewhere a line now and then."""
    is_terminal = sys.stderr.isatty()
    next_at = time.monotonic() + (0.0 if is_terminal else _LINE_INTERVAL_S)

    def report(label: str, count: int) -> None:
        nonlocal next_at
        if time.monotonic() < next_at:
            return
        next_at = time.monotonic() + (0.2 if is_terminal else _LINE_INTERVAL_S)
        text = f"  {label}: {count:,}"
        print(
            f"\r{text:<{_LINE_COLUMNS}}\r" if is_terminal else text,
            end="" if is_terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    return report
