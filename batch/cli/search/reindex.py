"""`batch reindex`: the search index made anew from the outbox, with the service up or down."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batch.cli.app import Json, app
from batch.cli.exit_status import ExitStatus
from batch.cli.home import Home, open_store, service_note
from batch.cli.output import print_error, print_json, print_line
from batch.errors import AlreadyRunning

if TYPE_CHECKING:
    from batch.folder.reindex.index_check import IndexCheck
    from batch.folder.reindex.rebuild import RebuildSummary
    from batch.queue.store import Store
    from batch.settings import Settings


@app.command()
def reindex(
    home: Home = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only compare the index with the outbox; exit status 1 where they differ.")
    ] = False,
    embed: Annotated[
        bool, typer.Option("--embed", help="Also make vectors of the loaded model where there are none; needs the service.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the search index anew from the results in the outbox.

    The old index answers until the new one is whole. Broken off, the same command goes on where it was.
    """
    import msgspec

    from batch.settings import Settings

    if check and embed:
        raise typer.BadParameter("--check changes nothing, so --embed has nothing to do: give one of the two.")
    with open_store(home) as store:
        settings = Settings.load(home)
        if check:
            _check(store, settings, as_json)
            return
        with _only_rebuild(store, settings) as guarded_store:
            summary = _rebuild(guarded_store, settings, embed)
    for problem in summary.problems:
        print_error(problem)
    if summary.left_out > len(summary.problems):
        print_error(f"{summary.left_out - len(summary.problems)} more files of the outbox are left out.")
    if as_json:
        print_json(msgspec.to_builtins(summary))
    else:
        _print_summary(summary, embed)


def _rebuild(store: Store, settings: Settings, embed: bool) -> RebuildSummary:
    from batch.folder.reindex.embedding_queue import EmbeddingQueue
    from batch.folder.reindex.rebuild import Rebuild
    from batch.queue.channel import Waker
    from batch.queue.open_store import open_spool

    model = _loaded_model(store)
    embedding = None
    waker = Waker(settings.state_dir)
    try:
        if embed:
            if service_note(store) is None or not model:
                print_error("the service is not running, and only its embedding model makes vectors: start `batch serve`.")
                raise typer.Exit(ExitStatus.SERVICE_DOWN)
            spool = open_spool(settings.database_address, settings.state_dir / "spool", settings.payloads)
            embedding = EmbeddingQueue(store, spool, waker, lambda: service_note(store) is not None)
        report = _show_progress if sys.stderr.isatty() else lambda files: None
        rebuild = Rebuild(store, os.fspath(settings.outbox_dir), loaded_model=model, embedding=embedding, report=report)
        return rebuild.run()
    finally:
        waker.close()


def _show_progress(files: int) -> None:
    print(f"\r{files:,} results", end="", file=sys.stderr, flush=True)


def _print_summary(summary: RebuildSummary, embed: bool) -> None:
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    rest = "the rest of the outbox, " if summary.went_on else ""
    print_line(f"The search index is new: {rest}{_results(summary.files)}.")
    if summary.embedded:
        print_line(f"{summary.embedded:,} of them got new vectors.")
    if summary.without_vectors:
        how = "" if embed else ": `batch reindex --embed` makes them"
        print_line(f"{summary.without_vectors:,} have no vectors, and are found by their words alone{how}.")


def _check(store: Store, settings: Settings, as_json: bool) -> None:
    import msgspec

    from batch.folder.reindex.index_check import check_index

    outcome = check_index(store, os.fspath(settings.outbox_dir), _loaded_model(store))
    if as_json:
        print_json(msgspec.to_builtins(outcome) | {"ok": outcome.is_whole})
    else:
        _print_check(outcome)
    if not outcome.is_whole:
        raise typer.Exit(ExitStatus.FAILED)


def _print_check(outcome: IndexCheck) -> None:
    print_line(f"{_results(outcome.files)} in the outbox.")
    if outcome.unreadable:
        print_line(f"{outcome.unreadable:,} files of the outbox hold no result.")
    if outcome.other_model:
        print_line(
            f"{outcome.other_model:,} have no vectors of the model that was loaded last: `batch reindex --embed` makes them."
        )
    for number, names, what in (
        (outcome.missing, outcome.missing_files, "are not in the index as they are"),
        (outcome.left_over, outcome.left_over_files, "are in the index and not in the outbox"),
    ):
        if number:
            more = "" if number <= len(names) else f" and {number - len(names):,} more"
            print_line(f"{number:,} {what}: {', '.join(names)}{more}.")
    if outcome.is_damaged:
        print_line("The full-text index contradicts itself.")
    print_line("The index is as the outbox." if outcome.is_whole else "`batch reindex` makes the index anew.")


def _results(count: int) -> str:
    return "1 result" if count == 1 else f"{count:,} results"


def _loaded_model(store: Store) -> str:
    """The embedding model of the running service, or of the last one."""
    note = store.notes().get("model:embedding") or {}
    return str(note.get("facts", {}).get("model") or "")


@contextmanager
def _only_rebuild(store: Store, settings: Settings) -> Iterator[Store]:
    """The store for a rebuild, of which a home, and all homes that share a database, have one at a time. Raises
    AlreadyRunning."""
    from batch.queue.duties.held_duty import REINDEX_DUTY, held_duty

    path: Path = settings.state_dir / "reindex.lock"
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning("Another `batch reindex` is at work in this home: wait for its end.") from None
        refusal = "Another `batch reindex` is at work in another home on this database: wait for its end."
        with held_duty(store, REINDEX_DUTY, refusal) as guarded_store:
            yield guarded_store
