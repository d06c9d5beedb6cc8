"""`batch database`: the owner's commands, and what others are told who try what is the owner's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from database_roles import prepare_roles
from postgres_server import PostgresServer
from run_batch import RunBatch


@pytest.mark.parametrize("command", ["migrate", "grant"])
def test_a_file_has_no_roles(home: Path, run_batch: RunBatch, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.delenv("BATCH_DATABASE", raising=False)
    outcome = run_batch("database", command)
    assert outcome.status == 1 and "SQLite file" in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.postgres
def test_the_owner_makes_tables_and_gives_rights_and_others_are_told_that_these_are_the_owners(
    home: Path, run_batch: RunBatch, monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer
) -> None:
    roles = prepare_roles(postgres_server)
    names = ("--front", roles.front_role, "--worker", roles.worker_role)
    monkeypatch.setenv("BATCH_DATABASE", roles.worker)
    outcome = run_batch("database", "migrate")
    assert outcome.status == 1 and "its owner must run `batch database migrate`" in outcome.err
    monkeypatch.setenv("BATCH_DATABASE", roles.owner)
    assert run_batch("database", "migrate").status == 0
    outcome = run_batch("database", "grant", *names)
    assert outcome.status == 0 and f"{roles.worker_role} may call" in outcome.out, outcome
    granted = json.loads(run_batch("database", "grant", *names, "--json").out)
    assert granted["front"] == roles.front_role and granted["functions"] > 15 and granted["created"] == []

    monkeypatch.setenv("BATCH_DATABASE", roles.front)
    assert run_batch("nodes").status == 0
    refused = [run_batch("database", "grant", *names), run_batch("reindex")]
    monkeypatch.setenv("BATCH_DATABASE", roles.worker)
    refused.append(run_batch("nodes"))
    for outcome in refused:
        assert outcome.status != 0 and outcome.err.count("\n") == 1 and "Traceback" not in outcome.err, outcome
    assert "does not own the tables" in refused[0].err and "batch database grant" in refused[-1].err
