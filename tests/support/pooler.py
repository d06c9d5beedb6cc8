"""A pgbouncer in transaction mode in front of a server of the tests' own."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from postgres_server import PostgresServer

_PORTS = itertools.count(6432)
_TIMEOUT_S = 30.0


class Pooler:
    """One pgbouncer, on a Unix socket. It gives each transaction one of a few connections to the server."""

    def __init__(self, server: PostgresServer, *, connections: int = 4) -> None:
        """`connections`: to the server, for all clients of a database together."""
        self._server = server
        self._folder = Path(tempfile.mkdtemp(prefix="batch-pb-", dir="/tmp"))
        self._port = next(_PORTS)
        (self._folder / "users").write_text(f'"{server.user}" ""\n')
        (self._folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={server.folder}\n[pgbouncer]\npool_mode = transaction\ndefault_pool_size = {connections}\n"
            f"max_client_conn = 200\nlisten_addr =\nlisten_port = {self._port}\nunix_socket_dir = {self._folder}\n"
            f"auth_type = trust\nauth_file = {self._folder}/users\nadmin_users = {server.user}\nserver_login_retry = 1\n"
        )
        owner: dict[str, object] = {}
        if os.geteuid() == 0:  # it refuses to run as root
            account = pwd.getpwnam(server.user)
            owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            for path in (self._folder, *self._folder.iterdir()):
                shutil.chown(path, server.user)
        program = _program()
        assert program is not None
        with (self._folder / "log").open("ab") as log:
            command = [program, str(self._folder / "pgbouncer.ini")]
            self._process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log, **owner)  # type: ignore[call-overload]
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.plain_url(server.url("postgres"))).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None and time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.05)

    def plain_url(self, url: str) -> str:
        """The address of a database of the server, through the pooler."""
        name = url.partition("@/")[2].partition("?")[0]
        return f"postgresql://{self._server.user}@/{name}?host={self._folder}&port={self._port}"

    def url(self, url: str) -> str:
        """The same, as batch has to be told of it."""
        return f"{self.plain_url(url)}&pooler=transaction"

    def counts(self, url: str) -> dict[str, int]:
        """Transactions that were done on a database of the server, and connections to it that they are done with now."""
        name = url.partition("@/")[2].partition("?")[0]
        with psycopg.connect(self.plain_url("@/pgbouncer?"), autocommit=True) as conn:
            rows = conn.execute("show stats_totals").fetchall()
            servers = conn.execute("show servers").fetchall()
        return {
            "transactions": sum(int(row[1]) for row in rows if row[0] == name),
            "connections": sum(name in row for row in servers),
        }

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        shutil.rmtree(self._folder, ignore_errors=True)


def _program() -> str | None:
    return shutil.which("pgbouncer", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))


@contextlib.contextmanager
def running_pooler(server: PostgresServer, *, connections: int = 4) -> Iterator[Pooler]:
    """A pooler for as long as it is needed; the test is skipped where pgbouncer is not installed."""
    if _program() is None:
        pytest.skip("pgbouncer is not installed: `apt-get install pgbouncer` brings it")
    pooler = Pooler(server, connections=connections)
    try:
        yield pooler
    finally:
        pooler.close()
