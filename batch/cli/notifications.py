"""`batch notifications`: what was told to whom, and telling it again."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from batch.cli.app import Json
from batch.cli.home import Home, open_store
from batch.cli.output import print_json, print_line, print_table, short_moment

app = typer.Typer(rich_markup_mode=None, help="Webhooks and the on_event command: what was told to whom.")


@app.callback(invoke_without_command=True)
def list_by_default(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """Webhooks and the on_event command: what was told to whom; without a command, the newest are listed."""
    if context.invoked_subcommand is None:
        list_command(home=home, as_json=as_json)


@app.command("list")
def list_command(
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many, newest first.")] = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List deliveries, newest first, with their state, last status and next attempt."""
    import msgspec

    from batch.notifications.notification_store import NotificationStore

    with open_store(home, readonly=True) as store:
        notifications = NotificationStore(store)
        deliveries = notifications.newest(limit)
        urls = {target.id: target.url or target.name for target in notifications.targets()}
    if as_json:
        print_json([{**_fields(msgspec.to_builtins(one)), "url": urls.get(one.target)} for one in deliveries])
        return
    print_table(
        ("ID", "EVENT", "OBJECT", "STATE", "TRIES", "STATUS", "NEXT", "TO"),
        [
            (
                str(one.sequence),
                one.type,
                one.object,
                one.state,
                str(one.attempts),
                "-" if one.last_status is None else str(one.last_status),
                short_moment(one.next_attempt_at) if one.state == "pending" else "-",
                urls.get(one.target, one.target),
            )
            for one in deliveries
        ],
    )


@app.command("send")
def send_command(id: Annotated[int, typer.Argument(metavar="ID", min=1)], home: Home = None, as_json: Json = False) -> None:
    """Make a delivery once more, whatever became of it."""
    from batch.notifications.notification_store import NotificationStore

    with open_store(home) as store:
        delivery = NotificationStore(store).send_again(id)
    if as_json:
        print_json({"id": delivery.sequence, "state": delivery.state})
    else:
        print_line(f"{delivery.sequence}  {delivery.type}  {delivery.state}")


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    return {"id": values.pop("sequence"), **values}
