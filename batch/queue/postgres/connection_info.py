"""A connection to Postgres from its address: who may be trusted on the way, and how soon a cut line is noticed."""

from __future__ import annotations

import ipaddress
import os
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from batch.errors import SettingsProblem

try:
    import psycopg
    from psycopg import conninfo
except ModuleNotFoundError:
    raise SettingsProblem(
        'The package for PostgreSQL is not installed: run `pip install "batch-engine[postgres]"`, or leave out the setting '
        "database, which keeps jobs in SQLite."
    ) from None

CONNECT_TIMEOUT_S = 5
_KEEPALIVE: dict[str, int] = {
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 4000,
}
"""A cut line is noticed within four seconds: the system's own times are minutes."""


def connect(url: str, *, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
    """Open a connection. Raises SettingsProblem for an address that is none or that is not safe, and psycopg's errors.

    With `pooler=transaction` in the address nothing is prepared, as the next transaction may have another connection.
    """
    url, pooler = _without_pooler(url)
    values = _values(url)
    _check_encryption(values)
    options: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "batch", **_KEEPALIVE}
    options = {name: value for name, value in options.items() if name not in values}
    if pooler == "transaction":
        options["prepare_threshold"] = None
    return psycopg.connect(url, autocommit=autocommit, client_encoding="UTF8", **options)


def check_address(url: str) -> None:
    """Raise SettingsProblem for an address that is none, or that would send jobs over an open line."""
    url, pooler = _without_pooler(url)
    if pooler not in ("", "transaction"):
        raise SettingsProblem(f"pooler={pooler[:40]} in the setting database is not known: write pooler=transaction.")
    _check_encryption(_values(url))


def _without_pooler(url: str) -> tuple[str, str]:
    """The address as PostgreSQL's library knows it, and our own parameter."""
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return url, ""
    pooler = next((value for name, value in pairs if name == "pooler"), "")
    if not pooler:
        return url, ""
    query = urlencode([(name, value) for name, value in pairs if name != "pooler"], quote_via=quote)
    return urlunsplit(parts._replace(query=query)), pooler


def _values(url: str) -> dict[str, Any]:
    try:
        return conninfo.conninfo_to_dict(url)
    except psycopg.Error:  # its text may hold the password
        raise SettingsProblem(
            "The setting database is no address of PostgreSQL: write postgresql://USER@HOST/NAME, with special characters "
            "percent-encoded."
        ) from None


def _check_encryption(values: dict[str, Any]) -> None:
    hosts = str(values.get("hostaddr") or values.get("host") or os.environ.get("PGHOST") or "").split(",")
    mode = values.get("sslmode") or os.environ.get("PGSSLMODE")
    remote = [host for host in hosts if not _is_on_this_machine(host)]
    if remote and mode != "verify-full":
        raise SettingsProblem(
            f"The database's machine {remote[0]} is another one: add sslmode=verify-full and sslrootcert=FILE (or system) to "
            "the setting database, so that jobs travel encrypted and to nobody else."
        )


def _is_on_this_machine(host: str) -> bool:
    """Whether a host is a Unix socket, or this machine by its loopback address."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
