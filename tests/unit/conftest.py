"""What makes hundreds of databases cheap."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch.queue.open_store import open_store
from batch.queue.sqlite import schema
from paths import TESTS

MIGRATED_ONE_BY_ONE = TESTS / "unit" / "queue"
"""Here the migrations themselves are tried."""


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database as the migrations make it."""
    path = tmp_path_factory.mktemp("new") / "batch.db"
    open_store(path).close()
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _databases_are_copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, new_database: bytes) -> None:
    """A database that is made anew is a copy of one that was migrated, which waits for the disk once and not each time."""
    if request.path.is_relative_to(MIGRATED_ONE_BY_ONE):
        return
    migrate = schema.migrate

    def copy(path: Path) -> None:
        if path.stat().st_size:
            migrate(path)
        else:
            path.write_bytes(new_database)

    monkeypatch.setattr(schema, "migrate", copy)
