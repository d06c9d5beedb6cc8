"""Which home a command works on, and its queue."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from batch.cpu_sharing.core_table import alive
from batch.database_address import address_of
from batch.errors import NotFound
from batch.queue.open_store import open_store as open_database
from batch.queue.store import Store


class NoHome(NotFound):
    """There is no home here."""


def find_home(start: Path) -> Path | None:
    """The nearest folder from `start` upwards that is a home (it holds `batch.toml`, or its service's `.batch`).

    Above `start`, only folders count whose home belongs to this user or to root: others may have put theirs in one's way.
    """
    for folder in (start, *start.parents):
        for mark in (folder / ".batch" / "batch.db", folder / ".batch" / "home_id", folder / "batch.toml"):
            try:
                owner = os.stat(mark).st_uid
            except OSError:
                continue
            if folder == start or owner in (os.geteuid(), 0):
                return folder
    return None


def _resolve(home_option: Path | None) -> Path | None:
    """The home that was named, or the nearest one from the current folder upwards; None where there is none."""
    if home_option is not None:
        return home_option
    try:
        return find_home(Path.cwd())
    except FileNotFoundError:  # the current folder is gone: whoever needs it says so
        return None


Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="BATCH_HOME",
        help="Folder with inbox/, outbox/, batch.toml and .batch/ [default: this folder, or the nearest above that is one]",
        callback=_resolve,
        show_default=False,
    ),
]


def home_folder(home: Path | None) -> Path:
    """A home's folder, or this one."""
    return Path(home or ".").expanduser().absolute()


def database_of(home: Path | None) -> Path | str:
    """A home's database, without reading its settings: those cost more time than all the rest of `batch status`."""
    return address_of(home_folder(home))


@contextmanager
def open_store(home: Path | None, *, readonly: bool = False) -> Iterator[Store]:
    """The store of a home; raises NoHome where no service has ever run."""
    database, folder = database_of(home), home_folder(home)
    if not (database if isinstance(database, Path) else folder / ".batch").exists():
        raise NoHome(no_home_sentence(folder))
    store = open_database(database, home=folder, readonly=readonly)
    try:
        yield store
    finally:
        store.close()


def no_home_sentence(folder: Path) -> str:
    """What a command says where there is no home to work on."""
    return (
        f"{folder} has no queue yet, nor has a folder above it: start `batch serve` in the folder that is to be the home, "
        "or name the home with --home."
    )


def service_note(store: Store) -> dict[str, Any] | None:
    """What the running service wrote of itself; None when none runs."""
    note = store.notes().get("service") or None
    return note if note and alive(note["pid"]) else None
