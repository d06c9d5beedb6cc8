"""`batch status`: works with the service down, and starts fast, as it loads neither settings nor web framework."""

from __future__ import annotations

import json
import time
from typing import Any

from batch.cli.app import Home, Json, app
from batch.cli.status_data import gather


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Show the models, the queue and the inbox."""
    found = gather(home)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if found["running"]:
        console.print(
            f"batch {found['version']} is running (pid {found['pid']}, up {duration(found['uptime'])}, "
            f"profile {found['profile']}) in {found['home']}",
            soft_wrap=True,
            markup=False,
        )
    else:
        console.print(f"batch is not running in {found['home']}: start it with `batch serve`.", soft_wrap=True, markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in ("", "model", "state", "now", "queued", "today", "speed", "left"):
        table.add_column(heading, overflow="fold" if heading in ("now", "queued") else "ellipsis", no_wrap=heading == "")
    for kind, model in found["models"].items():
        queued = ", ".join(f"{n} {name}" for name, n in model["queued"].items() if n) or "-"
        today = f"{model['done_today']} done" + (f", {model['failed_today']} failed" if model["failed_today"] else "")
        table.add_row(
            f"{kind} :{model['port']}" if model["port"] else kind,
            model["model"] or "-",
            model["status"],
            _now(model["running"]),
            queued,
            today,
            f"{model['seconds_a_job']:.2f} s each" if model["seconds_a_job"] is not None else "-",
            duration(model["eta_seconds"]) if model["eta_seconds"] is not None else "-",
        )
    console.print(table)
    for kind, model in found["models"].items():
        if model["error"]:
            console.print(f"{kind}: {model['error']}", style="red", soft_wrap=True, markup=False)
    inbox = found["inbox"]
    console.print(
        f"inbox: {inbox['waiting']} waiting, {inbox['done']} done, {inbox['linked']} the same as another, "
        f"{inbox['failed']} failed"
    )


def _now(running: dict[str, Any] | None) -> str:
    if running is None:
        return "idle"
    progress = running["progress"] or {}
    share = f" {100 * progress['done'] / progress['total']:.0f} %" if progress.get("total") else ""
    what = running["source"] or running["task"]
    return f"{what}{share}, {duration(time.time() - running['since'])}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 4 s, 3 min, 2 h 5 min, 3 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 60:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{days} d {hours % 24} h"
