"""What would keep a shared database from being what batch promises of it, and its workers from working."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from batch.cli.doctor.finding import Finding
from batch.cli.output import duration
from batch.database_address import without_password
from batch.errors import BatchError
from batch.model_kind import kind_of, model_of
from batch.queue.nodes import NodeOverview, QueueNodes

if TYPE_CHECKING:
    from batch.queue.postgres.inspection.server_state import ServerState
    from batch.settings import Settings

MIN_SERVER_VERSION = 130000
MAX_CLOCK_DIFFERENCE_S = 5.0
OLD_TRANSACTION_S = 60.0
"""A transaction that is open for longer keeps rows that others have deleted, and each take walks past those."""
FULL_SHARE = 0.8
"""Of the connections that a server takes: with more in use, the next machine may be turned away."""


def check_shared_database(settings: Settings) -> Iterator[Finding]:
    """The server at the home's address, this role's rights, and the workers of all machines."""
    try:
        from batch.queue.postgres.connection_info import check_address

        check_address(settings.database)  # it says so where the driver is missing
        from batch.queue.postgres.inspection.server_state import read_server_state

        state = read_server_state(settings.database, settings.listen_database)
    except BatchError as problem:  # the driver is missing, the address is none, or nobody answers there
        yield Finding("database", problem.message, "Mend what it says.")
        return
    yield from judge_server(state, without_password(settings.database))
    if state.rights not in ("owner", "front") or state.version_number < MIN_SERVER_VERSION:
        return
    from batch.queue.open_store import open_store

    try:
        with closing(open_store(settings.database, home=settings.home, readonly=True)) as store:
            overview = store.overview() if state.schema_version else None
    except BatchError as problem:
        yield Finding("workers", problem.message, "Mend what it says.")
        return
    if overview is not None:
        own = {str(queue) for queue in settings.queues if model_of(queue) or settings.model_of(kind_of(queue)).model != "none"}
        yield from judge_workers(overview, own)


def judge_server(state: ServerState, address: str) -> Iterator[Finding]:
    """`address`: as people may see it."""
    yield Finding(
        "database",
        f"{address} answers: PostgreSQL {state.version}, schema {state.schema_version}",
        _server_remedy(state),
    )
    yield _line(state)
    yield _role(state)
    yield _notifications(state)
    yield _durability(state)
    yield _clock(state.clock_difference_s)
    yield _transactions(state)
    used = f"{state.connections} of {state.max_connections} connections are in use"
    is_full = state.connections >= FULL_SHARE * state.max_connections
    remedy = "Raise max_connections, or put a pooler before it for the workers' statements (docs/scale-out.md)."
    yield Finding("database connections", used, remedy if is_full else "")
    if state.rights in ("owner", "front"):
        held = f"{state.late_leases} {'lease' if state.late_leases == 1 else 'leases'} ran out and nobody put the jobs back"
        yield Finding(
            "leases",
            held if state.late_leases else "none is free",
            "Start a front or a worker: each of them puts such jobs back." if state.late_leases else "",
        )


def _server_remedy(state: ServerState) -> str:
    if state.version_number < MIN_SERVER_VERSION:
        return "Upgrade PostgreSQL to 13 or newer, or name another database."
    if state.is_standby:
        return "It is a standby, which takes no writes: name the primary too, and add target_session_attrs=read-write."
    if state.schema_version > state.known_schema_version:
        return "A newer batch has written it: upgrade batch here."
    if 0 < state.schema_version < state.known_schema_version:
        return "It is of an older batch: its owner runs `batch database migrate`, or starts `batch serve` once."
    return ""


def _line(state: ServerState) -> Finding:
    if state.is_encrypted:
        return Finding("database line", "encrypted")
    if state.is_on_this_machine:
        return Finding("database line", "stays on this machine")
    return Finding("database line", "open to all who listen", "Add sslmode=verify-full and sslrootcert=FILE to the address.")


def _role(state: ServerState) -> Finding:
    words = {
        "owner": "owns the tables",
        "front": "may do what a front does",
        "worker": "may do what a worker does, and no more",
        "empty": "may make the tables",
        "none": "may do nothing here",
    }
    said = f"{state.role} {words[state.rights]}" + (", and is a superuser, which batch needs not" if state.is_superuser else "")
    if state.rights == "none":
        return Finding("database role", said, "Its owner runs `batch database grant`, or creates the tables by `batch serve`.")
    if state.rights == "worker":
        remedy = "`batch serve` and the other commands need a front's role; this one is for `batch worker`."
        return Finding("database role", said, remedy)
    return Finding("database role", said)


def _notifications(state: ServerState) -> Finding:
    if state.hears_notifications:
        return Finding("notifications", "what is notified is heard")
    cause = "the address leads to a pooler, which lets none through" if state.is_pooled else "what is notified is not heard"
    return Finding("notifications", cause, "Set listen_database to an address that leads to the database itself.")


def _durability(state: ServerState) -> Finding:
    switched_off = [
        name
        for name, is_on in (
            ("fsync", state.has_fsync),
            ("full_page_writes", state.has_full_page_writes),
            ("synchronous_commit", state.has_synchronous_commit),
        )
        if not is_on
    ]
    if switched_off:
        verb = "is" if len(switched_off) == 1 else "are"
        state_text = f"{' and '.join(switched_off)} {verb} off: what was accepted may be lost with the server's power"
        return Finding("durability", state_text, f"Set {' and '.join(switched_off)} to on in postgresql.conf.")
    return Finding("durability", "what is committed is on the server's disk")


def _clock(difference_s: float) -> Finding:
    direction = "ahead of" if difference_s > 0 else "behind"
    said = f"the database's is {duration(abs(difference_s))} {direction} this machine's"
    is_off = abs(difference_s) > MAX_CLOCK_DIFFERENCE_S
    return Finding("clocks", said, "Have both follow a time server: times that people read are off by it." if is_off else "")


def _transactions(state: ServerState) -> Finding:
    if not state.has_autovacuum:
        return Finding("dead rows", "autovacuum is off: each take walks past all rows that ever were", "Set autovacuum to on.")
    if state.oldest_transaction_s > OLD_TRANSACTION_S:
        said = f"{state.oldest_transaction or 'a program'} has a transaction open for {duration(state.oldest_transaction_s)}"
        return Finding(
            "dead rows",
            f"{said}: it keeps rows that are deleted, and each take walks past those",
            "End it (`select pg_terminate_backend(…)`), and let long reports run on a standby.",
        )
    hidden = (
        f", but {state.hidden_sessions} sessions are not shown to {state.role} (pg_monitor is)" if state.hidden_sessions else ""
    )
    return Finding("dead rows", f"no transaction is open for longer than a minute{hidden}")


def judge_workers(overview: NodeOverview, own: set[str]) -> Iterator[Finding]:
    """`own`: the queues that this home's service computes by itself."""
    errors = {node.queue: node.error for node in reversed(overview.nodes) if node.status == "failed" and node.error}
    for queue in overview.queues:
        yield _workers(queue, errors.get(queue.queue, ""), is_own=queue.queue in own)


def _workers(queue: QueueNodes, error: str, *, is_own: bool) -> Finding:
    subject = f"workers for {queue.queue}"
    parts = [f"{count} {state}" for state, count in queue.states.items()]
    if queue.oldest_wait_s is not None:
        parts.append(f"the oldest job waits {duration(queue.oldest_wait_s)}")
    if queue.builds > 1:
        parts.append(f"{queue.builds} builds, so that a second attempt may draw other tokens")
    said = ", ".join(parts) or ("none until this home's service runs" if is_own else "none")
    if queue.states.get("failed"):
        return Finding(subject, said + (f" ({error})" if error else ""), "Mend what the worker says, on its machine.")
    if not queue.states.get("ready") and not is_own:
        name = (
            f"a service whose settings have [models.{model_of(queue.queue)}]"
            if model_of(queue.queue)
            else (f"`batch worker {queue.queue}` on a machine with its model")
        )
        return Finding(subject, said, f"None is ready: start {name}.")
    if queue.states.get("silent"):
        return Finding(subject, said, "Look after the machines of the silent ones; their jobs went to others.")
    if queue.builds > 1:
        return Finding(subject, said, "Give all of them the same model file, version of batch and kind of device.")
    return Finding(subject, said)
