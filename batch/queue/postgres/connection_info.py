"""A connection to Postgres from its address: who may be trusted on the way, and how soon a cut line is noticed."""

from __future__ import annotations

import ipaddress
import os
from itertools import zip_longest
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from batch.errors import SettingsProblem
from batch.queue.nodes import LEASE_S

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
_SERVER_SIDE = (
    "-c tcp_keepalives_idle=2 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3 -c tcp_user_timeout=4000 "
    "-c idle_in_transaction_session_timeout=10000"
)
"""The server notices as well, or a client that is gone would hold its transaction's locks for two hours; one that is frozen
in the middle of a transaction loses it after ten seconds. A pooler has such settings of its own, and takes none of ours."""
_OWN_PARAMETERS = ("pooler", "lease")
"""Of an address: ours, which PostgreSQL's library does not know."""
_NO_ADDRESS = (
    "The setting database is no address of PostgreSQL: write postgresql://USER@HOST/NAME, with special characters in "
    "percent-encoding."
)
MIN_LEASE_S, MAX_LEASE_S = 2.0, 600.0


def connect(url: str, *, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
    """Open a connection. Raises SettingsProblem for an address that is none or that is not safe, and psycopg's errors.

    With `pooler=transaction` in the address nothing is prepared, as the next transaction may have another connection.
    """
    url, own = _without_own_parameters(url)
    values = _values(url)
    _check_encryption(values)
    options: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "batch", **_KEEPALIVE}
    if values.get("sslmode", os.environ.get("PGSSLMODE")) == "verify-full":
        options["gssencmode"] = "disable"  # or a ticket of Kerberos would take the place of TLS
    options = {name: value for name, value in options.items() if name not in values}
    if own.get("pooler") == "transaction":
        options["prepare_threshold"] = None
    else:
        options["options"] = f"{_SERVER_SIDE} {values.get('options') or os.environ.get('PGOPTIONS', '')}".strip()
    try:
        return psycopg.connect(url, autocommit=autocommit, client_encoding="UTF8", **options)
    except psycopg.OperationalError as error:
        if "startup parameter" not in str(error) or "options" not in options:
            raise
        del options["options"]  # a pooler that the address does not tell of
        return psycopg.connect(url, autocommit=autocommit, client_encoding="UTF8", **options)


def check_address(url: str) -> None:
    """Raise SettingsProblem for an address that is none, or that would send jobs over an open line."""
    lease_of(url)
    url, own = _without_own_parameters(url)
    pooler = own.get("pooler", "")
    if pooler not in ("", "transaction"):
        raise SettingsProblem(f"pooler={pooler[:40]} in the setting database is not known: write pooler=transaction.")
    _check_encryption(_values(url))


def lease_of(url: str) -> float:
    """How many seconds a worker's hold on a job lasts unless it is renewed: `lease=SECONDS` in the address, which all who
    share the database write alike. Raises SettingsProblem."""
    _, own = _without_own_parameters(url)
    if not own.get("lease"):
        return LEASE_S
    try:
        seconds = float(own["lease"])
    except ValueError:
        seconds = 0.0
    if not MIN_LEASE_S <= seconds <= MAX_LEASE_S:
        raise SettingsProblem(
            f"lease={own['lease'][:40]} in the setting database is no number of seconds from {MIN_LEASE_S:.0f} to "
            f"{MAX_LEASE_S:.0f}."
        )
    return seconds


def is_pooled(url: str) -> bool:
    """Whether an address says that it leads to a pooler, where connections change hands with each transaction."""
    return _without_own_parameters(url)[1].get("pooler") == "transaction"


def _without_own_parameters(url: str) -> tuple[str, dict[str, str]]:
    """The address as PostgreSQL's library knows it, and our own parameters."""
    url = url.replace("#", "%23")  # no mark of a fragment there
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return url, {}
    own = {name: value for name, value in pairs if name in _OWN_PARAMETERS}
    if not own:
        return url, {}
    query = urlencode([(name, value) for name, value in pairs if name not in own], quote_via=quote)
    return urlunsplit(parts._replace(query=query)), own


def _values(url: str) -> dict[str, Any]:
    try:
        values = conninfo.conninfo_to_dict(url)
    except psycopg.Error:  # its text may hold the password
        raise SettingsProblem(_NO_ADDRESS) from None
    # What somebody forgot to encode of a password is taken for a part of what follows it, and would stand in a message.
    hosts, ports, database = (str(values.get(name) or "") for name in ("host", "port", "dbname"))
    if "@" in database or any("@" in host and not host.startswith("@") for host in hosts.split(",")):
        raise SettingsProblem(_NO_ADDRESS)
    if not all(port.isdecimal() or not port for port in ports.split(",")):
        raise SettingsProblem(_NO_ADDRESS)
    return values


def _check_encryption(values: dict[str, Any]) -> None:
    if values.get("service") or os.environ.get("PGSERVICE"):
        # Its file may name another machine and another sslmode, and is read at each connection: only the address is stronger.
        if values.get("sslmode") != "verify-full":
            raise SettingsProblem(
                "The database's machine is named in a service file: add sslmode=verify-full and sslrootcert=FILE (or system) "
                "to the setting database itself, or name the machine there instead of the service."
            )
        return
    remote = [host for host in _hosts(values) if not _is_on_this_machine(host)]
    mode = values.get("sslmode") or os.environ.get("PGSSLMODE")
    if remote and mode != "verify-full":
        raise SettingsProblem(
            f"The database's machine {remote[0]} is another one: add sslmode=verify-full and sslrootcert=FILE (or system) to "
            "the setting database, so that jobs travel encrypted and to nobody else."
        )


def _hosts(values: dict[str, Any]) -> list[str]:
    """Where PostgreSQL's library would dial, each by its address where one is given."""
    names = str(values.get("host") or os.environ.get("PGHOST") or "").split(",")
    addresses = str(values.get("hostaddr") or os.environ.get("PGHOSTADDR") or "").split(",")
    return [address or name for name, address in zip_longest(names, addresses, fillvalue="")]


def _is_on_this_machine(host: str) -> bool:
    """Whether a host is a Unix socket, or this machine by its loopback address."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
