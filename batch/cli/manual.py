"""The manual, made from the commands' own help: a man page, and a page for the documentation."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from batch import __version__
from batch.cli.app import app

_REFERENCE_HEAD = """\
# Commands

Every command, as `batch COMMAND --help` tells it too. This page is made from `batch/cli/`: after a change there run
`make docs-pages`. `man batch` shows the same where the package's man page is found.
"""


@dataclass(frozen=True, slots=True)
class CommandHelp:
    """One command as its `--help` describes it."""

    name: str
    """As it is typed: "batch models pull"."""
    usage: str
    text: str
    epilog: str
    arguments: tuple[tuple[str, str], ...]
    """(name, meaning)"""
    options: tuple[tuple[str, str], ...]
    """(spellings, meaning)"""


def commands() -> list[CommandHelp]:
    """`batch` itself, and every command."""
    importlib.import_module("batch.cli.commands")
    return list(_walk(typer.main.get_command(app), "batch", None))


def man_page() -> str:
    """batch.1, in man's own macros."""
    whole, *each = commands()
    lines = [
        f'.TH BATCH 1 "" "batch {__version__}" "User Commands"',
        ".SH NAME",
        f"batch \\- {_roff(_lower_first(whole.text.rstrip('.')))}",
        ".SH SYNOPSIS",
        f".B batch\n{_roff(whole.usage)}",
        ".SH COMMANDS",
    ]
    for command in each:
        lines += [f".SS {_roff(f'{command.name} {command.usage}'.strip())}", _roff(command.text)]
        for name, meaning in (*command.arguments, *command.options):
            lines += [".TP", f".B {_roff(name)}", _roff(meaning)]
    lines += [".SH OPTIONS"]
    for name, meaning in whole.options:
        lines += [".TP", f".B {_roff(name)}", _roff(meaning)]
    lines += [".SH EXIT STATUS", _roff(whole.epilog.removeprefix("Exit status: "))]
    return "\n".join(line for line in lines if line) + "\n"


def reference_page() -> str:
    """docs/commands.md."""
    whole, *each = commands()
    parts = [_REFERENCE_HEAD, f"\n{whole.epilog}\n"]
    for command in each:
        parts.append(f"\n## {command.name}\n\n`{command.name} {command.usage}`\n\n{command.text}\n")
        rows = [*command.arguments, *command.options]
        if rows:
            parts.append("\n| | |\n|---|---|\n")
            parts += [f"| `{_cell(name)}` | {_cell(meaning)} |\n" for name, meaning in rows]
    return "".join(parts)


def _walk(command: Any, name: str, parent: Any) -> Iterator[CommandHelp]:
    context = command.context_class(command, info_name=name.rpartition(" ")[2], parent=parent)
    records = [(param, param.get_help_record(context)) for param in command.get_params(context)]
    yield CommandHelp(
        name=name,
        usage=" ".join(command.collect_usage_pieces(context)),
        text=" ".join((command.help or "").split()),
        epilog=" ".join((command.epilog or "").split()),
        arguments=tuple(
            (record[0], " ".join(record[1].split()))
            for param, record in records
            if record and param.param_type_name == "argument"
        ),
        options=tuple(
            (record[0], " ".join(record[1].split()))
            for param, record in records
            if record and param.param_type_name == "option"
        ),
    )
    if hasattr(command, "list_commands"):
        for inner_name in command.list_commands(context):
            inner = command.get_command(context, inner_name)
            if not inner.hidden:
                yield from _walk(inner, f"{name} {inner_name}", context)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _roff(text: str) -> str:
    """Text as man takes it literally."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = "".join(char if char < "\x7f" else f"\\[u{ord(char):04X}]" for char in escaped)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
