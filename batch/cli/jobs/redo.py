"""`batch redo`: have files of the inbox done again, with another prompt or language, say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from batch.cli.app import Json, app
from batch.cli.exit_status import ExitStatus
from batch.cli.home import Home, open_store, service_note
from batch.cli.jobs.actions import DryRun
from batch.cli.output import print_error, print_json, print_line
from batch.folder.file_names import one_line
from batch.folder.ledger.file_listing import FileFilter, find_file, list_files
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.rows import FileState, RedoRequest
from batch.queue.store import Store
from batch.settings import Settings

_ENDED = (FileState.DONE, FileState.LINKED, FileState.FAILED)
_SLICE_ROWS = 500


@app.command()
def redo(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Files, by their path below the inbox or any other."),
    ] = None,
    home: Home = None,
    folder: Annotated[str | None, typer.Option(help="Everything in this folder of the inbox and below it.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What to ask about images this time.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of the sound this time.")] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Have files of the inbox done again. A result stays until the new one replaces it."""
    if bool(paths) == (folder is not None):
        raise typer.BadParameter("name files by their paths, or a folder with --folder: one of the two.")
    settings = Settings.load(home)
    _require_valid_language(language)
    problems: list[str] = []
    with open_store(home, readonly=dry_run) as store:
        if folder is not None:
            file_choice = _in_folder(store, folder)
        else:
            file_choice, problems = _files_by_path(store, settings, paths or [])
        redone = 0
        while some := list(islice(file_choice, _SLICE_ROWS)):
            if dry_run:
                redone += len(some)
            else:
                redone += len(Ledger(store).request_redo(some, RedoRequest(prompt, language)))
        is_running = service_note(store) is not None
    for problem in problems:
        print_error(problem)
    if as_json:
        print_json({"matching" if dry_run else "files": redone, "problems": problems})
    elif redone:
        files = "1 file" if redone == 1 else f"{redone} files"
        when = "at the service's next look at the inbox" if is_running else "once `batch serve` is started"
        print_line(f"{files} would be done again." if dry_run else f"{files} will be done again, {when}.")
    elif not problems:
        print_line("No file matches.")
    if problems:
        raise typer.Exit(ExitStatus.FAILED)


def _require_valid_language(language: str | None) -> None:
    from batch.media.language import normalise

    if language is not None and normalise(language) is None:
        raise typer.BadParameter(f"there is no language {language!r}; en, zh or auto, say.")


def _in_folder(store: Store, folder: str) -> Iterator[str]:
    file_choice = FileFilter(states=_ENDED, folder=None if folder in ("", ".", "/") else folder)
    return (file.path for file in list_files(store, file_choice) if not file.is_gone)


def _files_by_path(store: Store, settings: Settings, paths: list[Path]) -> tuple[Iterator[str], list[str]]:
    """The files of the ledger that are meant, and what is wrong with those that cannot be done again."""
    file_choice, problems = [], []
    for path in paths:
        file = find_file(store, os.fspath(path)) or find_file(store, os.path.relpath(path.absolute(), settings.inbox_dir))
        name = one_line(os.fspath(path))
        if file is None:
            problems.append(f"{name} is no file that was taken from the inbox: `batch files` lists those.")
        elif file.is_gone:
            problems.append(f"{name} is not in the inbox any more: drop it again.")
        elif file.state is FileState.WAITING:
            problems.append(f"{name} is not done yet.")
        else:
            file_choice.append(file.path)
    return iter(file_choice), problems
