"""`batch doctor` with the real libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_doctor_names_each_problem_with_its_remedy(tmp_path: Path) -> None:
    environment = {**os.environ, "BATCH_MODELS_DIR": str(tmp_path / "models"), "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, "-c", "from batch.cli.app import main; main()", "doctor", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert {
        "Python",
        "SQLite",
        "libraries",
        "llama.cpp",
        "whisper.cpp",
        "modules of the service",
        "modules of speech",
        "graphics",
        "port of vlm",
        "model for stt",
        "home",
        "models folder",
    } <= set(findings)
    libraries = ("llama.cpp", "whisper.cpp", "modules of the service", "modules of chat and embeddings", "modules of speech")
    assert [findings[name]["state"] for name in libraries if not findings[name]["ok"]] == []
    assert "computes here" in findings["llama.cpp"]["state"]
    assert "batch models pull whisper-large-v3-turbo" in findings["model for stt"]["remedy"]
    assert all(finding["ok"] == (not finding["remedy"]) for finding in findings.values())
