"""Per-folder settings: a `.batch.toml` inside an inbox folder, for that folder and what lies below it.

It holds keys of `FolderSettings`, without a table; what it leaves out comes from the folder above, in the end from
the home's own settings. (`scan` holds for the inbox as a whole: it is taken from the home alone.) What takes files away
(`source`, `done`) is taken only from files of the service's own user, and never leads out of the home's done folder.
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import PurePosixPath

import msgspec
from pydantic import ValidationError

from batch.errors import SettingsProblem
from batch.folder.file_names import SETTINGS_FILE, one_line
from batch.folder.inbox.ignore import IgnoreRules
from batch.folder.ledger.rows import RedoRequest
from batch.folder.safe_open import FileStamp, open_below
from batch.media.language import normalise
from batch.settings import FolderSettings

_FILE_BYTES = 64 << 10
_TAKES_AWAY = ("source", "done")
"""Keys by which files leave the inbox."""


class EffectiveSettings(msgspec.Struct, frozen=True):
    """The settings of one folder of the inbox."""

    folder: FolderSettings
    done_folder: str = ""
    """Where `source = "move"` puts files, below the home's own done folder."""
    ignore: IgnoreRules = IgnoreRules()
    is_redo: bool = False

    def for_redo(self, request: RedoRequest | None) -> EffectiveSettings:
        """The settings with what a request to do a file again changes; the same where there is none."""
        if request is None:
            return self
        changes = {"caption_prompt": request.prompt, "language": request.language}
        update = {key: value for key, value in changes.items() if value is not None}
        return msgspec.structs.replace(self, folder=self.folder.model_copy(update=update), is_redo=True)


class SettingsChange(msgspec.Struct, frozen=True):
    """A settings file was read for the first time or anew."""

    path: str
    stamp: FileStamp | None
    """None: there is none (any more)."""
    problem: SettingsProblem | None


class _ReadFile(msgspec.Struct, frozen=True):
    look: int
    """The look at which its stamp was compared last."""
    stamp: FileStamp | None
    outer: EffectiveSettings
    effective: EffectiveSettings


