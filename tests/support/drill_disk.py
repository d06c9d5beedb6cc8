"""A service one of whose folders lies on a disk of a few megabytes, in a mount namespace of its own."""

from __future__ import annotations

import functools
import os
import resource
import subprocess
from pathlib import Path

from running_service import WEIGHTLESS, RunningService

_MOUNT = 'd="$1"; shift; mount -t tmpfs -o "size=$1" tmpfs "$d" && shift && exec "$@"'


@functools.cache
def mounting() -> tuple[str, ...] | None:
    """The command that gives a process mounts of its own, as root or as anybody; None where that is not allowed."""
    for command in (("unshare", "-m"), ("unshare", "-rm")):
        try:
            probe = subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if probe.returncode == 0:
            return command
    return None


class SmallDisk(RunningService):
    """A service with a tmpfs over `folder` of its home; only it and its workers see that."""

    def __init__(self, home: Path, folder: str, size: str, **variables: str) -> None:
        super().__init__(home, {**WEIGHTLESS, **variables})
        disk = home / folder
        disk.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.prefix = (*(mounting() or ()), "sh", "-c", _MOUNT, "sh", os.fspath(disk), size)

    @property
    def disk(self) -> Path:
        """The folder as the service sees it."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root{self.home}") / self._folder

    def fill(self) -> None:
        """Leave not a byte."""
        size = 1 << 16
        with (self.disk / ".filler").open("ab", buffering=0) as filler:
            while size:
                try:
                    if filler.write(b"x" * size) < size:
                        size //= 2
                except OSError:
                    size //= 2

    def free(self) -> None:
        (self.disk / ".filler").unlink(missing_ok=True)

    def inside(self, *command: str) -> str:
        """What a command prints that sees the disk as the service does."""
        assert self.process is not None
        user = ["-U", "--preserve-credentials"] if "-rm" in self.prefix else []
        return subprocess.run(
            ["nsenter", "-t", str(self.process.pid), "-m", *user, *command],
            check=True,
            timeout=60,
            capture_output=True,
            text=True,
            env=self._environment,
        ).stdout

    def remount(self, options: str) -> None:
        # Named in full, so that mount adds no options of its own, some of which only root may give.
        self.inside("mount", "-t", "tmpfs", "-o", f"remount,{options}", "tmpfs", os.fspath(self.home / self._folder))


def refuse_writes(pid: int) -> None:
    """From now on every write to a file of this process fails, with an error that is not "no space left"."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def allow_writes(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
