"""The `batch` command: every fault is one sentence on standard error, and the exit status says what happened."""

from __future__ import annotations

import errno
import importlib
import os
import sqlite3
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from batch.cli.exit_status import HELP, ExitStatus
from batch.cli.home import Home
from batch.cli.output import discard_output, finish_output, prepare_streams, print_error
from batch.errors import BatchError

_ORDER = (
    *("serve", "status", "submit", "files", "jobs", "show", "wait", "retry", "cancel", "redo", "pause", "resume"),
    *("search", "reindex", "mcp"),
    *("run", "batches", "uploads", "notifications"),
    *("worker", "nodes", "drain", "database", "move-to"),
    *("logs", "models", "config", "doctor", "gc", "backup", "repair", "install-service", "uninstall-service"),
)
_MODULES = {
    "status": "batch.cli.status.command",
    **dict.fromkeys(("jobs", "show"), "batch.cli.jobs.listing"),
    **dict.fromkeys(("retry", "cancel"), "batch.cli.jobs.actions"),
    **dict.fromkeys(("pause", "resume"), "batch.cli.jobs.pausing"),
    "wait": "batch.cli.jobs.waiting",
    **dict.fromkeys(("nodes", "drain"), "batch.cli.nodes.listing"),
    "submit": "batch.cli.submit",
    "search": "batch.cli.search.command",
}
"""Where the commands are that are loaded alone."""


class _ReaderGone(Exception):
    """Whoever read the output has seen enough: `batch jobs | head`."""


class _Commands(TyperGroup):
    """Lists the commands in the order in which people need them; typer would make a closed pipe a failure."""

    def list_commands(self, context: Any) -> list[str]:
        names = super().list_commands(context)
        return sorted(names, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().make_context(*arguments, **options)
        except BrokenPipeError:
            raise _ReaderGone from None

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            raise _ReaderGone from None


app = typer.Typer(
    name="batch",
    cls=_Commands,
    help="A local task queue around three models: chat and vision, embeddings, speech.",
    epilog=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="JSON for programs instead of text for people.")]


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from batch import __version__

        print(f"batch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script. Ends the process."""
    prepare_streams()
    sys.exit(_run())


def _run() -> int:
    try:
        status = _invoke()
    except _ReaderGone:
        discard_output()
        return ExitStatus.DONE
    except SystemExit as ended:  # typer's own: help, usage
        status = ended.code if isinstance(ended.code, int) else ExitStatus.FAILED
    except KeyboardInterrupt:
        status = ExitStatus.INTERRUPTED
    except BatchError as error:
        status = _failed(error.message)
    except sqlite3.Error as error:
        status = _failed(f"The database of this home cannot be read or written: {error}.")
    except OSError as error:
        status = _failed(describe(error))
    problem = finish_output()
    if isinstance(problem, BrokenPipeError):
        return status
    if problem is not None:
        return _failed(f"The output cannot be written: {problem.strerror}.")
    return status


def _invoke() -> int:
    # What people and scripts ask for again and again answers in a blink because it loads no other command; all of them come in
    # for the rest, for help and for errors.
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    importlib.import_module(_MODULES.get(word, "batch.cli.commands"))
    ended = app(prog_name="batch")
    return ended if isinstance(ended, int) else ExitStatus.DONE


def _failed(sentence: str) -> int:
    try:
        print_error(sentence)
    except OSError:  # nobody hears it
        discard_output()
    return ExitStatus.FAILED


_OUTPUT_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF})
"""What writing to standard output fails with; the store and the spool have errors of their own."""


def describe(error: OSError) -> str:
    """One sentence on what the system refused: which file, why, and what to do where that is known."""
    reason = error.strerror or str(error)
    try:
        os.getcwd()
    except FileNotFoundError:
        return "The current folder is gone: change into another, or name a home with --home."
    except OSError:
        pass
    if error.filename is None:
        return f"The output cannot be written: {reason}." if error.errno in _OUTPUT_ERRORS else f"The system refused: {reason}."
    name = os.fsdecode(error.filename)
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return f"{name} is not yours to use ({reason}): ask its owner, or name another home with --home."
        case errno.ENOSPC | errno.EDQUOT:
            return f"{name} cannot be written ({reason}): free some space and try again."
        case errno.EROFS:
            return f"{name} cannot be written ({reason}): its disk is read-only."
        case _:
            return f"{name} cannot be used: {reason}."


__all__ = ["Home", "Json", "app", "main"]