class FolderSettingsReader:
    """The settings of each folder below an inbox, read again when a file changes. Use from one thread at a time."""

    def __init__(self, root: str, base: FolderSettings) -> None:
        """`base` are the home's own settings."""
        self.base = base
        self._root = root
        self._outermost = EffectiveSettings(base, ignore=IgnoreRules().with_layer("", base.ignore))
        self._read_files: dict[str, _ReadFile] = {}
        self._changes: list[SettingsChange] = []
        self._look = 0

    def refresh(self) -> None:
        """Have each settings file looked at once more; until the next call its stamp is not asked for again."""
        self._look += 1

    def for_folder(self, folder: str) -> EffectiveSettings:
        """The settings of a folder ("" is the inbox itself); never raises for what a settings file holds."""
        unread = []
        while (before := self._read_files.get(folder)) is None or before.look != self._look:
            unread.append(folder)
            if not folder:
                break
            folder = folder.rpartition("/")[0]
        settings = before.effective if before and before.look == self._look else self._outermost
        for folder in reversed(unread):
            settings = self._read(folder, settings)
        return settings

    def for_file(self, path: str) -> EffectiveSettings:
        """The settings of the folder that a file lies in."""
        return self.for_folder(path.rpartition("/")[0])

    def take_changes(self) -> list[SettingsChange]:
        """What was read since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def _read(self, folder: str, outer: EffectiveSettings) -> EffectiveSettings:
        path = f"{folder}/{SETTINGS_FILE}" if folder else SETTINGS_FILE
        try:
            stamp: FileStamp | None = FileStamp.of(os.lstat(os.path.join(self._root, path)))
        except OSError:
            stamp = None
        before = self._read_files.get(folder)
        if before and before.stamp == stamp and before.outer == outer:
            self._read_files[folder] = _ReadFile(self._look, stamp, outer, before.effective)
            return before.effective
        if stamp is None:
            if before is None or before.stamp is not None:
                self._changes.append(SettingsChange(path, None, None))
            effective = outer
        else:
            problem: SettingsProblem | None = None
            try:
                effective = self._merge(path, outer)
            except Exception as error:  # whatever a stranger's file holds must not stop the inbox
                # Somebody meant something else than the outer settings: until it can be read, nothing is taken away.
                sentence = f"{one_line(path)} cannot be understood ({type(error).__name__}): write it anew."
                problem = error if isinstance(error, SettingsProblem) else SettingsProblem(sentence)
                effective = EffectiveSettings(
                    outer.folder.model_copy(update={"source": "keep"}), outer.done_folder, outer.ignore
                )
            self._changes.append(SettingsChange(path, stamp, problem))
        self._read_files[folder] = _ReadFile(self._look, stamp, outer, effective)
        return effective

    def _merge(self, path: str, outer: EffectiveSettings) -> EffectiveSettings:
        name = one_line(path)
        data, status = self._read_bytes(path)
        try:
            values = tomllib.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:  # not only what TOML calls an error: numbers of thousands of digits, too
            raise SettingsProblem(f"{name} cannot be read as TOML: {' '.join(str(error).split())[:200].rstrip('.')}.") from None
        if extra := [key for key in values if key not in FolderSettings.model_fields]:
            keys = ", ".join(FolderSettings.model_fields)
            raise SettingsProblem(f"{name}: there is no folder setting {extra[0]!r}; there are {keys}.")
        if isinstance(language := values.get("language"), str) and normalise(language) is None:
            raise SettingsProblem(f"{name}: there is no language {language!r}; en, zh or auto, say.")
        try:
            folder = FolderSettings.model_validate({**outer.folder.model_dump(), **values})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise SettingsProblem(f"{name}: {key} is not valid: {first['msg']}.") from None
        if taking := [key for key in _TAKES_AWAY if key in values and values[key] != "keep"]:
            _refuse_strangers(name, taking[0], status)
        done_folder = outer.done_folder
        if "done" in values:
            done_folder = _below_done(name, values["done"])
            folder = folder.model_copy(update={"done": outer.folder.done})
        ignore = outer.ignore.with_layer(path.rpartition("/")[0], folder.ignore) if "ignore" in values else outer.ignore
        return EffectiveSettings(folder, done_folder, ignore)

    def _read_bytes(self, path: str) -> tuple[bytes, os.stat_result]:
        name = one_line(path)
        try:
            descriptor = open_below(self._root, path)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise SettingsProblem(f"{name} is not a regular file: write the folder's settings into one.")
                data = os.pread(descriptor, _FILE_BYTES + 1, 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SettingsProblem(f"{name} cannot be read: {error.strerror}.") from None
        if len(data) > _FILE_BYTES:
            raise SettingsProblem(f"{name} is larger than {_FILE_BYTES} bytes: it holds a few settings, nothing else.")
        return data, status


def _refuse_strangers(name: str, key: str, status: os.stat_result) -> None:
    """Who may only write into the inbox must not have its files taken away: raise SettingsProblem unless the service's user
    alone can have written a settings file."""
    others_write = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid())
    if status.st_uid != os.geteuid() or status.st_nlink > 1 or others_write:
        raise SettingsProblem(
            f"{name}: {key} is taken only from a file that belongs to the user of the service and that nobody else can "
            "write: change its owner and rights, or set it in batch.toml."
        )


def _below_done(name: str, value: str) -> str:
    """The folder that a settings file's `done` names, relative to the home's done folder; raises SettingsProblem."""
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\0" in value or value.startswith("~"):
        raise SettingsProblem(
            f'{name}: done is a folder below the home\'s done folder, as "meetings": {one_line(value)!r} leads out of it.'
        )
    return "" if path == PurePosixPath(".") else str(path)
