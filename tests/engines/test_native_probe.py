"""The probe that set-up and `batch doctor` run: it computes with this build on this machine."""

from __future__ import annotations

import subprocess
import sys

from paths import ROOT


def test_the_probe_of_the_installed_library_computes_here() -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "batch" / "workers" / "llama" / "probe.py")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "computes\n"), done.stderr
