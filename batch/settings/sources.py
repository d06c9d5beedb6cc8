"""Where settings come from: batch.toml, BATCH_* variables and flags, merged into one nested table."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import TypeAlias

from batch.errors import SettingsProblem

Table: TypeAlias = dict[str, "Value"]
"""Settings as they are written: values by key, tables within tables."""
Value: TypeAlias = "str | int | float | bool | list[Value] | Table | None"

MAX_FILE_BYTES = 1 << 20
MAX_TABLE_DEPTH = 3

FOREIGN_VARIABLES = ("BATCH_LLAMA_SERVER", "BATCH_WHISPER_SERVER")
"""Variables of the benchmarks, which name the peers' programs."""


def read_variables() -> Table:
    """BATCH_* variables as nested values (`BATCH_VLM__PORT` is vlm.port); lists and tables may be given as JSON."""
    table: Table = {}
    for name, value in os.environ.items():
        if not name.startswith("BATCH_") or name in FOREIGN_VARIABLES or value == "":
            continue
        *sections, leaf = name.removeprefix("BATCH_").lower().split("__")
        if (*sections, leaf) == ("outbox",):
            sections, leaf = ["outbox"], "path"
        inner = table
        for section in sections:
            deeper = inner.setdefault(section, {})
            if not isinstance(deeper, dict):
                raise SettingsProblem(f"The variable {name} contradicts another one, which gives {section} a value of its own.")
            inner = deeper
        try:
            inner[leaf] = json.loads(value) if value[0] in "[{" else value
        except (ValueError, RecursionError):
            raise SettingsProblem(f"The variable {name} is not valid JSON.") from None
    return table


def variable_of(key: str) -> str:
    """The environment variable that sets a dotted key."""
    return "BATCH_" + key.upper().replace(".", "__")


def flag_of(key: str) -> str:
    """The command-line flag that sets a dotted key, where a command has one."""
    return "--" + key.replace(".", "-").replace("_", "-")


def read_toml(file: Path) -> Table:
    """The tables of a TOML file, {} where there is none; raises SettingsProblem in one sentence."""
    try:
        if file.exists() and not file.is_file():
            raise SettingsProblem(f"{file} is not a file: move it away.")
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsProblem(f"{file} cannot be read: {error.strerror}.") from None
    if len(data) > MAX_FILE_BYTES:
        raise SettingsProblem(f"{file} is larger than a file of settings can be ({MAX_FILE_BYTES} bytes).")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # TOML's own, not UTF-8, a number of thousands of digits
        raise SettingsProblem(f"{file} cannot be read as TOML: {' '.join(str(error).split())}.") from None


def merge(into: Table, values: Table) -> None:
    """Put `values` over `into`, table by table."""
    for key, value in values.items():
        below = into.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merge(below, value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value


def spell_out(values: Table) -> Table:
    """The same settings with short forms written in full: `outbox = "PATH"` is `outbox.path`."""
    outbox = values.get("outbox")
    return {**values, "outbox": {"path": outbox}} if "outbox" in values and not isinstance(outbox, dict) else values


def is_too_deep(values: Table) -> bool:
    """Whether tables stand in tables beyond any setting's depth; without recursion, as a file may hold thousands."""
    level = [values]
    for _ in range(MAX_TABLE_DEPTH):
        level = [value for table in level for value in table.values() if isinstance(value, dict)]
    return bool(level)


def flatten(values: Table, prefix: str = "") -> Table:
    """Values by dotted key."""
    leaves: Table = {}
    for key, value in values.items():
        if isinstance(value, dict):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves
