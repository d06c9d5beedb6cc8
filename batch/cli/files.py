"""`batch files`: the inbox's files with what became of them, also of those that never became a job."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from batch.cli.app import Json, app
from batch.cli.home import Home, open_store
from batch.cli.jobs.filters import ErrorText, Folder, Since, parse_since
from batch.cli.output import print_json, print_table, short_moment
from batch.folder.file_names import one_line, readable
from batch.folder.ledger.file_listing import FileFilter, ListedFile, list_files
from batch.folder.ledger.rows import FileState
from batch.media.kind import MediaKind
from batch.queue.store import EmptyDatabase


class ShownState(StrEnum):
    """What `--state` takes."""

    WAITING = "waiting"
    DONE = "done"
    LINKED = "linked"
    FAILED = "failed"
    IGNORED = "ignored"


class ShownKind(StrEnum):
    """What `--kind` takes."""

    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    TEXT = "text"


@app.command()
def files(
    home: Home = None,
    state: Annotated[
        list[ShownState] | None,
        typer.Option("--state", help="Only files in this state; linked: done by the work on another; ignored: passed over."),
    ] = None,
    kind: Annotated[list[ShownKind] | None, typer.Option("--kind", help="Only files of this kind.")] = None,
    folder: Folder = None,
    error: ErrorText = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=0, help="How many, the newest first; 0: all.")] = 0,
    as_json: Json = False,
    nul: Annotated[bool, typer.Option("-0", "--print0", help="Paths below the inbox with a NUL behind each.")] = False,
) -> None:
    """List the files of the inbox and what became of each; failed ones with the reason."""
    file_choice = FileFilter(
        states=tuple(FileState(one) for one in state or () if one is not ShownState.IGNORED),
        kinds=tuple(MediaKind(one) for one in kind or ()),
        folder=folder,
        error=error,
        since=parse_since(since),
    )
    rows = islice(_files(home, state or [], file_choice), limit or None)
    if nul:
        for path, _ in rows:
            sys.stdout.buffer.write(os.fsencode(path) + b"\0")
        sys.stdout.buffer.flush()
    elif as_json:
        print_json([_document(path, file) for path, file in rows])
    else:
        print_table(("when", "state", "kind", "file"), [_row(path, file) for path, file in rows])


def _files(home: Path | None, states: list[ShownState], file_choice: FileFilter) -> Iterator[tuple[str, ListedFile | None]]:
    """(path, what the ledger has of it: nothing of an ignored file)."""
    if not states or file_choice.states:
        with open_store(home, readonly=True) as store, suppress(EmptyDatabase):  # no service has run here yet
            yield from ((file.path, file) for file in list_files(store, file_choice))
    if ShownState.IGNORED in states:
        from batch.folder.inbox.ignored_files import ignored_files
        from batch.settings import Settings

        yield from ((path, None) for path in ignored_files(Settings.load(home), file_choice.folder or ""))


def _row(path: str, file: ListedFile | None) -> tuple[str, str, str, str]:
    if file is None:
        return "-", ShownState.IGNORED, "-", one_line(path)
    name = one_line(path) + (" (gone)" if file.is_gone else "")
    error = file.error or ""
    what = f"{name}: {error}" if error and not error.startswith(one_line(path)) else error or name  # most errors name the file
    return short_moment(file.finished_at or file.accepted_at), file.state, file.kind or "-", what


def _document(path: str, file: ListedFile | None) -> dict[str, Any]:
    document: dict[str, Any] = {"path": readable(path)}
    if document["path"] != path:  # only the bytes name it
        document["path_bytes"] = base64.b64encode(os.fsencode(path)).decode()
    if file is None:
        return document | {"state": str(ShownState.IGNORED)}
    return document | {
        "state": str(file.state),
        "kind": file.kind and str(file.kind),
        "size": file.size,
        "accepted_at": file.accepted_at,
        "finished_at": file.finished_at,
        "gone": file.is_gone,
        "job": file.job,
        "error": file.error,
    }
