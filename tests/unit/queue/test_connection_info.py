"""Where an address leads and who can read along, whichever way PostgreSQL's library is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from batch.database_address import has_password, without_password
from batch.errors import BatchError, SettingsProblem
from batch.queue.postgres import connection_info
from batch.queue.postgres.channel import PostgresChannel
from batch.queue.postgres.connection_info import check_address, connect
from batch.queue.remote.channel import Receiver
from batch.settings import Settings

SAFE = "sslmode=verify-full&sslrootcert=system"
VARIABLES = ("PGHOST", "PGHOSTADDR", "PGSSLMODE", "PGSERVICE", "PGSERVICEFILE", "PGPASSWORD", "PGPORT")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("address", "variables"),
    [
        ("postgresql://me@/a?hostaddr=10.0.0.2", {}),
        ("postgresql://me@localhost/a?hostaddr=10.0.0.2", {}),
        ("postgresql://me@localhost/a", {"PGHOSTADDR": "10.0.0.2"}),
        ("postgresql://me@/a", {"PGHOST": "db.example.org"}),
        ("postgresql://me@one,db.example.org/a?hostaddr=127.0.0.1,", {}),
        ("postgresql://me@/a?host=/run,db.example.org", {}),
        ("postgresql://me@localhost,db.example.org/a?sslmode=require", {}),
        ("postgresql://me@/a?service=far", {}),
        ("postgresql://me@/a", {"PGSERVICE": "far"}),
        ("postgresql://me@localhost/a?service=far", {}),
        ("postgresql://me@/a?service=far", {"PGSSLMODE": "verify-full"}),
        ("postgresql://me@db.example.org/a?sslmode=prefer", {"PGSSLMODE": "verify-full"}),
        ("postgresql://me@db.example.org/a?sslmode=verify-full&sslmode=disable", {}),
        ("postgresql://me@db.example.org/a", {"PGSSLMODE": "verify-ca"}),
        ("postgresql://me@127.0.0.1.example.org/a", {}),
    ],
)
def test_no_way_of_naming_another_machine_gets_around_verified_encryption(
    address: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(connection_info.psycopg, "connect", lambda *_, **__: pytest.fail("it dialled"))
    for call in (check_address, connect):
        with pytest.raises(SettingsProblem, match="sslmode=verify-full"):
            call(address)
    channel = PostgresChannel("postgresql://me@/a?host=/nowhere", "a", is_front=False, listen_url=address)
    with pytest.raises(SettingsProblem, match="sslmode=verify-full"):
        channel.open(Receiver(lambda packet: None, lambda queue: None, lambda: None))


@pytest.mark.parametrize(
    ("address", "variables"),
    [
        (f"postgresql://me@db.example.org/a?{SAFE}", {}),
        (f"postgresql://me@/a?service=far&{SAFE}", {}),
        ("postgresql://me@db.example.org/a", {"PGSSLMODE": "verify-full"}),
        (f"postgresql://me@one,two/a?hostaddr=10.0.0.1,10.0.0.2&{SAFE}", {}),
        ("postgresql://me@db/a?hostaddr=127.0.0.1", {}),
    ],
)
def test_verified_encryption_is_enough_and_no_other_encryption_takes_its_place(
    address: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    dialled: list[dict[str, object]] = []
    monkeypatch.setattr(connection_info.psycopg, "connect", lambda url, **options: dialled.append(options))
    check_address(address)
    connect(address)
    assert len(dialled) == 1
    if "db/a?hostaddr" not in address:
        assert dialled[0]["gssencmode"] == "disable"


PASSWORDS = ["hunter2!secret", "12/hunter@2secret", *(f"hun{sign}ter2secret" for sign in "@/?#:")]


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_that_nobody_encoded_is_in_no_message_and_shown_nowhere(password: str, tmp_path: Path) -> None:
    """What follows a special character would pass for a host, a port or a name."""
    for address in (
        f"postgresql://me:{password}@127.0.0.1:1/a",
        f"postgresql://me:{password}@db.invalid/a?{SAFE}",
        f"postgresql://me:{password}@db.invalid/a?pooler=transaction",
        f"postgresql://me@127.0.0.1:1/a?password={password.replace('?', '%3F')}&connect_timeout=1",
    ):
        pieces = [piece for piece in ("secret", "hunter", "ter2", "hun") if piece in password]
        shown = [without_password(address)]
        assert has_password(address)
        for call in (check_address, connect, lambda address: Settings.load(tmp_path, {"database": address})):
            try:
                result = call(address)
            except BatchError as error:
                shown.append(error.message)
            except Exception as error:  # psycopg's
                shown.append(str(error))
            else:
                if isinstance(result, Settings):
                    shown.append(str(result.leaves()["database"]))
        assert [(text, piece) for text in shown for piece in pieces if piece in text] == []


def test_addresses_without_a_password_are_shown_as_they_are() -> None:
    for address in (
        "postgresql://me@/db?host=/run/postgresql",
        "postgresql://db.example.org:5432/a?application_name=b",
        "postgresql://me@one:1,two:2/a?target_session_attrs=read-write",
        "sqlite",
    ):
        assert without_password(address) == address and not has_password(address)
