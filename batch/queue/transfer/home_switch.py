"""Which database a home's commands and its service use from now on: the one step that moves it."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

from batch.database_address import FILE, SCHEMES, address_of, has_password, remember_address, without_password
from batch.durable_folder import put_on_disk
from batch.errors import DiskFull, SettingsProblem

ENVIRONMENT = "BATCH_DATABASE"
_LINE = re.compile(r"(?m)^[ \t]*database[ \t]*=.*$")
_TABLE = re.compile(r"(?m)^[ \t]*\[")


def target_named(word: str, home: Path) -> str:
    """The address that a command's argument stands for: itself, `sqlite`, or with `postgresql` what BATCH_DATABASE or
    batch.toml says. Raises SettingsProblem."""
    if word == FILE:
        return FILE
    known = address_of(home)
    if word in SCHEMES:
        if isinstance(known, Path):
            raise SettingsProblem(
                f"No database is named: write its address (postgresql://USER@HOST/NAME) for {word}, or into {ENVIRONMENT}."
            )
        return known
    if not word.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        raise SettingsProblem(f"{word[:60]} is no database to move to: write postgresql://USER@HOST/NAME, or sqlite.")
    if has_password(word):
        raise SettingsProblem(
            "A password on the command line is seen by all users of this machine: put the address into BATCH_DATABASE and "
            "write `batch move-to postgresql`, or the password into ~/.pgpass."
        )
    return known if isinstance(known, str) and is_same_place(known, word) else word


def is_same_place(one: str, other: str) -> bool:
    """Whether two addresses are the same but for a password."""
    return _without_secrets(one) == _without_secrets(other)


def _without_secrets(address: str) -> str:
    return without_password(address).replace(":***@", "@")


def check_switch(home: Path) -> None:
    """Raise SettingsProblem where the home could not be switched, as batch.toml names a database in a way that cannot be taken
    out of it."""
    _toml_without_database(home / "batch.toml")


def switch_home(home: Path, target: str) -> None:
    """From now on the home is on `target`: `sqlite`, or an address, of which no password is remembered. Raises DiskFull."""
    state_dir, toml = home / ".batch", home / "batch.toml"
    try:
        remember_address(state_dir, target if target == FILE else _without_secrets(target))
        put_on_disk(state_dir)
        text = _toml_without_database(toml)
        if text is not None and not _names(toml, target):
            partial = toml.with_name(".batch.toml.part")
            with partial.open("w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), toml.stat().st_mode & 0o777)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, toml)
            put_on_disk(home)
    except OSError as error:
        raise DiskFull(f"{error.filename or home} cannot be written ({error.strerror}): look after its disk.") from error


def _names(toml: Path, target: str) -> bool:
    """Whether a home's settings say the target themselves."""
    named = tomllib.loads(toml.read_text("utf-8")).get("database", "")
    return named == target if target == FILE else isinstance(named, str) and is_same_place(named, target)


def _toml_without_database(toml: Path) -> str | None:
    """The settings with the line that names a database made a comment; None where there is none. Raises SettingsProblem."""
    try:
        text = toml.read_text("utf-8")
        values = tomllib.loads(text)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SettingsProblem(f"{toml} cannot be read ({error}): correct it first.") from None
    if "database" not in values:
        return None
    first_table = _TABLE.search(text)
    end = first_table.start() if first_table else len(text)
    changed = _LINE.sub(lambda line: f"# {line[0]}  # until `batch move-to`", text[:end], count=1) + text[end:]
    del values["database"]
    try:
        if tomllib.loads(changed) == values:
            return changed
    except ValueError:
        pass
    raise SettingsProblem(
        f"The setting database in {toml} stands where it cannot be taken out of it: write it on a line of its own at the top."
    )
