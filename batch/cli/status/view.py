"""The parts of what `batch status` shows, for people."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from batch.cli.output import duration, safe_line
from batch.queue.nodes import SHOWN_NODE_CHARS, TOLD_CLOCK_DIFFERENCE_S
from batch.service_status import ModelStatus, NamedModelStatus, NodesStatus, RunningJobRow, ServiceStatus


def title(state: ServiceStatus) -> str:
    """Whether the service runs, and where."""
    if not state["running"]:
        return f"batch is not running in {state['home']}: start it with `batch serve`."
    return (
        f"batch {state['version']} is running (pid {state['pid']}, up {duration(state['uptime'] or 0.0)}, "
        f"profile {state['profile']}) in {state['home']}"
    )


def status_table(state: ServiceStatus) -> Table:
    """A line for each model: what it does now, what waits, how fast it is, how long that takes."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in ("", "model", "state", "now", "queued", "today", "speed", "left"):
        table.add_column(heading, overflow="fold" if heading in ("now", "queued") else "ellipsis", no_wrap=heading == "")
    for kind, model in state["models"].items():
        cells = (
            f"{kind} :{model['port']}" if model["port"] else kind,
            model["model"] or "-",
            model["status"],
            running_text(model["running"]),
            queued_text(model),
            today_text(model),
            _pace_text(model),
            _left_text(model),
        )
        table.add_row(*(Text(safe_line(cell)) for cell in cells))
    for name, named in state["named_models"].items():
        cells = (
            f"{named['kind']} {name}",
            named["model"] or "-",
            named["status"],
            f"{named['running']} running" if named["running"] else "",
            f"{named['queued']} waiting" if named["queued"] else "-",
            today_text(named),
            _pace_text(named),
            _left_text(named),
        )
        table.add_row(*(Text(safe_line(cell)) for cell in cells))
    return table


def today_text(model: ModelStatus | NamedModelStatus) -> str:
    """How many jobs of a model ended today, and how."""
    return f"{model['done_today']} done" + (f", {model['failed_today']} failed" if model["failed_today"] else "")


def _pace_text(model: ModelStatus | NamedModelStatus) -> str:
    return f"{model['seconds_a_job']:.2f} s each" if model["seconds_a_job"] is not None else "-"


def _left_text(model: ModelStatus | NamedModelStatus) -> str:
    return duration(model["eta_seconds"]) if model["eta_seconds"] is not None else "-"


def node_lines(nodes: NodesStatus) -> Iterator[str]:
    """The workers of all machines: a line for each queue, one for each of the first workers, and how many more there are."""
    yield f"nodes: {nodes['count']}" if nodes["count"] else "nodes: none: start `batch worker` on a machine with a model"
    for name, queue in nodes["queues"].items():
        parts = [f"{queue[state]} {state}" for state in ("ready", "loading", "draining", "silent", "failed") if queue[state]]
        wait = queue["oldest_wait_s"]
        if not parts and wait is None:
            continue
        lag = [f"the oldest waits {duration(wait)}"] if wait is not None else []
        yield f"  {name}: {', '.join(parts) or 'no worker'}; {_jobs_text(queue['jobs'])}" + "".join(f"; {part}" for part in lag)
    for node in nodes["first"]:
        takes = "interactive only  " if node["takes"] == "interactive" else ""
        yield (
            f"  {node['id'][:SHOWN_NODE_CHARS]:8}  {node['queue']:9}  {node['state']:8}  {_jobs_text(node['jobs']):7}  "
            f"heard of {duration(node['heard_of_s'])} ago  {takes}{node['build'] or node['model'] or node['error']}"
        )
    if nodes["count"] > len(nodes["first"]):
        yield f"  and {nodes['count'] - len(nodes['first'])} more: `batch nodes` lists all"
    if abs(nodes["clock_difference_s"]) >= TOLD_CLOCK_DIFFERENCE_S:
        direction = "ahead of" if nodes["clock_difference_s"] > 0 else "behind"
        yield f"  the database's clock is {duration(abs(nodes['clock_difference_s']))} {direction} this machine's"


def _jobs_text(count: int) -> str:
    return f"{count} {'job' if count == 1 else 'jobs'}"


def queued_text(model: ModelStatus) -> str:
    """What waits for a model, by class, and which classes are held back."""
    paused = model["paused"]
    waiting = [f"{n} {name}{' (paused)' if name in paused else ''}" for name, n in model["queued"].items() if n]
    idle = [f"{name} paused" for name in paused if not model["queued"].get(name)]
    return ", ".join(waiting + idle) or "-"


def running_text(running: RunningJobRow | None) -> str:
    """The job that a model works on: what, how far, for how long."""
    if running is None:
        return "idle"
    progress = running["progress"] or {}
    share = f" {100 * progress['done'] / progress['total']:.0f} %" if progress.get("total") else ""
    return (
        f"{running['source'] or running['task']}{share}, {duration(max(0.0, time.time() - (running['since'] or time.time())))}"
    )


def problem_lines(state: ServiceStatus) -> Iterator[str]:
    """What is wrong with a model, or was done to make it fit, a sentence each."""
    for kind, model in state["models"].items():
        for sentence in (model["error"], model["note"]):
            if sentence:
                yield f"{kind}: {sentence}"
    for name, named in state["named_models"].items():
        for sentence in (named["error"], named["note"]):
            if sentence:
                yield f"{name}: {sentence}"


def inbox_line(state: ServiceStatus) -> str:
    """How many files of the inbox are in which state."""
    inbox = state["inbox"]
    hint = ": `batch files --state failed` says why" if inbox["failed"] else ""
    return (
        f"inbox: {inbox['waiting']} waiting, {inbox['done']} done, {inbox['linked']} the same as another, "
        f"{inbox['failed']} failed{hint}"
    )
