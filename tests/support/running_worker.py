"""A real `batch worker` process with a home of its own, as on a machine of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from running_service import WEIGHTLESS, wait_until


class RunningWorker:
    """One agent and its worker; `children` are the pids of what it started."""

    def __init__(
        self,
        home: Path,
        kind: str,
        url: str,
        variables: Mapping[str, str] = WEIGHTLESS,
        options: Sequence[str] = (),
        *,
        prefix: tuple[str, ...] = (),
    ) -> None:
        """`prefix`: a command that runs it in its place, say in a namespace of its own."""
        home.mkdir(exist_ok=True)
        self.home = home
        self.output = ""
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("BATCH_")},
            **variables,
            "BATCH_DATABASE": url,
            "BATCH_HOME": str(home),
        }
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "batch", "worker", kind, *options],
            env=environment,
            cwd="/",
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
        self.process.stdout.close()

    def signal_all(self, number: signal.Signals) -> None:
        """To the agent and its worker at once, as if the machine lost its power, or froze."""
        os.killpg(self.process.pid, number)

    def stop(self) -> int:
        """SIGTERM, as a person ends it; its exit status."""
        self.process.terminate()
        wait_until(lambda: self.process.poll() is not None, f"ends\n{self.output}")
        self._reader.join(5)
        return int(self.process.returncode)

    def close(self) -> None:
        """End it in any case."""
        if self.process.poll() is None:
            self.signal_all(signal.SIGCONT)
            self.signal_all(signal.SIGKILL)
            self.process.wait(30)
        self._reader.join(5)
