"""A PostgreSQL server of the tests' own: in a temporary folder, on a Unix socket, with fsync as people have it."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

_START_TIMEOUT_S = 60.0
_NUMBERS = itertools.count(1)
_SETTINGS = (
    "fsync = on",
    "listen_addresses = ''",
    "log_min_messages = fatal",
    "max_connections = 60",
    "max_locks_per_transaction = 512",  # one transaction drops all tables between two tests
    "shared_buffers = 32MB",
)


def program(name: str) -> str | None:
    """Where a program of PostgreSQL lies; Debian keeps the newest outside the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return next((str(folder / name) for folder in folders if (folder / name).exists()), shutil.which(name))


class PostgresServer:
    """One server; `start` and `kill` may take turns."""

    def __init__(
        self, *, new: bool = True, environment: Mapping[str, str] | None = None, addresses: Sequence[str] = ()
    ) -> None:
        """`addresses`: of this machine, where it listens as well, to encrypted connections alone."""
        # Sockets' paths are short, and root may not run the server: a folder that its user can reach.
        self.folder = Path(tempfile.mkdtemp(prefix="batch-pg-", dir="/tmp"))
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self._process: subprocess.Popen[bytes] | None = None
        self._emptied: list[str] = []
        self._addresses = tuple(addresses)
        self._port = _free_port(addresses[0]) if addresses else 0
        self._environment = os.environ | (environment or {})
        if os.geteuid() == 0:
            shutil.chown(self.folder, self.user)
        if new:
            options = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
            self._run("initdb", "--pgdata", str(self.folder / "data"), *options)
            self._configure()

    def _configure(self) -> None:
        settings = [*_SETTINGS, f"unix_socket_directories = '{self.folder}'"]
        if self._addresses:
            settings += [f"listen_addresses = '{','.join(self._addresses)}'", f"port = {self._port}", "ssl = on"]
            self._make_certificate()
            with (self.folder / "data" / "pg_hba.conf").open("a") as file:
                file.write("hostssl all all all trust\n")
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.write("\n".join((*settings, "")))

    def _make_certificate(self) -> None:
        names = ",".join(f"IP:{address}" for address in self._addresses)
        key, certificate = (str(self.folder / "data" / name) for name in ("server.key", "server.crt"))
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ]
        command += ["-subj", "/CN=batch", "-addext", f"subjectAltName={names}", "-keyout", key, "-out", certificate]
        subprocess.run(command, check=True, cwd="/", capture_output=True, **self._as_owner())  # type: ignore[call-overload]
        shutil.copy(certificate, self.folder / "root.crt")

    def _command(self, name: str, *arguments: str) -> list[str]:
        path = program(name)
        assert path is not None
        return [path, *arguments]

    def _as_owner(self) -> dict[str, object]:
        if os.geteuid() != 0:
            return {}
        account = pwd.getpwnam(self.user)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            self._command(name, *arguments),
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            **self._as_owner(),  # type: ignore[call-overload]
        )

    def start(self) -> PostgresServer:
        """Run it, and wait until it answers."""
        import psycopg

        command = self._command("postgres", "-D", str(self.folder / "data"))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd="/",
                stdout=log,
                stderr=log,
                env=self._environment,
                **self._as_owner(),  # type: ignore[call-overload]
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return self
            except psycopg.OperationalError:
                assert self._process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)

    def url(self, database: str) -> str:
        """The address of one of its databases."""
        port = f"&port={self._port}" if self._port else ""
        return f"postgresql://{self.user}@/{database}?host={self.folder}{port}"

    def remote_url(self, url: str, address: str) -> str:
        """The address of a database, by one of those at which the server listens."""
        name = url.partition("@/")[2].partition("?")[0]
        verified = f"sslmode=verify-full&sslrootcert={self.folder}/root.crt"
        return f"postgresql://{self.user}@{address}:{self._port}/{name}?{verified}"

    def new_database(self) -> str:
        """The address of an empty database."""
        import psycopg

        if self._emptied:
            return self._emptied.pop()
        name = f"batch_{os.getpid()}_{next(_NUMBERS)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as conn:
            conn.execute(f"create database {name}".encode())
        return self.url(name)

    def empty_database(self, url: str) -> None:
        """Take everything out of a database, for the next test: making one takes longer."""
        import psycopg

        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("drop schema public cascade; create schema public")
        self._emptied.append(url)

    def drop_schemas(self, url: str, pattern: str) -> None:
        """Take schemas out of a database whose names are like a pattern."""
        import psycopg

        with psycopg.connect(url, autocommit=True) as conn:
            for (name,) in conn.execute("select nspname from pg_namespace where nspname like %s", (pattern,)).fetchall():
                conn.execute(f'drop schema "{name}" cascade'.encode())

    def standby(self) -> PostgresServer:
        """A server that follows this one; begun from a copy, and not started yet."""
        other = PostgresServer(new=False)
        other._copy(self)
        return other

    def follow(self, primary: PostgresServer) -> None:
        """Become a standby of another server, from a new copy of it, and start."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        self._copy(primary)
        self.start()

    def _copy(self, primary: PostgresServer) -> None:
        copy = ("--pgdata", str(self.folder / "data"), "--host", str(primary.folder), "--username", self.user)
        self._run("pg_basebackup", *copy, "--write-recovery-conf", "--no-sync", "--checkpoint=fast")
        self._configure()

    def commit_on_standby(self, on: bool) -> None:
        """Whether a durable commit waits until its standby has it on its disk; returns once that goes on."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as conn:
            conn.execute(f"alter system set synchronous_standby_names = '{'*' if on else ''}'".encode())
            conn.execute("select pg_reload_conf()")
            deadline = time.monotonic() + _START_TIMEOUT_S
            while on and conn.execute("select 1 from pg_stat_replication where sync_state = 'sync'").fetchone() is None:
                assert time.monotonic() < deadline, "no standby follows"
                time.sleep(0.05)

    def promote(self) -> None:
        """A standby takes writes from now on."""
        self._run("pg_ctl", "promote", "--pgdata", str(self.folder / "data"), "--wait")

    def kill(self) -> None:
        """End it as a power cut would end its processes: nothing is flushed that was not."""
        assert self._process is not None
        pids = [self._process.pid, *_children(self._process.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self._process.wait()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while any(Path(f"/proc/{pid}").exists() and _is_alive(pid) for pid in pids[1:]) and time.monotonic() < deadline:
            time.sleep(0.01)

    def close(self) -> None:
        """Stop it, and remove all of it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as server:
        return int(server.getsockname()[1])


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def stores_in(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every file that a store is opened in stands for a database of the server."""
    from batch.queue.postgres.postgres_store import PostgresStore
    from batch.queue.sqlite import sqlite_store

    urls: dict[Path, str] = {}

    def opened(path: Path, *, readonly: bool = False, create: bool = True, owns_home: bool = False) -> PostgresStore:
        if path not in urls:
            urls[path] = server.new_database()
        return PostgresStore(urls[path], home=path.parent.parent, readonly=readonly)

    monkeypatch.setattr(sqlite_store, "SqliteStore", opened)
    yield
    for url in urls.values():
        server.empty_database(url)


@contextlib.contextmanager
def running_server(environment: Mapping[str, str] | None = None, *, addresses: Sequence[str] = ()) -> Iterator[PostgresServer]:
    """A server for as long as it is needed; the test is skipped where PostgreSQL is not installed.

    `environment`: variables that its processes have besides ours. `addresses`: of this machine, where it listens as well.
    """
    if program("initdb") is None:
        pytest.skip("PostgreSQL is not installed: `apt-get install postgresql` brings it")
    server = PostgresServer(environment=environment, addresses=addresses)
    try:
        yield server.start()
    finally:
        server.close()
