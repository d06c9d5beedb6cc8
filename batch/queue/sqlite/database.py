"""One connection to the SQLite file: transactions, their durability, and what goes wrong with disks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from batch import fail_points
from batch.durable_folder import make_durable_folder, put_on_disk
from batch.errors import DiskFull
from batch.queue.sqlite import schema
from batch.queue.sqlite.job_writer import JobTransaction
from batch.queue.store import DamagedDatabase, DatabaseBusy, EmptyDatabase

MAX_KEPT_WAL_BYTES = 32 << 20
"""To this size the write-ahead log is cut once all of it is in the database."""
_CHECKPOINT_PAGES = 4000
_CACHE_KIB = 8000
_BACKUP_STEP_PAGES = 512
_BACKUP_PAUSE_S = 0.005
BACKUP_NAME = "backup/batch.db"
"""Where the automatic backup lies, from the database's folder."""


class Database:
    """Methods may be called from any thread, one at a time."""

    def __init__(
        self,
        path: Path,
        *,
        create: bool = True,
        readonly: bool = False,
        owns_home: bool = False,
        front: str = "",
        waits: bool = True,
    ) -> None:
        """`owns_home`: this is the home's service, which holds its lock. `front`: the service that this connection accepts
        jobs for. `waits`: for whoever else writes; if not, the log is also left for others to bring into the database."""
        self.path = path
        self._front = front
        self._waits = waits
        self.submitted: Callable[[set[str]], None] = lambda queues: None
        self._lock = threading.RLock()
        try:
            if create and not readonly:
                self._create()
            if create or readonly:
                self._bring_forward(owns_home)
            uri = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rw'}"
            self._conn = sqlite3.connect(
                uri,
                uri=True,
                timeout=schema.OPEN_TIMEOUT_S if waits else 0.0,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.DatabaseError as error:
            raise self._sentence(error) from error
        try:
            if not readonly:
                self._conn.execute("pragma synchronous=normal")
                self._conn.execute(f"pragma wal_autocheckpoint={_CHECKPOINT_PAGES if waits else 0}")
                # One huge commit, or a reader that kept checkpoints from ending, must not leave its size behind.
                self._conn.execute(f"pragma journal_size_limit={MAX_KEPT_WAL_BYTES}")
            self._conn.execute(f"pragma cache_size=-{_CACHE_KIB}")
            if sqlite3.sqlite_version_info < (3, 43):  # which brought it
                self._conn.create_function("octet_length", 1, _octet_length, deterministic=True)
            # Nothing is migrated here, but what cannot be understood is not guessed at.
            schema.refuse_newer(path, self._conn.execute("pragma user_version").fetchone()[0])
        except sqlite3.DatabaseError as error:
            self._conn.close()
            raise self._sentence(error) from error
        except BaseException:
            self._conn.close()
            raise

    def _create(self) -> None:
        path = self.path
        if _is_emptied(path):
            raise DamagedDatabase(
                f"{path} is empty, though this home has been used: stop the service and run `batch repair`, which takes the "
                "newest backup."
            )
        try:
            make_durable_folder(path.parent, 0o700)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
                put_on_disk(path.parent)
        except OSError as error:
            raise DiskFull(f"{path} cannot be made ({error.strerror}): look after its disk.") from error

    def _bring_forward(self, owns_home: bool) -> None:
        """Migrate an older database, but not under a service that runs: it knows the older schema only."""
        if not self.path.exists():
            return
        version = schema.read_version(self.path)
        if version == schema.VERSION:
            return
        with contextlib.nullcontext() if owns_home or version == 0 else _no_service(self.path):
            schema.migrate(self.path)

    @property
    def home(self) -> Path:
        """The home folder that the file belongs to."""
        return self.path.parent.parent

    def check(self) -> None:
        """Read through the whole file, as after an unclean end. Raises DamagedDatabase."""
        problem = self.read("pragma quick_check(1)")[0][0]
        if problem != "ok":
            raise self._damaged(problem)

    def back_up(self, target: Path, *, max_bytes: int | None = None) -> int | None:
        """Copy the database as it stands into a file, whole or not at all; its size in bytes.

        None, and nothing done, when it is larger than `max_bytes`. Raises DiskFull, DamagedDatabase.
        """
        size = int(self.read("pragma page_count")[0][0]) * int(self.read("pragma page_size")[0][0])
        if max_bytes is not None and size > max_bytes:
            return None
        partial = target.with_name(f".{target.name}.part")
        try:
            make_durable_folder(target.parent, 0o700)
            partial.unlink(missing_ok=True)
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            uri = f"{self.path.absolute().as_uri()}?mode=ro"
            with (
                contextlib.closing(sqlite3.connect(uri, uri=True, timeout=schema.OPEN_TIMEOUT_S)) as source,
                contextlib.closing(sqlite3.connect(partial)) as copy,
            ):
                # In steps, between which others write; what they change is copied again.
                source.backup(copy, pages=_BACKUP_STEP_PAGES, sleep=_BACKUP_PAUSE_S)
                copy.execute("pragma journal_mode=delete")
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, target)
            put_on_disk(target.parent)
            return target.stat().st_size
        except sqlite3.DatabaseError as error:
            raise self._sentence(error) from error
        except OSError as error:
            raise DiskFull(f"{target} cannot be written ({error.strerror}): look after its disk.") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            self._conn.close()

    def read(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Rows of a query. Raises DiskFull, DamagedDatabase, EmptyDatabase."""
        with self._lock:
            try:
                return self._conn.execute(sql, params).fetchall()
            except sqlite3.DatabaseError as error:
                if "no such table" in str(error):
                    raise EmptyDatabase() from error
                raise self._sentence(error) from error

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[JobTransaction]:
        """One write transaction. `durable`: on disk (fsync) before it returns, not only safe from a killed process.

        Raises DiskFull when the disk takes no more, for whatever reason, and DamagedDatabase; nothing is kept then.
        """
        with self._lock:
            if durable:
                self._conn.execute("pragma synchronous=full")
            try:
                self._conn.execute("begin immediate")
                try:
                    yield (transaction := JobTransaction(self._conn, self._front))
                    self._conn.execute("commit")
                except BaseException:
                    if self._conn.in_transaction:
                        with contextlib.suppress(sqlite3.OperationalError):  # the first error says more
                            self._conn.execute("rollback")
                    raise
            except sqlite3.DatabaseError as error:
                raise self._sentence(error) from error
            finally:
                if durable:
                    self._conn.execute("pragma synchronous=normal")
        if transaction.queues:
            fail_points.reach("committed")
            self.submitted(transaction.queues)

    def _sentence(self, error: sqlite3.DatabaseError) -> Exception:
        """What SQLite says of a broken disk or file as an error that says what to do; anything else as it is."""
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_FULL:
                return DiskFull()
            case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN:
                return DiskFull(f"{self.path} cannot be read or written ({error}): look after its disk.")
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return self._damaged(error)
            case sqlite3.SQLITE_BUSY if not self._waits:
                return DatabaseBusy()
        return error

    def _damaged(self, reason: object) -> DamagedDatabase:
        words = " ".join(str(reason).replace("*** in database main ***", "").split())  # of several lines, it may be
        return DamagedDatabase(f"{self.path} is damaged ({words}): stop the service and run `batch repair`.")


def _octet_length(text: str | None) -> int | None:
    return None if text is None else len(text.encode())


@contextlib.contextmanager
def _no_service(database: Path) -> Iterator[None]:
    """Keep the home's service from starting meanwhile. Raises OlderDatabase where it runs."""
    lock = database.parent / "run" / "service.lock"
    if not lock.exists():
        yield
        return
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = file.read(20).decode("ascii", "replace") or "unknown"
            raise schema.OlderDatabase(
                f"The service that runs in {database.parent.parent} (pid {pid}) is of an older batch than this command: stop "
                "it and start it again, which brings its database forward."
            ) from None
        yield


def _is_emptied(path: Path) -> bool:
    """Whether a database that held something is an empty file now: a new home has no backup, and nothing in its spool."""
    try:
        if path.stat().st_size:
            return False
    except OSError:
        return False
    spool = path.parent / "spool"
    return (path.parent / BACKUP_NAME).exists() or any(len(entry.name) == 2 for entry in spool.glob("*"))
