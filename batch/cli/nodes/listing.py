"""`batch nodes` and `batch drain`: the workers that take jobs of this home's database, here and on other machines."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from batch.cli.app import Json, app
from batch.cli.home import Home, open_store
from batch.cli.output import duration, print_json, print_line, safe_line
from batch.errors import NotFound
from batch.queue.nodes import SHOWN_NODE_CHARS, Node
from batch.queue.store import Store

NodeId = Annotated[str, typer.Argument(metavar="NODE", help="A node's id, or the beginning of it.")]


@app.command()
def nodes(
    home: Home = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many.")] = 1000,
    as_json: Json = False,
) -> None:
    """List the workers: what each serves, how many jobs it holds, and when it was last heard of."""
    with open_store(home, readonly=True) as store:
        nodes = store.nodes()
        lag_matters = store.is_shared
        silent_after_s = store.lease_s if lag_matters else math.inf
    if as_json:
        print_json([_as_record(node) for node in nodes[:limit]])
        return
    if not nodes:
        print_line("No worker is there: start `batch serve`, or `batch worker` on a machine with a model.")
    for node in nodes[:limit]:
        heard = f"  heard of {duration(node.beat_age_s)} ago" if lag_matters else ""
        print_line(
            f"{node.id[:SHOWN_NODE_CHARS]}  {node.queue:9}  {node.state(silent_after_s):9}  {_leases(node)}  "
            f"{'interactive only  ' if node.takes == 'interactive' else ''}"
            f"{safe_line(node.build or node.model or node.error or '')}{heard}"
        )
    if len(nodes) > limit:
        print_line(f"and {len(nodes) - limit} more: --limit shows more than {limit}")


@app.command()
def drain(
    node: NodeId,
    home: Home = None,
    undo: Annotated[bool, typer.Option("--undo", help="Let it take jobs again.")] = False,
    as_json: Json = False,
) -> None:
    """Let a worker end what it has and take nothing new: it hears of it within seconds."""
    with open_store(home) as store:
        target = _find(store, node)
        store.drain(target.id, on=not undo)
        drained = next((one for one in store.nodes() if one.id == target.id), target)
    if as_json:
        print_json(_as_record(drained))
    elif undo:
        print_line(f"{target.id[:SHOWN_NODE_CHARS]} ({target.queue}) takes jobs again.")
    else:
        print_line(f"{target.id[:SHOWN_NODE_CHARS]} ({target.queue}) takes nothing new; it holds {_leases(drained)}.")


def _find(store: Store, part: str) -> Node:
    matching = [node for node in store.nodes() if node.id.startswith(part)]
    if len(matching) != 1:
        raise NotFound(f"{'More than one node' if matching else 'No node'} begins with {part}: `batch nodes` lists them.")
    return matching[0]


def _leases(node: Node) -> str:
    return f"{node.leases} {'job' if node.leases == 1 else 'jobs'}"


def _as_record(node: Node) -> dict[str, str | int | float | bool]:
    return {
        "id": node.id,
        "kind": str(node.kind),
        "queue": str(node.queue),
        "status": node.status,
        "model": node.model,
        "build": node.build,
        "version": node.version,
        "error": node.error,
        "started_at": node.started_at,
        "heard_of_s": round(node.beat_age_s, 3),
        "leases": node.leases,
        "is_draining": node.is_draining,
        "takes": node.takes,
    }
