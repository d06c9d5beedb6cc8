"""Per-folder settings: a `.batch.toml` inside an inbox folder, for that folder and what lies below it.

It holds keys of `FolderSettings`, without a table; what it leaves out comes from the folder above, in the end from
the home's own settings. (`scan` holds for the inbox as a whole: it is taken from the home alone.)
"""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass

from pydantic import ValidationError

from batch.errors import SettingsProblem
from batch.folder.file_names import RULES_FILE, one_line
from batch.folder.safe_open import Stamp, open_below
from batch.media.language import normalise
from batch.settings import FolderSettings

_MOST_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class _Read:
    """A rules file as it was found: its stamp, the settings it was merged into, and what came of it."""

    stamp: Stamp | None
    outer: FolderSettings
    rules: FolderSettings


@dataclass(frozen=True, slots=True)
class News:
    """A rules file was read for the first time or anew."""

    path: str
    stamp: Stamp | None
    """None: there is none (any more)."""
    problem: SettingsProblem | None


class Rules:
    """The settings of each folder below an inbox, re-read when their file changes. One thread at a time."""

    def __init__(self, root: str, base: FolderSettings) -> None:
        self._root = root
        self._base = base
        self._read: dict[str, _Read] = {}
        self._news: list[News] = []

    def of(self, folder: str) -> FolderSettings:
        """The settings of a folder ("" is the inbox itself); never raises for what a rules file holds."""
        rules = self._one("", self._base)
        parts = folder.split("/") if folder else []
        for depth in range(len(parts)):
            rules = self._one("/".join(parts[: depth + 1]), rules)
        return rules

    def _one(self, folder: str, outer: FolderSettings) -> FolderSettings:
        path = f"{folder}/{RULES_FILE}" if folder else RULES_FILE
        try:
            stamp: Stamp | None = Stamp.of(os.lstat(os.path.join(self._root, path)))
        except OSError:
            stamp = None
        known = self._read.get(folder)
        if known and known.stamp == stamp and known.outer == outer:
            return known.rules
        if stamp is None:
            if known is None or known.stamp is not None:
                self._news.append(News(path, None, None))
            rules = outer
        else:
            problem: SettingsProblem | None = None
            try:
                rules = self._merged(path, outer)
            except SettingsProblem as error:
                # Somebody meant something else than the outer settings: until it can be read, nothing is taken away.
                problem, rules = error, outer.model_copy(update={"source": "keep"})
            self._news.append(News(path, stamp, problem))
        self._read[folder] = _Read(stamp, outer, rules)
        return rules

    def news(self) -> list[News]:
        """What was read since the last call."""
        news, self._news = self._news, []
        return news

    def _merged(self, path: str, outer: FolderSettings) -> FolderSettings:
        name = one_line(path)
        try:
            descriptor = open_below(self._root, path)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise SettingsProblem(f"{name} is not a regular file: write the folder's settings into one.")
                data = os.pread(descriptor, _MOST_BYTES + 1, 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SettingsProblem(f"{name} cannot be read: {error.strerror}.") from None
        if len(data) > _MOST_BYTES:
            raise SettingsProblem(f"{name} is larger than {_MOST_BYTES} bytes: it holds a few settings, nothing else.")
        try:
            values = tomllib.loads(data.decode("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SettingsProblem(f"{name} cannot be read as TOML: {' '.join(str(error).split())}.") from None
        if extra := [key for key in values if key not in FolderSettings.model_fields]:
            known = ", ".join(FolderSettings.model_fields)
            raise SettingsProblem(f"{name}: there is no folder setting {extra[0]!r}; there are {known}.")
        if isinstance(language := values.get("language"), str) and normalise(language) is None:
            raise SettingsProblem(f"{name}: there is no language {language!r}; en, zh or auto, say.")
        try:
            return FolderSettings.model_validate({**outer.model_dump(), **values})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise SettingsProblem(f"{name}: {key} is not valid: {first['msg']}.") from None
