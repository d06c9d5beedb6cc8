from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from database_roles import RoleAddresses, granted_roles
from postgres_server import PostgresServer

_KEPT_TABLES = ("batch_schema", "granted_role", "lease_root", "stored_bytes", "file_bytes", "search_meta")


@pytest.fixture(scope="session")
def role_database(postgres_server: PostgresServer) -> RoleAddresses:
    """A database with its three roles; what tests put in stays."""
    return granted_roles(postgres_server)


@pytest.fixture
def roles(role_database: RoleAddresses) -> RoleAddresses:
    """The same, emptied: making one takes longer."""
    with psycopg.connect(role_database.owner) as conn:
        rows = conn.execute("select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'")
        names = ", ".join(name for (name,) in rows if name not in _KEPT_TABLES)
        conn.execute(f"truncate {names}".encode())
    return role_database


@pytest.fixture(params=["sqlite", *(pytest.param(name, marks=pytest.mark.postgres) for name in ("postgres", "roles"))])
def database_or_roles(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | str | RoleAddresses]:
    """What `database_roles.open_store_of` takes for an empty database: a file, one that one role has, one that three have."""
    if request.param == "sqlite":
        yield tmp_path / ".batch" / "batch.db"
    elif request.param == "roles":
        yield request.getfixturevalue("roles")
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_database()
        yield url
        server.empty_database(url)
