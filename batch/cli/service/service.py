"""`batch install-service` and `uninstall-service`: the service started at log-in and kept running by the system."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batch.cli.app import Home, Json, app
from batch.cli.output import print_json
from batch.errors import BadRequest, BatchError, Conflict, NotFound

if TYPE_CHECKING:
    from batch.settings import Settings

Name = Annotated[str, typer.Option(help="Name of the unit; another home on this machine needs another one.")]

KILL_MARGIN_S = 20
"""Beyond the grace time, until the system kills: workers get 5 seconds of their own, writing results needs some."""

KEPT_VARIABLES = ("XDG_CACHE_HOME", "HF_ENDPOINT", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
KEPT_PREFIXES = ("CUDA_", "HIP_", "ROCR_", "GGML_", "LLAMA_", "OMP_")
"""What decides where models, sockets, libraries and graphics cards are found; a service starts without the shell's."""


@dataclass(frozen=True, slots=True)
class Manager:
    """What starts services for a user: where its file lies, and the commands that make it take notice."""

    file: Path
    text: str
    enable: tuple[tuple[str, ...], ...]
    disable: tuple[tuple[str, ...], ...]
    after_removal: tuple[tuple[str, ...], ...] = ()


@app.command("install-service")
def install_service(
    home: Home = None,
    profile: Annotated[str | None, typer.Option(help="Which models: default or starter.")] = None,
    name: Name = "batch",
    only_print: Annotated[bool, typer.Option("--print", help="Print the unit and write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Write and enable a systemd user unit (launchd on macOS) that runs `batch serve` from now on."""
    from batch.cli.models import service
    from batch.settings import Settings

    settings = Settings.load(home, {"profile": profile} if profile is not None else None)
    manager = _manager(name, settings, profile)
    if only_print:
        if as_json:
            print_json({"file": str(manager.file), "text": manager.text})
        else:
            print(manager.text, end="")
        return
    _refuse_another_home(manager.file, settings.home, name)
    running = service(settings)
    if running and not manager.file.exists():
        raise Conflict(f"batch runs in {settings.home} already (pid {running['pid']}): stop it, then install the service.")
    manager.file.parent.mkdir(parents=True, exist_ok=True)
    manager.file.write_text(manager.text, "utf-8")
    forgotten = sorted(k for k in os.environ if k.startswith("BATCH_") and k != "BATCH_HOME")
    if forgotten:
        print(
            f"The service will not know {', '.join(forgotten)} from this shell: write such settings into "
            f"{settings.home / 'batch.toml'}.",
            file=sys.stderr,
        )
    problem = _run(manager.enable)
    if problem:
        orders = " && ".join(" ".join(order) for order in manager.enable)
        raise BatchError(f"{manager.file} is written, but could not be enabled ({problem}): run `{orders}` once logged in.")
    if as_json:
        print_json({"file": str(manager.file), "home": str(settings.home), "enabled": True})
        return
    print(f"{manager.file} is enabled: batch runs in {settings.home} from now on; `batch logs -f` shows what it says.")
    if sys.platform != "darwin":
        print("It ends with your last session, unless you run `loginctl enable-linger` once.")


@app.command("uninstall-service")
def uninstall_service(name: Name = "batch", as_json: Json = False) -> None:
    """Stop and disable what `install-service` made; the home with its jobs and results stays."""
    manager = _manager(name, None, None)
    if not manager.file.exists():
        raise NotFound(f"There is no {manager.file}: nothing is installed under the name {name}.")
    problem = _run(manager.disable)
    manager.file.unlink()
    if sys.platform != "darwin":
        (manager.file.parent / "default.target.wants" / manager.file.name).unlink(missing_ok=True)
    problem = _run(manager.after_removal) or problem
    if as_json:
        print_json({"file": str(manager.file), "removed": True})
    else:
        print(f"{manager.file} is removed.")
    if problem:
        raise BatchError(f"Whether the service still runs could not be told ({problem}): see `batch status`.")


def _manager(name: str, settings: Settings | None, profile: str | None) -> Manager:
    if not name or len(name) > 100 or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
        raise BadRequest(f"--name may hold letters, digits, - and _ only, not {name!r}.")
    if sys.platform == "darwin":
        file = _user_home() / "Library" / "LaunchAgents" / f"batch.{name}.plist"
        domain = f"gui/{os.getuid()}"
        return Manager(
            file,
            launchd(name, settings, profile) if settings else "",
            (("launchctl", "bootstrap", domain, str(file)),),
            (("launchctl", "bootout", f"{domain}/batch.{name}"),),
        )
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or _user_home() / ".config")
    control = ("systemctl", "--user")
    unit = f"{name}.service"
    return Manager(
        configuration / "systemd" / "user" / unit,
        systemd(settings, profile) if settings else "",
        ((*control, "daemon-reload"), (*control, "enable", unit), (*control, "restart", unit)),
        ((*control, "disable", "--now", unit),),
        ((*control, "daemon-reload"),),
    )


def _user_home() -> Path:
    """Where this user's unit files lie; raises BadRequest where that is not known."""
    try:
        return Path.home()
    except RuntimeError:
        raise BadRequest("This user has no home folder for a service's file: set HOME.") from None


def systemd(settings: Settings, profile: str | None = None) -> str:
    """The unit's text."""
    # The colon: no variables are put into the command, so a $ in a path is one.
    command = ":" + " ".join(_quoted(word) for word in _command(settings, profile))
    # A path that ends in a space or a backslash would lose it.
    directory = _specifiers(str(settings.home)).rstrip("/") + "/"
    environment = " ".join(_quoted(f"{key}={value}") for key, value in _environment().items())
    return f"""\
# Written by `batch install-service`, which writes it anew; `batch uninstall-service` removes it.
[Unit]
Description=batch: a task queue around three models, in {_specifiers(str(settings.home)).replace(chr(92), "/")}
# What cannot start (a port in use, another batch in this home) is not tried for ever.
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
Type=exec
ExecStart={command}
WorkingDirectory={directory}
Environment={environment}
UMask=0077
Restart=on-failure
RestartSec=10
# The service itself tells its workers to end: jobs get queue.grace to end before they are put back.
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec={round(settings.queue.grace) + KILL_MARGIN_S}
# A worker that takes too much memory is started again by the service.
OOMPolicy=continue

[Install]
WantedBy=default.target
"""


def launchd(name: str, settings: Settings, profile: str | None = None) -> str:
    """The property list's text."""
    import plistlib

    return plistlib.dumps(
        {
            "Label": f"batch.{name}",
            "ProgramArguments": _command(settings, profile),
            "WorkingDirectory": _plain(str(settings.home)),
            "EnvironmentVariables": _environment(),
            "RunAtLoad": True,
            # A breakdown exits with status 70, which is no crash to launchd. It cannot tell that from what a person must mend.
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 10,
            "ExitTimeOut": round(settings.queue.grace) + KILL_MARGIN_S,
            "Umask": 0o077,
            "ProcessType": "Interactive",
        }
    ).decode()


def _command(settings: Settings, profile: str | None) -> list[str]:
    # -P: files in the home must not pass for Python's modules.
    words = [sys.executable, "-P", "-m", "batch", "serve", "--home", str(settings.home)]
    return [_plain(word) for word in (*words, *(("--profile", profile) if profile is not None else ()))]


def _environment() -> dict[str, str]:
    """For the service's own processes: no module out of the home, batch found where it is now, and of this shell what
    decides where things lie."""
    import batch

    environment = {"PYTHONSAFEPATH": "1"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    lookup = subprocess.run(
        [sys.executable, "-P", "-c", "import batch; print(batch.__file__)"],
        env=clean,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if lookup.stdout.strip() != str(batch.__file__):
        environment["PYTHONPATH"] = _plain(str(Path(batch.__file__).parent.parent))
    for name, value in sorted(os.environ.items()):
        if value and (name in KEPT_VARIABLES or name.startswith(KEPT_PREFIXES)):
            environment[name] = _plain(value)
    home = os.environ.get("HOME")
    if home and home != _home_of_user():  # the system would set it to the user's own
        environment["HOME"] = _plain(home)
    return environment


def _home_of_user() -> str | None:
    """The home folder that the system's list of users names."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None


def _plain(text: str) -> str:
    if not text.isprintable():  # newlines and other control characters, bytes that are no UTF-8
        raise BadRequest(f"{text!r} has characters that a service's file cannot hold: use another home or value.")
    return text


def _specifiers(text: str) -> str:
    return _plain(text).replace("%", "%%")


def _quoted(text: str) -> str:
    """A word as systemd reads it back."""
    return '"' + _specifiers(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _refuse_another_home(file: Path, home: Path, name: str) -> None:
    try:
        unit = file.read_text("utf-8")
    except FileNotFoundError:
        return
    if file.suffix == ".plist":
        import plistlib

        other = str(plistlib.loads(unit.encode()).get("WorkingDirectory", ""))
    else:
        lines = (line.partition("=") for line in unit.splitlines())
        other = next((value for key, _, value in lines if key == "WorkingDirectory"), "").replace("%%", "%")
    if other.rstrip("/") != str(home).rstrip("/"):
        raise Conflict(
            f"{file} serves {other.rstrip('/')} already: remove it with `batch uninstall-service --name {name}`, "
            "or give this one another --name."
        )


def _run(orders: tuple[tuple[str, ...], ...]) -> str:
    """Why the first order failed that did; empty when all went well."""
    for order in orders:
        try:
            done = subprocess.run(order, capture_output=True, text=True, timeout=120, check=False)
        except FileNotFoundError:
            return f"there is no {order[0]} here"
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            return lines[0] if lines else f"{order[0]} ended with status {done.returncode}"
    return ""
