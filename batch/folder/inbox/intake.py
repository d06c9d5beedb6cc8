"""Taking one file in: open it safely, have it read, and say what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable

from batch.errors import BatchError, DiskFull, UnsupportedMedia
from batch.folder.file_names import one_line
from batch.folder.folder_settings import EffectiveSettings
from batch.folder.inbox.content_reader import ContentReader
from batch.folder.inbox.source_file import PASSING, Candidate, SourceFile, StillChanging, unreadable
from batch.folder.ledger.rows import Arrival, DeliveryRules
from batch.folder.safe_open import open_below
from batch.queue.spool import Spool
from batch.settings import Settings


class Intake:
    """Blocking; one file at a time in each thread."""

    def __init__(self, settings: Settings, spool: Spool, is_going: Callable[[], bool]) -> None:
        """Reading ends early, with StillChanging, when no longer `is_going`."""
        self._reader = ContentReader(settings, spool)
        self._spool = spool
        self._is_going = is_going
        self._root = os.fspath(settings.inbox_dir)

    def take(self, candidate: Candidate, settings: EffectiveSettings, *, may_take_long: bool = False) -> Arrival | None:
        """Read one file, by the settings of its folder; None when it has gone.

        Raises StillChanging, DiskFull, and, unless it `may_take_long`, TakesLong.
        """
        path, entry = candidate.path, candidate.entry
        folder = settings.folder
        rules = DeliveryRules(formats=tuple(folder.formats), source=folder.source, done_folder=settings.done_folder)
        is_redo = settings.is_redo
        try:
            if entry.problem is not None:
                raise UnsupportedMedia(f"{one_line(path)} {entry.problem}.")
            descriptor = open_below(self._root, entry.target)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in PASSING:
                raise StillChanging from None
            return Arrival(path=path, stamp=entry.stamp, rules=rules, error=unreadable(path, error).record(), is_redo=is_redo)
        except BatchError as error:
            return Arrival(path=path, stamp=entry.stamp, rules=rules, error=error.record(), is_redo=is_redo)
        try:
            with SourceFile(descriptor, candidate, self._is_going) as source:
                source.require_closed()
                work = self._reader.read(source, settings, may_take_long=may_take_long)
                source.require_closed()
                return Arrival(path=path, stamp=entry.stamp, rules=rules, work=work, is_redo=is_redo)
        except DiskFull:
            raise
        except BatchError as error:
            return Arrival(path=path, stamp=entry.stamp, rules=rules, error=error.record(), is_redo=is_redo)
        except OSError as error:  # reading has its own errors: this is the spool's trouble, which will pass
            where = self._spool.folder
            raise DiskFull(f"{one_line(path)} cannot be copied into {where}: {error.strerror}.") from None
