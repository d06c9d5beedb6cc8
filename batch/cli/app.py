"""The `batch` command."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from batch.errors import BatchError

app = typer.Typer(
    name="batch",
    help="A local task queue around three models: chat and vision, embeddings, speech.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Home = Annotated[
    Path | None,
    typer.Option("--home", envvar="BATCH_HOME", help="Folder with inbox/, outbox/, batch.toml and .batch/ [default: here]"),
]
Json = Annotated[bool, typer.Option("--json", help="JSON for programs instead of text for people.")]


def main() -> None:
    """The console script: errors are one sentence on standard error and exit status 1."""
    # `batch status` answers in a blink because it loads no other command; all the others come in for help and errors.
    importlib.import_module("batch.cli.status" if sys.argv[1:2] == ["status"] else "batch.cli.commands")
    if not app.registered_callback:
        app.callback()(_keep_names)
    try:
        app()
    except BatchError as error:
        print(f"batch: {error.message}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # `batch jobs | head`: the reader has seen enough.
        sys.stderr.close()
        sys.exit(0)


def _keep_names() -> None:
    """With a callback, typer asks for the command's name even where only one is loaded."""
